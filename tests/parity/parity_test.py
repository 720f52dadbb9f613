"""The same by others: network, losses, gradients and training by PyTorch; metrics by MedPy.

Needs pip install -e '.[parity]'. Pixel operations are compared with PIL in tests/augment, metrics
with SciPy, scikit-image and scikit-learn in metrics_test.py and geometry_test.py.
"""

import collections
import functools

import jax
import numpy as np
import pytest
from scipy import ndimage, stats

from benchmarks import scaling
from multimix_jax.evaluation import segmentation
from multimix_jax.keys import ExampleKeys
from multimix_jax.models import MultiMix, blocks, normalize
from multimix_jax.objectives import MultiMixObjective
from multimix_jax.ops import interpolation, norms
from multimix_jax.state import TrainState
from multimix_jax.training.step import make_train_step
from tests import tiny

torch = pytest.importorskip("torch")
torch_multimix = pytest.importorskip("benchmarks.torch_multimix")

SIDE = 32
BATCHES = [scaling.random_batch(SIDE, 2, seed) for seed in range(3)]
LOSSES = {"published": torch_multimix.published_losses, "best": torch_multimix.best_effort_losses}
torch.set_num_threads(1)  # more cost more than they help, at this size


@functools.cache
def ours(bridge=True):
    """The published network and loss without dropout."""
    return MultiMixObjective(MultiMix(dropout_rate=0.0, use_bridge=bridge))


