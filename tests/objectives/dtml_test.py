import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import dtml
from multimix_jax import losses
from multimix_jax.errors import UsageError
from multimix_jax.keys import ExampleKeys
from multimix_jax.labels import VOID, LabelSpec
from multimix_jax.models import UNet, VNet
from multimix_jax.objectives import ObjectiveSpec, make_objective
from multimix_jax.objectives.dtml import DtmlObjective, ramp_up
from multimix_jax.ops.distance import signed_distance
from multimix_jax.state import TrainState
from multimix_jax.training.step import make_train_step
from tests import tiny

NET = functools.partial(VNet, filters=4, convolutions=(1, 1), dropout_rate=0.0)
OBJECTIVE = DtmlObjective(
    seg=NET(), sdf=NET(heads=("sdf",)), patch=(8, 8), sharpness=5.0, distance_weight=0.5
)

TAUGHT = DtmlObjective(
    seg=NET(norm="instance"), sdf=None, patch=(8, 8), teacher_weight=0.5, teacher_noise=0.0
)


def batch(sides=(8, 8)):
    """Patches as large as the images, so that the views are turns and mirrors alone."""
    rng = np.random.default_rng(0)
    image = lambda: rng.normal(size=(3, *sides, 1)).astype(np.float32)
    mask = rng.integers(0, 2, (3, *sides, 1)).astype(np.uint8)
    return {"seg/labeled": {"image": image(), "mask": mask}, "seg/unlabeled": {"image": image()}}


@functools.cache
def first_state(objective=OBJECTIVE):
    return TrainState.create(
        jax.jit(objective.network.init, static_argnums=1)(jax.random.key(0), 8), optax.sgd(0.1)
    )


KEYS = ExampleKeys(jax.random.key(1))


@functools.partial(jax.jit, static_argnums=0)
def views(objective, batch):
    return objective.views(batch, KEYS)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(objective, state, batch):
    return jax.value_and_grad(objective, has_aux=True)(state.params, state, batch, KEYS)


def test_equals_its_parts():
    state = dataclasses.replace(first_state(), step=jnp.int32(3000))
    (loss, (metrics, _)), _ = loss_and_gradient(OBJECTIVE, state, batch())
    images = jnp.concatenate([*views(OBJECTIVE, batch()).values()])
    mask = batch()["seg/labeled"]["mask"]
    of_masks = batch() | {"seg/labeled": {"image": mask.astype(np.float32), "mask": mask}}
    mask = views(OBJECTIVE, of_masks)["seg/labeled"]  # moved as its image is
    outputs = {}
    for name, net in (("seg", OBJECTIVE.seg), ("sdf", OBJECTIVE.sdf)):
        variables = {"params": state.params[name], "batch_stats": state.batch_stats[name]}
        apply = functools.partial(net.apply, train=True, mutable=["batch_stats"])
        output, _ = jax.jit(apply)(variables, images)
        (outputs[name],) = output.values()
    soft = jax.nn.sigmoid(-5.0 * outputs["sdf"])
    probability = jax.nn.sigmoid(outputs["seg"])
    dice = lambda p: losses.squared_dice_loss(probability=p, mask=mask).mean()
    error = outputs["sdf"][:3] - signed_distance(mask)
    entropy = losses.binary_cross_entropy(logits=outputs["seg"][:3], mask=mask)
    want = {
        "seg/cross_entropy": entropy.mean() / 2,
        "seg/dice": dice(probability[:3]) / 2,
        "sdf/dice": dice(soft[:3]),
        "sdf/distance": 0.5 * jnp.square(error).mean(),
        "mutual": 2 * np.exp(-5 * (1 - 20 / 40) ** 2) * jnp.square(soft - probability).mean(),
    }
    for name, value in want.items():
        assert value > 0
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, err_msg=name)
    np.testing.assert_allclose(loss, sum(want.values()), rtol=2e-4)


@pytest.mark.parametrize(
    ("step", "want"), [(0, np.exp(-5)), (149, np.exp(-5)), (3000, np.exp(-1.25)), (9999, 1)]
)
def test_ramp_up(step, want):
    np.testing.assert_allclose(ramp_up(jnp.int32(step), 6000), want, rtol=1e-6)


