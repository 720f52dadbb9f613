import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import consistency, dtml, multimix
from multimix_jax.errors import UsageError
from multimix_jax.labels import VOID, LabelSpec
from multimix_jax.models import normalize
from multimix_jax.objectives import (
    ConsistencyObjective,
    MultiMixObjective,
    ObjectiveSpec,
    make_objective,
)
from multimix_jax.training import machine
from multimix_jax.training.step import make_train_step
from tests import tiny

SEG, CLS, CLS_U = "seg/labeled", "cls/labeled", "cls/unlabeled"
WEAK, STRONG = f"{CLS_U}, teacher's view", f"{CLS_U}, view"
MASKS = {"seg/cross_entropy", "seg/dice"}
CLASSES = {"cls/cross_entropy"}
SYSTEMS = {
    "consistency": ((SEG, CLS, CLS_U), {*MASKS, *CLASSES, "cls/pseudo_label"}),
    "consistency_classes": ((CLS, CLS_U), {*CLASSES, "cls/pseudo_label"}),
    "unet_augmented": ((SEG,), MASKS),
    "enc_augmented": ((CLS,), CLASSES),
    "consistency_no_pseudo_labels": ((SEG, CLS), {*MASKS, *CLASSES}),
}
MODEL = tiny.model(use_bridge=False, dropout_rate=0.0)
# As the images are, so that the loss can be put together from its parts.
STILL = ConsistencyObjective(
    MODEL, class_weight=0.5, spatial=0.0, intensity=False, threshold=0.5, ramp_up=100
)
MOVING = dataclasses.replace(STILL, spatial=1.0, intensity=True)
STEP = 25  # a quarter of the ramp-up


def state_of(objective, step=STEP, teacher=1):
    """A state whose teacher has weights of its own."""
    return dataclasses.replace(
        tiny.train_state(objective, keep_average=True),
        step=jnp.asarray(step),
        ema_params=tiny.variables(objective.model, seed=teacher)["params"],
    )


def evaluate(objective, batch=None, step=STEP):
    """((loss, (metrics, stats)), gradient)."""
    state = state_of(objective, step)
    run = jax.jit(jax.value_and_grad(objective, has_aux=True))
    return run(state.params, state, batch or tiny.batch(), tiny.keys())


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def entropy(logits, mask):
    p = sigmoid(logits)
    return -(mask * np.log(p) + (1 - mask) * np.log(1 - p)).mean()


@pytest.mark.parametrize(
    ("system", "use_bridge"), [*((system, False) for system in SYSTEMS), ("consistency", True)]
)
def test_streams_and_terms(system, use_bridge):
    streams, terms = SYSTEMS[system]
    c = consistency.get_config(f"method={system}")
    c.model.use_bridge = use_bridge
    built = make_objective(ObjectiveSpec(c.method, c.dtype, c.model, c.objective))
    assert built.streams == streams
    assert built.uses_average == (CLS_U in streams)
    small = dataclasses.replace(
        built, model=dataclasses.replace(built.model, filters=(4, 8), parent=None)
    )
    state = state_of(small)
    loss, (metrics, _) = jax.eval_shape(small, state.params, state, tiny.batch(), tiny.keys())
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    everything = SYSTEMS["consistency"][1]
    assert set(metrics) & everything == terms


def test_every_system_differs_from_the_others():
    amounts = {"consistency_equal_weights", "consistency_equal_streams"}  # of the same parts
    configs, parts = set(), set()
    for system in consistency.SYSTEMS:
        c = consistency.get_config(f"method={system}")
        assert c.system == system
        built = make_objective(ObjectiveSpec(c.method, c.dtype, c.model, c.objective))
        if system not in amounts:
            parts.add(built.components)
        del c.system
        configs.add(c.to_json())
    assert len(parts) == len(consistency.SYSTEMS) - len(amounts)
    assert len(configs) == len(consistency.SYSTEMS)


