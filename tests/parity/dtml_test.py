"""V-Net, the loss of DTML and their gradients by PyTorch."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from scipy import ndimage

from multimix_jax.keys import ExampleKeys
from multimix_jax.models import VNet
from multimix_jax.objectives import DtmlObjective
from multimix_jax.state import TrainState
from tests.tiny import assert_near

torch = pytest.importorskip("torch")
torch_vnet = pytest.importorskip("benchmarks.torch_vnet")

SMALL = dict(heads=("mask", "sdf"), filters=4, convolutions=(1, 2, 2))


@functools.cache
def variables(sides):
    """Weights and statistics drawn at random, so that none is one or zero."""
    shapes = jax.eval_shape(
        VNet(**SMALL).init, jax.random.key(0), jax.ShapeDtypeStruct((1, *sides, 1), np.float32)
    )
    rng = np.random.default_rng(0)
    draw = lambda path, leaf: (
        rng.uniform(0.5, 1.5, leaf.shape)
        if path[-1].key in ("var", "scale")
        else rng.uniform(-0.4, 0.4, leaf.shape)
    ).astype(np.float32)
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("sides", [(16, 8), (8, 12, 4)])
@pytest.mark.parametrize("train", [False, True])
def test_outputs_statistics_and_gradients(sides, train):
    net, current = VNet(**SMALL), variables(sides)
    images = np.random.default_rng(1).normal(size=(3, *sides, 1)).astype(np.float32)

    @jax.jit
    def ours(params, images):
        def loss(params):
            output, updated = net.apply(
                {"params": params, "batch_stats": current["batch_stats"]},
                images,
                train=train,
                mutable=["batch_stats"],
            )
            return sum((y**3).sum() for y in output.values()), (output, updated)

        return jax.grad(loss, has_aux=True)(params)

    gradient, (output, updated) = ours(current["params"], images)
    model = torch_vnet.VNet(len(sides), **SMALL)
    torch_vnet.load_flax(model, current)
    model.double().train(train)
    want = model(torch.tensor(images).double().movedim(-1, 1))
    for head, y in output.items():
        assert_near(y, want[head].movedim(1, -1), head)
    sum((y**3).sum() for y in want.values()).backward()
    loaded = torch_vnet.VNet(len(sides), **SMALL)
    torch_vnet.load_flax(loaded, {"params": gradient, "batch_stats": updated["batch_stats"]})
    for name, got in loaded.named_parameters():
        # Batch norm of a batch takes the bias before it out: its gradient is rounding noise.
        if not (train and "_conv.bias" in name):
            assert_near(got.detach(), model.get_parameter(name).grad, name)
    if train:
        for name, got in loaded.named_buffers():
            if "running" in name:
                assert_near(got, model.get_buffer(name), name)


def torch_loss(outputs, mask, distance, sharpness, weight):
    """The loss of either network as the released code has it, but for the explicit weight.

    Args:
      outputs: of both networks for all images, labelled ones first.
      mask, distance: of the labelled.

    Returns:
      Losses of 'seg' and 'sdf'; both are sent back into both networks.
    """
    functional = torch.nn.functional
    dice = lambda p: (
        1 - (2 * (p * mask).sum((1, 2, 3, 4)) + 1e-5)
        / (p.square().sum((1, 2, 3, 4)) + mask.square().sum((1, 2, 3, 4)) + 1e-5)
    ).mean()  # fmt: skip
    soft = torch.sigmoid(outputs["seg"])
    inside = torch.sigmoid(-sharpness * outputs["sdf"])
    count = len(mask)
    entropy = functional.binary_cross_entropy_with_logits(outputs["seg"][:count], mask)
    mutual = weight * (inside - soft).square().mean()
    error = (outputs["sdf"][:count] - distance).square().mean()
    return (
        (entropy + dice(soft[:count])) / 2 + mutual,
        dice(inside[:count]) + 0.3 * error + mutual,
    )


def test_loss_and_gradients_of_both_networks():
    sides, sharpness = (8, 8, 4), 20.0
    net = functools.partial(VNet, filters=4, convolutions=(1, 2), dropout_rate=0.0)
    objective = DtmlObjective(
        seg=net(),
        sdf=net(heads=("sdf",)),
        patch=sides,
        turn=False,
        sharpness=sharpness,
        distance_weight=0.3,
    )
    rng = np.random.default_rng(0)
    image = lambda: rng.normal(size=(2, *sides, 1)).astype(np.float32)
    labeled, unlabeled = image(), image()
    mask = (np.abs(labeled) < 0.9).astype(np.uint8)
    batch = {
        "seg/labeled": {"image": labeled, "mask": mask},
        "seg/unlabeled": {"image": unlabeled},
    }
    state = TrainState.create(
        jax.jit(objective.network.init, static_argnums=1)(jax.random.key(0), 8), optax.sgd(0.1)
    )
    step = 3000
    state = dataclasses.replace(state, step=np.int32(step))
    grad = jax.jit(jax.value_and_grad(objective, has_aux=True))
    keys = ExampleKeys(jax.random.key(1))
    (loss, (_, stats)), gradient = grad(state.params, state, batch, keys)

    images = torch.tensor(np.concatenate([labeled, unlabeled])).double().movedim(-1, 1)
    models = {}
    for name, head in (("seg", "mask"), ("sdf", "sdf")):
        models[name] = torch_vnet.VNet(3, filters=4, convolutions=(1, 2), heads=(head,))
        current = {"params": state.params[name], "batch_stats": state.batch_stats[name]}
        torch_vnet.load_flax(models[name], current)
        models[name].double().train()
    outputs = {name: next(iter(model(images).values())) for name, model in models.items()}
    distance = []
    for one in mask[..., 0] > 0:  # by SciPy, as the released code makes it
        away, depth = (ndimage.distance_transform_edt(m) for m in (~one, one))
        signed = away / away.max() - depth / depth.max()
        signed[one & ~ndimage.binary_erosion(one, border_value=1)] = 0
        distance.append(signed)
    weight = np.exp(-5 * (1 - 20 / 40) ** 2)
    truth = torch.tensor(mask).double().movedim(-1, 1)
    both = torch_loss(outputs, truth, torch.tensor(np.stack(distance))[:, None], sharpness, weight)
    want = sum(both)
    np.testing.assert_allclose(loss, want.detach(), rtol=1e-4)
    want.backward()
    for name, model in models.items():
        loaded = torch_vnet.VNet(3, filters=4, convolutions=(1, 2), heads=model.heads)
        torch_vnet.load_flax(loaded, {"params": gradient[name], "batch_stats": stats[name]})
        for key, got in loaded.named_parameters():
            if "_conv.bias" not in key:  # rounding noise before the norm of a batch
                assert_near(got.detach(), model.get_parameter(key).grad, f"{name} {key}")