@pytest.mark.parametrize("side", ["seg", "sdf"])
def test_a_detached_side_does_not_learn_from_the_other(side):
    """Its gradient is that of the objective without the mutual term."""
    state = dataclasses.replace(first_state(), step=jnp.int32(6000))
    detached = dataclasses.replace(OBJECTIVE, detach=side)
    both = dataclasses.replace(OBJECTIVE, mutual_on="all")
    _, got = loss_and_gradient(detached, state, batch())
    _, whole = loss_and_gradient(both, state, batch())
    other = {"seg": "sdf", "sdf": "seg"}[side]
    assert tiny.largest_difference(got[side], whole[side]) > 1e-4
    assert tiny.largest_difference(got[other], whole[other]) < 1e-6


def test_without_the_mutual_term_the_unlabelled_are_not_asked_for():
    pair = dataclasses.replace(OBJECTIVE, mutual_weight=0.0)
    assert pair.streams == ("seg/labeled",)
    alone = dataclasses.replace(OBJECTIVE, sdf=None)
    assert alone.streams == ("seg/labeled",)
    (_, (metrics, _)), _ = loss_and_gradient(alone, first_state(alone), batch())
    assert set(metrics) == {"seg/cross_entropy", "seg/dice"}


def test_learns_in_two_and_three_dimensions():
    for sides in ((8, 8), (8, 8, 4)):
        objective = dataclasses.replace(OBJECTIVE, patch=sides)
        state = first_state(objective)
        step = jax.jit(make_train_step(objective, optax.sgd(0.1)))
        values = []
        for _ in range(8):
            state, metrics = step(state, batch(sides))
            values.append(float(metrics["seg/cross_entropy"]))
        assert values[-1] < values[0]
        assert np.isfinite(values).all()


def test_a_teacher_who_is_the_pupil_teaches_nothing():
    """Without noise and dropout both say the same; with noise they do not."""
    state = dataclasses.replace(first_state(TAUGHT), step=jnp.int32(6000))
    state = dataclasses.replace(state, ema_params=state.params)
    (_, (metrics, _)), _ = loss_and_gradient(TAUGHT, state, batch())
    assert metrics["teacher"] < 1e-9
    noisy = dataclasses.replace(TAUGHT, teacher_noise=0.5)
    (_, (metrics, _)), _ = loss_and_gradient(noisy, state, batch())
    assert metrics["teacher"] > 1e-6


def test_the_teacher_is_the_moving_average():
    state = dataclasses.replace(first_state(TAUGHT), step=jnp.int32(3000))
    taught = jax.tree.map(lambda x: 1.5 * x, state.params)
    state = dataclasses.replace(state, ema_params=taught)
    (loss, (metrics, _)), gradient = loss_and_gradient(TAUGHT, state, batch())
    view = views(TAUGHT, batch())["seg/unlabeled"]
    logits = lambda params: TAUGHT.seg.apply({"params": params["seg"]}, view)["mask"]
    error = lambda params: jax.nn.sigmoid(logits(params)) - jax.nn.sigmoid(logits(taught))
    term = lambda params: 0.5 * np.exp(-5 * 0.5**2) * jnp.square(error(params)).mean()
    value, slope = jax.jit(jax.value_and_grad(term))(state.params)
    np.testing.assert_allclose(metrics["teacher"], value, rtol=1e-4)
    alone = dataclasses.replace(TAUGHT, teacher_weight=0.0)
    _, without = loss_and_gradient(alone, state, batch())
    want = jax.tree.map(np.add, without, slope)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), gradient, want)


def test_the_teacher_predicts_with_running_statistics_of_its_own():
    """They converge to what its own features are; the pupil's are others."""
    both = dataclasses.replace(OBJECTIVE, teacher_weight=0.5, teacher_noise=0.0, turn=False)
    state = first_state(both)
    far = jax.tree.map(lambda x: -1.5 * x + 0.3, state.params)  # of unlike features
    state = dataclasses.replace(state, ema_params=far)
    for _ in range(80):
        (_, (_, stats)), _ = loss_and_gradient(both, state, batch())
        state = dataclasses.replace(state, batch_stats=stats)
    images = batch()["seg/unlabeled"]["image"]
    got = jax.jit(both.network.predict)(state.eval_variables, images)

    def answers(name, net):
        """By the statistics of the images, of the teacher and of the pupil."""
        apply = lambda stats, **train: net.apply(
            {"params": far[name], "batch_stats": stats}, images, **train
        )
        train = functools.partial(apply, train=True, mutable="batch_stats")
        (want,) = jax.jit(train)(stats[name])[0].values()
        test = jax.jit(apply)
        return want, *(test(of[name])[net.heads[0]] for of in (stats["teacher"], stats))

    for name, net, key in (("seg", both.seg, "mask"), ("sdf", both.sdf, "distance")):
        want, teacher, pupil = answers(name, net)
        assert jnp.abs(teacher - want).max() < 0.3 * jnp.abs(pupil - want).max()
        teacher = jax.nn.sigmoid(teacher) if key == "mask" else teacher
        np.testing.assert_allclose(got[key], teacher, atol=1e-6)