def test_equals_its_parts():
    """NumPy's formulas, the network apart."""
    batch = tiny.batch()
    (loss, (metrics, _)), _ = evaluate(STILL, batch)
    apply = jax.jit(lambda params, x: MODEL.apply({"params": params}, normalize(x)))
    state = state_of(STILL)
    student = lambda stream: apply(state.params, batch[stream]["image"])
    teacher = lambda stream: apply(state.ema_params, batch[stream]["image"])
    arrays = lambda x: np.asarray(x, np.float64)

    mask = arrays(batch["seg/labeled"]["mask"])
    logits = arrays(student(SEG).mask_logits)
    p = sigmoid(logits)
    sums = lambda x: x.sum(axis=(1, 2, 3))
    dice = 1 - (2 * sums(p * mask) + 1) / (sums(p) + sums(mask) + 1)
    labels = batch["cls/labeled"]["label"]
    own = -log_softmax(arrays(student(CLS).class_logits))[np.arange(len(labels)), labels]
    guess = arrays(teacher(CLS_U).class_logits).argmax(-1)
    strong = -log_softmax(arrays(student(CLS_U).class_logits))
    pseudo = strong[np.arange(len(guess)), guess]
    want = {
        "seg/cross_entropy": entropy(logits, mask),
        "seg/dice": dice.mean(),
        "cls/cross_entropy": 0.5 * own.mean(),
        "cls/pseudo_label": 0.5 * 0.25 * pseudo.mean(),
    }
    for name, value in want.items():
        assert value > 0, name
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(loss, sum(want.values()), rtol=1e-4)
    assert metrics["cls/accepted"] == 1
    correct = (guess == batch["cls/unlabeled"]["label"]).mean()
    np.testing.assert_allclose(metrics["cls/accepted_and_correct"], correct)


def test_pseudo_labels_grow_no_further_than_to_their_weight():
    weights = [evaluate(STILL, step=step)[0][1][0]["cls/pseudo_label"] for step in (50, 100, 1000)]
    np.testing.assert_allclose(weights, np.asarray([0.5, 1, 1]) * weights[-1], rtol=1e-5)


def test_two_parts_are_one_batch():
    step = lambda parts: jax.jit(
        make_train_step(STILL, optax.sgd(0.1), ema_decay=0.99, accumulate=parts)
    )
    whole, halves = (step(parts)(state_of(STILL), tiny.batch())[0] for parts in (1, 2))
    assert tiny.largest_difference(whole.params, halves.params) < 1e-5


def test_unsure_pseudo_labels_give_exactly_nothing():
    unsure = dataclasses.replace(STILL, threshold=1.1)
    (_, (metrics, _)), _ = evaluate(unsure)
    assert metrics["cls/pseudo_label"] == 0
    assert metrics["cls/accepted"] == 0


def test_the_teacher_teaches_nothing_at_first():
    (_, (metrics, _)), _ = evaluate(STILL, step=0)
    assert metrics["cls/pseudo_label"] == 0


def test_no_gradient_to_the_teacher():
    state = state_of(MOVING)
    of_teacher = lambda params: MOVING(
        state.params, dataclasses.replace(state, ema_params=params), tiny.batch(), tiny.keys()
    )[0]
    gradient = jax.jit(jax.grad(of_teacher))(state.ema_params)
    assert max(np.abs(leaf).max() for leaf in tiny.leaves(gradient)) == 0


def test_several_labels():
    objective = dataclasses.replace(STILL, multi_label=True)
    batch = tiny.batch()
    both = np.eye(2, dtype=np.int32)[batch["cls/labeled"]["label"]]
    batch["cls/labeled"]["label"] = both
    batch["cls/unlabeled"]["label"] = both
    (_, (metrics, stats)), _ = evaluate(objective, batch)
    assert stats == {}
    variables = {"params": state_of(objective).params}
    images = batch["cls/labeled"]["image"]
    logits = np.asarray(MODEL.apply(variables, normalize(images)).class_logits, np.float64)
    want = 0.5 * entropy(logits, both)
    np.testing.assert_allclose(metrics["cls/cross_entropy"], want, rtol=1e-4)
    predicted = objective.network.predict(variables, images)
    np.testing.assert_allclose(predicted["classes"], sigmoid(logits), rtol=1e-4)
    assert metrics["cls/accepted"] == metrics["cls/accepted_and_known"]