@functools.cache
def variables(bridge=True):
    """Weights drawn by NumPy, since XLA takes long to compile its own draws."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: ours(bridge).network.init(key, SIDE), jax.random.key(0))
    draw = lambda leaf: rng.uniform(-0.3, 0.3, leaf.shape).astype(leaf.dtype)
    return jax.tree.map(draw, shapes)


@functools.cache
def our_gradients():
    """For each batch: terms of the loss, gradient, and the views that both were computed on."""
    params, state = variables()["params"], TrainState.create(variables(), scaling.adam())

    @jax.jit
    def step(batch, keys):
        (loss, (terms, _)), gradient = jax.value_and_grad(ours(), has_aux=True)(
            params, state, batch, keys
        )
        return {"loss": loss, **terms}, gradient

    return [(*step(batch, tiny.keys()), views_of(batch, tiny.keys())) for batch in BATCHES]


def views_of(batch, keys):
    """The views of the batch that our step draws with these keys, for PyTorch."""
    drawn = ours().views(batch, keys)
    return torch_multimix.load_views(
        batch,
        labeled=drawn["cls/labeled, weak"],
        weak=drawn["cls/unlabeled, weak"],
        strong=drawn["cls/unlabeled, strong"],
    )


def in_float64(views):
    images = tuple(image.double() for image in views.images)
    return views._replace(images=images, mask=views.mask.double())


def peer(params, bridge=True, lean=False):
    """The same network in PyTorch, in float64: in float32 its own rounding reaches .005."""
    model = torch_multimix.MultiMix(bridge=bridge, dropout_rate=0.0, lean=lean)
    torch_multimix.load_flax(model, params)
    return model.double()


def test_published_count():
    sizes = [weight.numel() for weight in torch_multimix.MultiMix().parameters()]
    assert sum(sizes) == 1_965_155


@pytest.mark.parametrize("bridge", [True, False])
def test_agree(bridge):
    images, objective = BATCHES[0]["seg/labeled"]["image"], ours(bridge)

    @jax.jit
    def outputs(variables, images):
        model, images = objective.model, normalize(images)
        features = model.apply(variables, images, method="encode")
        return model.apply(variables, images), features

    got, got_features = outputs(variables(bridge), images)
    predict = jax.jit(objective.network.predict)
    got_probabilities = predict(variables(bridge), images)
    inputs = torch_multimix.load_images(images).double()
    channels_last = lambda x: x.permute(0, 2, 3, 1)
    for lean in (False, True):
        model = peer(variables(bridge)["params"], bridge, lean)
        with torch.no_grad():
            features = model.encode(inputs)
            saliency = torch.func.grad(model.score)(inputs).abs() if bridge else None
            masks = model.segment(inputs, features, saliency)
            mask, classes = model(inputs)
        for level, (ours_at, theirs_at) in enumerate(zip(got_features, features, strict=True)):
            tiny.assert_near(ours_at, channels_last(theirs_at), f"level {level}")
        tiny.assert_near(got.class_logits, model.classify(features))
        tiny.assert_near(got.mask_logits, channels_last(masks))
        if bridge:
            tiny.assert_near(got.saliency, channels_last(saliency))
        tiny.assert_near(got_probabilities["mask"], channels_last(mask))
        tiny.assert_near(got_probabilities["classes"], classes)


@pytest.mark.parametrize("form", [*LOSSES])
def test_loss_agree(form):
    """Every term of the loss, and the gradient of their sum by every parameter.

    Float32 puts a value within its rounding of zero on the other side of a leaky ReLU now and
    then, which moves the gradients of all layers before it by some thousandths: of each
    gradient the batch counts that agrees best.
    """
    errors = collections.defaultdict(list)
    for values, gradient, views in our_gradients():
        assert values["cls/accepted"] > 0
        model = peer(variables()["params"], lean=form == "best")
        terms = LOSSES[form](model, in_float64(views))
        sum(terms.values()).backward()
        for name, term in terms.items():
            assert term.item() != 0
            tiny.assert_near(values[name], term, name)
        tiny.assert_near(values["loss"], sum(terms.values()))
        for name, got in peer(gradient).named_parameters():
            # An instance norm takes the bias before it out: its gradient is rounding noise.
            if not ("conv" in name and name.endswith("bias")):
                want = model.get_parameter(name).grad
                errors[name].append(((got - want).abs().max() / want.abs().max()).item())
    for name, of_batches in errors.items():
        assert min(of_batches) < 1e-4, f"{name}: {of_batches}"


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        (torch_multimix.PUBLISHED, "float32"),
        (torch_multimix.BEST_EAGER, "float32"),
        (torch_multimix.BEST_EAGER, "bfloat16"),
    ],
)
def test_step(form, dtype):
    """Updates every kernel."""
    params, views = variables()["params"], our_gradients()[0][-1]
    step = torch_multimix.Step(form, params, views, dtype)
    assert np.isfinite(step())
    for name, before in peer(params).float().named_parameters():
        if name.endswith("weight"):
            assert not torch.equal(step.model.get_parameter(name), before), name


def test_five_steps_of_adam():
    """Every parameter agrees after five steps, each on views of its own."""
    state = TrainState.create(variables(), scaling.adam())
    step = jax.jit(make_train_step(ours(), scaling.adam()))
    model = peer(state.params)
    adam = torch.optim.Adam(model.parameters(), 1e-4)
    for _ in range(5):
        key = jax.random.fold_in(jax.random.key(0), state.step)
        views = in_float64(views_of(BATCHES[0], ExampleKeys(key)))
        adam.zero_grad()
        sum(torch_multimix.published_losses(model, views).values()).backward()
        adam.step()
        state, _ = step(state, BATCHES[0])
    before = dict(peer(variables()["params"]).named_parameters())
    # By norm: Adam moves an element whose gradient is rounding alone by the full learning rate.
    for name, got in peer(state.params).named_parameters():
        want, first = model.get_parameter(name), before[name]
        error = (got - want).norm().item()
        assert error < 1e-4 * want.norm().item(), name
        if name.endswith("weight"):
            assert error < 0.02 * (want - first).norm().item(), name


@pytest.mark.parametrize(
    ("source", "target"), [((4, 6), (8, 12)), ((16, 24), (2, 3)), ((5, 7), (9, 13))]
)
def test_interpolation_with_aligned_corners(source, target):
    images = np.random.default_rng(0).normal(size=(2, *source, 3)).astype(np.float32)
    want = torch.nn.functional.interpolate(
        torch.tensor(images).permute(0, 3, 1, 2), target, mode="bilinear", align_corners=True
    )
    tiny.assert_near(interpolation.resize_aligned(images, *target), want.permute(0, 2, 3, 1))


def test_instance_norm_and_leaky_relu():
    images = np.random.default_rng(0).normal(3, 2, (2, 6, 5, 4)).astype(np.float32)
    normed = torch.nn.functional.instance_norm(torch.tensor(images).permute(0, 3, 1, 2))
    want = torch.nn.functional.leaky_relu(normed, 0.2)
    tiny.assert_near(norms.instance_norm_relu(images), want.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("height", "width", "channels", "features"), [(3, 5, 8, 64), (1, 1, 64, 400)]
)
def test_initial_weights_are_drawn_alike(height, width, channels, features):
    """By Kolmogorov and Smirnov's test, of kernels and of biases."""
    if (height, width) == (1, 1):
        layer = torch.nn.Linear(channels, features)
    else:
        layer = torch.nn.Conv2d(channels, features, (height, width))
    inits = blocks.initializers("torch", height * width * channels)
    draws = {
        "weight": inits["kernel_init"](jax.random.key(0), (height, width, channels, features)),
        "bias": inits["bias_init"](jax.random.key(1), (features,)),
    }
    for name, ours_drawn in draws.items():
        theirs = getattr(layer, name).detach().numpy().ravel()
        assert stats.ks_2samp(np.ravel(ours_drawn), theirs).pvalue > 0.001, name


@pytest.mark.parametrize("spacing", [None, (2.0, 0.5)])
def test_equal_medpy(spacing):
    """Where the definitions agree: its HD95 and ASSD weigh the two surfaces otherwise."""
    binary = pytest.importorskip("medpy.metric.binary")
    rng = np.random.default_rng(0)
    smooth = lambda: ndimage.gaussian_filter(rng.normal(size=(40, 50)), 3) > 0
    for _ in range(5):
        prediction, truth = smooth(), smooth()
        got = segmentation.segmentation_metrics(prediction, truth, spacing=spacing)
        unit = "" if spacing is None else "_mm"
        directed = [
            binary.asd(*masks, voxelspacing=spacing)
            for masks in ((prediction, truth), (truth, prediction))
        ]
        want = {
            "dice": binary.dc(prediction, truth),
            "jaccard": binary.jc(prediction, truth),
            "precision": binary.precision(prediction, truth),
            "recall": binary.recall(prediction, truth),
            f"hd{unit}": binary.hd(prediction, truth, voxelspacing=spacing),
            f"ahd{unit}": max(directed),
        }
        for name, value in want.items():
            assert got[name] == pytest.approx(value, rel=0, abs=1e-6), name
