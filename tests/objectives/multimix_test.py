import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

from configs import common, multimix
from multimix_jax import losses
from multimix_jax.inference.saliency import make_map
from multimix_jax.labels import VOID, LabelSpec
from multimix_jax.models import MultiMix, normalize
from multimix_jax.objectives import MultiMixObjective, ObjectiveSpec, make_objective
from tests import tiny

SEG, SEG_U = "seg/labeled", "seg/unlabeled"
CLS, CLS_U = "cls/labeled", "cls/unlabeled"
DICE, KL, ENTROPY, PSEUDO = "seg/dice", "seg/kl", "cls/cross_entropy", "cls/pseudo_label"

STREAMS_AND_TERMS = {
    "unet": ((SEG,), {DICE}),
    "enc": ((CLS,), {ENTROPY}),
    "enc_ssl": ((CLS, CLS_U), {ENTROPY, PSEUDO}),
    "umtl": ((SEG, CLS), {DICE, ENTROPY}),
    "umtl_s": ((SEG, CLS), {DICE, ENTROPY}),
    "umtl_ssl": ((SEG, CLS, CLS_U), {DICE, ENTROPY, PSEUDO}),
    "umtl_ssl_s": ((SEG, CLS, CLS_U), {DICE, ENTROPY, PSEUDO}),
    "multimix": ((SEG, SEG_U, CLS, CLS_U), {DICE, KL, ENTROPY, PSEUDO}),
}

# Every term, and no dropout, so that the loss can be put together from its parts.
OBJECTIVE = tiny.objective(wires={"dropout_rate": 0.0})
make_views = jax.jit(OBJECTIVE.views)


def only(batch, streams):
    """A batch that holds these streams and nothing else."""
    return {name: batch[name] for name in streams}


def changed(batch, stream, **fields):
    """The batch with other fields in one stream."""
    return {**batch, stream: {**batch[stream], **fields}}


@pytest.mark.parametrize("system", STREAMS_AND_TERMS)
def test_streams_and_terms(system):
    streams, terms = STREAMS_AND_TERMS[system]
    objective = tiny.objective(system)
    assert objective.streams == streams
    batch = only(tiny.batch(), streams)
    state = tiny.train_state(objective)
    loss, (metrics, _) = jax.eval_shape(objective, state.params, state, batch, tiny.keys())
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    assert {name for name in metrics if name in (DICE, KL, ENTROPY, PSEUDO)} == terms
    assert {metric.shape for metric in metrics.values()} == {()}


def test_configs_build_the_published_systems():
    assert set(multimix.ALL) == set(STREAMS_AND_TERMS)
    for system, (streams, _) in STREAMS_AND_TERMS.items():
        c = multimix.get_config(f"method={system}")
        built = make_objective(ObjectiveSpec(c.method, c.dtype, c.model, c.objective))
        assert built.streams == streams
        wires, terms = tiny.SYSTEMS[system]
        assert built == MultiMixObjective(MultiMix(**wires), **terms)


def test_gradient_through_the_bridge():
    c, published = multimix.get_config("method=multimix_grad"), multimix.get_config()
    assert (c.system, c.model.bridge_gradient) == ("multimix_grad", True)
    published.system, published.model.bridge_gradient = "multimix_grad", True
    assert c.to_dict() == published.to_dict()


def test_published_weights():
    published = dict(dice_weight=5, kl_weight=0.01, pseudo_label_weight=0.25, threshold=0.7)
    defaults = dataclasses.asdict(MultiMixObjective(tiny.model()))
    assert {name: defaults[name] for name in published} == published
    assert common.get_config().objective.to_dict() == published


def test_errors():
    model = common.get_config().model
    with pytest.raises(ValueError, match="method='fixmatch' is unknown; use one of multimix"):
        make_objective(ObjectiveSpec("fixmatch", "float32", model, {}))
    with pytest.raises(ValueError, match="dtype='float16' is unknown; use 'float32' or"):
        make_objective(ObjectiveSpec("multimix", "float16", model, {}))