def test_left_and_right_change_places_in_mirror_images():
    images = batch()
    images["seg/labeled"]["mask"] = np.random.default_rng(1).integers(0, 2, (3, 8, 8, 2))
    sides = LabelSpec(mask_names=("left", "right"), mirrored=(("left", "right"),))
    make_views = lambda labels: dataclasses.replace(OBJECTIVE, labels=labels)._views(images, KEYS)
    plain, paired = (make_views(x)["seg/labeled"]["mask"] for x in (LabelSpec(), sides))
    kept = [np.array_equal(one, other) for one, other in zip(plain, paired)]
    swapped = [np.array_equal(one[..., ::-1], other) for one, other in zip(plain, paired)]
    assert any(kept) and any(swapped) and np.logical_xor(kept, swapped).all()


def test_unet_in_two_dimensions():
    """Both networks may be U-Nets; whole images, neither turned nor mirrored."""
    unet = functools.partial(UNet, filters=(4, 8), dropout_rate=0.0)
    objective = DtmlObjective(seg=unet(), sdf=unet(heads=("sdf",)), patch=(), turn=False)
    images = batch((16, 16))
    images["seg/labeled"]["image"] = np.arange(3 * 256, dtype=np.uint8).reshape(3, 16, 16, 1)
    np.testing.assert_allclose(views(objective, images)["seg/labeled"][0].min(), -1)
    variables = jax.jit(objective.network.init, static_argnums=1)(jax.random.key(0), 16)
    state = TrainState.create(variables, optax.sgd(0.1))
    (loss, (_, stats)), gradient = loss_and_gradient(objective, state, images)
    assert np.isfinite(loss)
    assert stats == state.batch_stats
    assert max(jnp.abs(g).max() for g in jax.tree.leaves(gradient["sdf"])) > 0
    assert objective.components == ("decoder", "distance network", "mutual term")


class Says:
    """A network that gives the same logits whatever it sees."""

    heads, norm, mask_channels = ("mask",), "", 1

    def __init__(self, logits):
        self.logits = logits

    def apply(self, variables, images, dropout, *, train, mutable):
        return {"mask": self.logits}, {}


def test_void_pixels_are_in_no_term():
    """They are moved with their image, and count neither way."""
    images = batch()
    labeled = images["seg/labeled"]
    labeled["mask"][:, :, :3] = VOID
    labeled["image"] = (labeled["mask"] == VOID).astype(np.float32)
    spec = LabelSpec(void=True)
    alone = DtmlObjective(seg=Says(None), sdf=None, patch=(8, 8), labels=spec)
    void = np.asarray(views(alone, images)["seg/labeled"]) == 1
    logits = np.random.default_rng(1).normal(size=void.shape).astype(np.float32)
    terms = []
    for other in (logits, np.where(void, 5.0, logits), np.where(void, logits, 5.0)):
        objective = dataclasses.replace(alone, seg=Says(jnp.asarray(other)))
        values = objective({"seg": None}, SimpleNamespace(batch_stats={}), images, KEYS)[1][0]
        terms.append({name: float(value) for name, value in values.items()})
    assert 0.2 < void.mean() < 0.5
    for name in ("seg/cross_entropy", "seg/dice"):
        assert terms[0][name] == pytest.approx(terms[1][name])
        assert terms[0][name] != pytest.approx(terms[2][name], rel=0.01)


def test_distances_to_what_is_void_are_refused():
    c = dtml.get_config("data=jsrt")
    spec = ObjectiveSpec(c.method, c.dtype, c.model, {**c.objective, "distance_weight": 0.5})
    with pytest.raises(UsageError, match=r"distance_weight=0.5, but some pixels .* are void"):
        make_objective(spec, LabelSpec(void=True))
    assert make_objective(spec).distance_weight == 0.5


def test_predicts_three_masks():
    state = first_state()
    images = batch()["seg/labeled"]["image"]
    got = jax.jit(OBJECTIVE.network.predict)(state.eval_variables, images)
    assert set(got) == {"mask", "mask_sdf", "mask_average", "distance"}
    np.testing.assert_allclose(got["mask_average"], (got["mask"] + got["mask_sdf"]) / 2, atol=1e-6)