def test_what_is_unknown_of_the_classes_is_in_no_term_and_in_no_figure():
    objective = dataclasses.replace(STILL, multi_label=True)
    batch = tiny.batch()
    both = np.eye(2, dtype=np.int32)[batch["cls/labeled"]["label"]]
    batch["cls/labeled"]["label"] = np.where([[1, 1], [0, 1], [1, 0], [1, 1]], both, -1)
    hidden = np.where([[1, 1], [0, 0], [0, 0], [1, 0]], both, -1)
    batch["cls/unlabeled"]["label"] = hidden
    (_, (metrics, _)), _ = evaluate(objective, batch)
    apply = lambda params, stream: np.asarray(
        MODEL.apply({"params": params}, normalize(batch[stream]["image"])).class_logits, np.float64
    )
    state = state_of(objective)
    logits = apply(state.params, CLS)
    known = batch["cls/labeled"]["label"] >= 0
    want = 0.5 * sum(entropy(one, answer) for one, answer in zip(logits[known], both[known])) / 8
    np.testing.assert_allclose(metrics["cls/cross_entropy"], want, rtol=1e-4)
    right = ((logits > 0) == both)[known].mean()
    np.testing.assert_allclose(metrics["cls/train_accuracy"], right)
    assert metrics["cls/accepted"] == 1  # from .5 on
    assert metrics["cls/accepted_and_known"] == 3 / 8
    guess = apply(state.ema_params, CLS_U) > 0
    np.testing.assert_allclose(metrics["cls/accepted_and_correct"], (guess == hidden).sum() / 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(threshold=95.0), r"objective.threshold=95.0 is no probability; set it from 0 to 1"),
        (dict(spatial=-1.0), r"objective.spatial=-1.0; set it to 0, for no spatial augmentation"),
        (dict(weak_spatial=-0.1), r"objective.weak_spatial=-0.1; set it to 0"),
        (
            dict(model=tiny.model(use_classifier=False, use_decoder=False, use_bridge=False)),
            "neither model.use_classifier nor model.use_decoder is on; set one to True",
        ),
    ],
)
def test_what_is_out_of_range_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(STILL, **change).check()


@pytest.mark.parametrize("module", [consistency, dtml, multimix])
def test_a_weight_below_0_is_refused(module):
    c = module.get_config()
    for name in (name for name in c.objective if name.endswith("_weight")):
        terms = {**c.objective, name: -0.1}
        with pytest.raises(UsageError, match=f"config.objective.{name}=-0.1, but a weight is 0 or"):
            make_objective(ObjectiveSpec(c.method, c.dtype, c.model, terms))


def mean_change(views, view, part=...):
    return np.abs(np.int32(views[view]) - np.int32(views[CLS_U]))[part].mean()


def test_the_teacher_sees_less_of_a_change():
    batch = tiny.batch()
    views = jax.jit(MOVING.views)(batch, tiny.keys())
    weak, strong = (mean_change(views, view) for view in (WEAK, STRONG))
    assert 1 <= weak <= strong


def test_a_weak_view_moves_less():
    """By poses alone, of a bright ramp: what changes is where a pixel comes from."""
    ramp = np.broadcast_to(np.arange(tiny.SIDE, dtype=np.uint8)[:, None, None], (32, 16, 16, 1))
    batch = tiny.batch(32)
    batch["cls/unlabeled"]["image"] = 100 + 10 * ramp
    poses = dataclasses.replace(MOVING, intensity=False)
    views = jax.jit(poses.views)(batch, tiny.keys())
    weak, strong = (mean_change(views, view, np.s_[:, 4:-4, 4:-4]) for view in (WEAK, STRONG))
    assert 0.2 * strong <= weak <= 0.5 * strong
    assert np.abs(np.int32(views[WEAK]) - np.int32(views[STRONG])).max() > 50


def test_masks_move_with_their_images():
    """A mask that is the image: after any pose it still is, since its look does not change."""
    batch = tiny.batch()
    mask = batch["seg/labeled"]["mask"]
    batch["seg/labeled"]["image"] = 255 * mask
    alone = dataclasses.replace(MOVING, model=tiny.model(use_bridge=False, use_classifier=False))
    views, _, moved, *_ = jax.jit(alone._views)(batch, tiny.keys())
    np.testing.assert_allclose(views[SEG], 255 * np.asarray(moved.mask), atol=1e-2)
    assert np.abs(np.asarray(moved.mask) - mask).max() > 0.5
    assert moved.known is None

    # With a mask that is void where it was inside, what is known moves as the image does.
    batch["seg/labeled"]["mask"] = np.where(mask, VOID, 0).astype(np.uint8)
    may_be_void = dataclasses.replace(alone, labels=LabelSpec(void=True))
    _, _, void, *_ = jax.jit(may_be_void._views)(batch, tiny.keys())
    np.testing.assert_allclose(1 - np.asarray(void.known), moved.mask, atol=1e-5)
    np.testing.assert_array_equal(void.mask, 0)