def test_equals_its_parts():
    """The views by hand, the network part by part, the published weights."""
    batch = tiny.batch()
    views = make_views(batch, tiny.keys())
    (loss, (metrics, stats)), _ = tiny.loss_and_gradient(OBJECTIVE, batch)
    variables = tiny.variables(OBJECTIVE.model)
    apply = jax.jit(lambda x: OBJECTIVE.model.apply(variables, normalize(x)))
    masks = [apply(views[name]).mask_logits for name in (SEG, SEG_U)]
    names = (f"{CLS}, weak", f"{CLS_U}, weak", f"{CLS_U}, strong")
    classes = [apply(views[name]).class_logits for name in names]
    truth = jnp.asarray(batch["seg/labeled"]["mask"], jnp.float32)
    label = jnp.asarray(batch["cls/labeled"]["label"])
    want = {
        DICE: 5 * losses.dice_loss(logits=masks[0], mask=truth).mean(),
        KL: 0.01 * losses.bernoulli_kl(p_logits=masks[0], q_logits=masks[1]).mean(),
        ENTROPY: losses.cross_entropy(logits=classes[0], label=label).mean(),
        PSEUDO: 0.25
        * losses.pseudo_label_cross_entropy(
            weak_logits=classes[1], strong_logits=classes[2], threshold=0.5
        ).mean(),
    }
    for name, value in want.items():
        assert value > 0, name
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(loss, sum(metrics[name] for name in want), rtol=1e-6)
    assert stats == {}
    accuracy = (classes[0].argmax(-1) == label).mean()
    np.testing.assert_allclose(metrics["cls/train_accuracy"], accuracy)
    # Of two classes the stronger has at least one half.
    assert metrics["cls/accepted"] == 1
    correct = (classes[1].argmax(-1) == batch["cls/unlabeled"]["label"]).mean()
    np.testing.assert_allclose(metrics["cls/accepted_and_correct"], correct)


def test_void_pixels_are_in_no_term():
    objective = dataclasses.replace(tiny.objective("unet"), labels=LabelSpec(void=True))
    batch = only(tiny.batch(), [SEG])
    batch[SEG]["mask"][:, :, :6] = VOID
    void = batch[SEG]["mask"] == VOID
    _, _, truth, *_ = objective._views(batch, tiny.keys())
    logits = np.random.default_rng(0).normal(size=void.shape)
    dice = lambda values: float(objective._segmentation_terms(jnp.asarray(values), truth)[DICE])
    assert dice(np.where(void, 9.0, logits)) == pytest.approx(dice(logits))
    assert dice(np.where(void, logits, 9.0)) != pytest.approx(dice(logits), rel=0.01)


@pytest.mark.parametrize(
    ("system", "dropout_rate", "differ"),
    [("unet", 0.25, True), ("unet", 0.0, False), ("enc", 0.0, True)],
)
def test_random_in_training(system, dropout_rate, differ):
    """Dropout everywhere, augmentation of the images to classify only."""
    objective = tiny.objective(system, wires={"dropout_rate": dropout_rate})
    state, batch = tiny.train_state(objective), tiny.batch()
    loss = jax.jit(lambda keys: objective(state.params, state, batch, keys)[0])
    assert float(loss(tiny.keys(0)) != loss(tiny.keys(1))) == differ
    assert loss(tiny.keys(0)) == loss(tiny.keys(0))


def test_predict_is_not_random():
    objective = tiny.objective()

    @jax.jit
    def outputs(variables, images):
        output = objective.model.apply(variables, normalize(images))
        return (
            objective.network.predict(variables, images),
            make_map("gradient", objective.network, variables, images),
            output,
        )

    images = tiny.batch()["cls/labeled"]["image"]
    got, saliency, want = outputs(tiny.variables(objective.model), images)
    odds = np.exp(-np.asarray(want.mask_logits, np.float64))
    np.testing.assert_allclose(got["mask"], 1 / (1 + odds), rtol=1e-4)
    odds = np.exp(np.asarray(want.class_logits, np.float64))
    np.testing.assert_allclose(got["classes"], odds / odds.sum(-1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(saliency, want.saliency, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(("system", "want"), [("unet", {"mask"}), ("enc", {"classes"})])
def test_predicts_what_it_has(system, want):
    objective = tiny.objective(system)
    variables, images = tiny.variables(objective.model), jnp.zeros((1, 16, 16, 1), jnp.uint8)
    assert set(jax.eval_shape(objective.network.predict, variables, images)) == want
    saliency = make_map("gradient", objective.network, variables, images)
    assert (saliency is None) == (system == "unet")


def test_names_and_dtypes():
    batch = tiny.batch()
    views = make_views(batch, tiny.keys())
    weak, strong = f"{CLS_U}, weak", f"{CLS_U}, strong"
    assert set(views) == {SEG, SEG_U, CLS, CLS_U, f"{CLS}, weak", weak, strong}
    for name, images in views.items():
        assert (images.shape, images.dtype) == ((4, 16, 16, 1), jnp.uint8), name
    for name in (SEG, SEG_U, CLS, CLS_U):
        np.testing.assert_array_equal(views[name], batch[name]["image"])
    for name, of in ((f"{CLS}, weak", CLS), (weak, CLS_U), (strong, CLS_U), (strong, weak)):
        assert (views[name] != views[of]).any(), name


def test_weak_views_keep_grey_values_and_strong_ones_do_not():
    batch, gray = tiny.batch(), np.full((4, 16, 16, 1), 200, np.uint8)
    for stream in (CLS, CLS_U):
        batch = changed(batch, stream, image=gray)
    views = make_views(batch, tiny.keys())
    for name in (f"{CLS}, weak", f"{CLS_U}, weak"):
        np.testing.assert_array_equal(views[name], gray)
    assert (views[f"{CLS_U}, strong"] != gray).any()


def test_only_of_the_streams_it_has():
    objective = tiny.objective("unet")
    views = jax.eval_shape(objective.views, only(tiny.batch(), [SEG]), tiny.keys())
    assert set(views) == {SEG}


def gradient_of(batch, threshold=0.5):
    return tiny.loss_and_gradient(OBJECTIVE, batch, threshold)[1]


def test_hidden_label_changes_nothing():
    batch = tiny.batch()
    want = gradient_of(batch)
    for label in (1 - batch["cls/unlabeled"]["label"], np.full(4, -1, np.int32)):
        tiny.assert_equal(gradient_of(changed(batch, CLS_U, label=label)), want)
    labeled = changed(batch, CLS, label=1 - batch["cls/labeled"]["label"])
    assert tiny.largest_difference(gradient_of(labeled), want) > 0


@pytest.mark.parametrize(("threshold", "count"), [(1.1, False), (0.5, True)])
def test_unlabelled_images_count_from_the_threshold_on(threshold, count):
    """Below it not a bit of the gradient depends on them."""
    batch = tiny.batch()
    other = changed(batch, CLS_U, image=255 - batch["cls/unlabeled"]["image"])
    before, after = (gradient_of(streams, threshold) for streams in (batch, other))
    assert (tiny.largest_difference(before, after) > 0) == count
    metrics = tiny.loss_and_gradient(OBJECTIVE, batch, threshold)[0][1][0]
    assert (metrics[PSEUDO] > 0, metrics["cls/accepted"] > 0) == (count, count)


@pytest.mark.parametrize("bridge_gradient", [False, True])
def test_saliency_is_stopped_unless_asked_for(bridge_gradient):
    objective = tiny.objective("umtl_s", wires={"bridge_gradient": bridge_gradient})
    state = tiny.train_state(objective)

    @jax.jit
    def gradient(params, batch):
        dice = lambda params: objective(params, state, batch, tiny.keys())[1][0][DICE]
        return jax.grad(dice)(params)

    got = gradient(state.params, tiny.batch())
    reached = max(np.abs(leaf).max() for leaf in tiny.leaves(got["classifier"])) > 0
    assert reached == bridge_gradient
    for part in ("encoder", "decoder"):
        assert np.abs(got[part]["block1"]["conv1"]["kernel"]).max() > 0


def convolutions(jaxpr):
    """Every convolution of a program, those of its inner programs included.

    Of what differs by platform, the default.
    """
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        parameters = list(equation.params.values())
        if equation.primitive.name == "cond":
            parameters = [equation.params["branches"][-1]]
        for value in jax.tree.leaves(parameters, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from convolutions(inner)


def multiplications(equation):
    """Of one convolution: those of an output value are the kernel's, for one output channel."""
    out, kernel = equation.outvars[0].aval, equation.invars[1].aval
    out_channels = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return out.size * kernel.size // out_channels


# Multiplications of one image, forward, at sides of 16, 8 and 4, with 2, 3 and 5 channels.
FIRST_LAYER = 9 * 16**2 * 1 * 2
ENCODER = FIRST_LAYER + 9 * (16**2 * 2 * 2 + 8**2 * (2 * 3 + 3 * 3) + 4**2 * (3 * 5 + 5 * 5))


def decoder(bridge):
    first = 9 * 8**2 * ((5 + 3 + bridge) * 3 + 3 * 3)
    return first + 9 * 16**2 * ((3 + 2) * 2 + 2 * 2) + 16**2 * 2 * 1


def trained(images, work):
    """Forward, and backward to the inputs and to the kernels."""
    return 3 * images * work


@pytest.mark.parametrize("system", ["multimix", "umtl_ssl", "umtl_s", "enc_ssl", "unet", "enc"])
def test_multiplications(system):
    """No work whose result is not used: those of all convolutions, counted by hand."""
    objective = tiny.objective(system, wires={"filters": (2, 3, 5)})
    seg = 3 * sum(name.startswith("seg") for name in objective.streams)
    unlabeled = 5 if CLS_U in objective.streams else 0
    labeled = 7 if CLS in objective.streams else 0
    batch = {
        **tiny.batch(3),
        CLS: tiny.batch(7)[CLS],
        CLS_U: tiny.batch(5)[CLS_U],
    }
    gradient_images = seg + labeled + unlabeled
    want = trained(gradient_images, ENCODER)
    want -= gradient_images * FIRST_LAYER  # no gradient to the images
    want += unlabeled * ENCODER  # the weak view, forward only
    if objective.model.use_decoder:
        bridge = 2 if objective.model.use_bridge else 0
        want += trained(seg, decoder(bridge))
        if bridge:
            want += 2 * seg * ENCODER  # the saliency, forward and back to the image

    state = tiny.train_state(objective)
    program = jax.make_jaxpr(jax.grad(objective, has_aux=True))
    jaxpr = program(state.params, state, batch, tiny.keys()).jaxpr
    jaxpr, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # as XLA does
    assert sum(map(multiplications, convolutions(jaxpr))) == want