def halves(count):
    """Masks [count,S,S,2]: channel 0 is the left half, channel 1 the right one."""
    left = np.broadcast_to(np.arange(tiny.SIDE) < tiny.SIDE // 2, (count, tiny.SIDE, tiny.SIDE))
    return np.stack([left, ~left], -1).astype(np.uint8)


def middles(images):
    """The column of the middle of what is bright, by image and channel."""
    images = np.asarray(images, np.float64)
    return np.average(np.indices(images.shape)[2], (1, 2), images)


@pytest.mark.parametrize("masks", [("left", "right"), ("left",)])
def test_left_stays_left_in_mirror_images(masks):
    """The channels change places; where there is but one side, no image is mirrored."""
    batch, both = tiny.batch(32), halves(32)
    batch[SEG] = {"image": 250 * both[..., :1], "mask": both[..., : len(masks)]}
    labels = LabelSpec(mask_names=masks, mirrored=(("left", "right" * (len(masks) > 1)),))
    alone = dataclasses.replace(
        MOVING, model=tiny.model(use_bridge=False, use_classifier=False), labels=labels
    )
    make_views = jax.jit(alone._views, compiler_options=machine.quick_options())
    views, _, (moved, _), *_ = make_views(batch, tiny.keys())
    middle = tiny.SIDE / 2 - 0.5
    assert (middles(moved)[:, 0] < middle + 2).all()
    if len(masks) > 1:
        assert (middles(moved)[:, 0] < middles(moved)[:, 1] - 3).all()
    mirrored = middles(views[SEG])[:, 0] > middle + 2
    assert mirrored.any() == (len(masks) > 1)


class Oracle:
    """Names the brighter half of an image."""

    def _apply(self, params, images, *dropout, method):
        if method == "encode":
            return [images]
        (images,) = images
        half = tiny.SIDE // 2
        difference = images[:, :, :half].mean((1, 2, 3)) - images[:, :, half:].mean((1, 2, 3))
        return 100 * jnp.stack([difference, -difference], -1)

    def _teach(self, params, state, weak, keys):
        return self._apply(params, [weak], method="classify")


@pytest.mark.parametrize("kind", [ConsistencyObjective, MultiMixObjective])
def test_classes_change_places_in_mirror_images(kind):
    """An oracle of sides is right about labelled images, and agrees with its own pseudo-labels."""
    batch, both = tiny.batch(32), halves(32)
    for stream in (CLS, CLS_U):
        label = np.arange(32, dtype=np.int32) % 2
        batch[stream] = {"image": 250 * both[np.arange(32), ..., label, None], "label": label}
    model = tiny.model(use_bridge=False, use_decoder=False, dropout_rate=0.0)
    oracle = type("OracleOf", (Oracle, kind), {})(
        model=model,
        threshold=0.5,
        labels=LabelSpec(("left", "right"), mirrored=(("left", "right"),)),
        **({"intensity": False} if kind is ConsistencyObjective else {}),
    )
    state = state_of(STILL).replace(step=jnp.int32(1000))

    @functools.partial(jax.jit, compiler_options=machine.quick_options())
    def evaluate(batch):
        loss, (metrics, _) = oracle(state.params, state, batch, tiny.keys())
        return loss, metrics, oracle._views(batch, tiny.keys())

    loss, metrics, (views, weak, *_) = evaluate(batch)
    assert metrics["cls/train_accuracy"] == metrics["cls/accepted_and_correct"] == 1
    assert loss < 1e-3
    for images in (*views.values(), weak):  # of which a half were mirrored
        brighter = np.asarray(oracle._apply({}, [images], method="classify")).argmax(-1)
        assert 0.2 < (brighter == label).mean() < 0.8


def test_without_poses_and_looks_nothing_moves():
    batch = tiny.batch()
    views = jax.jit(STILL.views)(batch, tiny.keys())
    for name in (SEG, CLS, CLS_U):
        np.testing.assert_array_equal(views[f"{name}, view"], views[name])
