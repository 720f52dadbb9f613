import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multimix_jax.models import ClassifierHead, MultiMix, normalize
from tests import tiny

RNG = np.random.default_rng(0)


def shapes(model, images):
    """Shape of every output, None for what is absent, without computing anything."""
    images = jax.ShapeDtypeStruct(images, jnp.float32)
    output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    parts = (output.mask_logits, output.class_logits, output.saliency)
    return tuple(None if part is None else part.shape for part in parts)


@pytest.mark.parametrize(
    ("attributes", "want"),
    [
        (
            {},
            (
                (2, 32, 48, 1),
                (2, 2),
                (2, 32, 48, 1),
            ),
        ),
        (
            {"use_bridge": False},
            (
                (2, 32, 48, 1),
                (2, 2),
                None,
            ),
        ),
        (
            {"use_bridge": False, "use_decoder": False},
            (
                None,
                (2, 2),
                None,
            ),
        ),
        (
            {"use_bridge": False, "use_classifier": False},
            (
                (2, 32, 48, 1),
                None,
                None,
            ),
        ),
        (
            {"num_classes": 5, "mask_channels": 3},
            (
                (2, 32, 48, 3),
                (2, 5),
                (2, 32, 48, 1),
            ),
        ),
        (
            {"filters": (4, 6, 8)},
            (
                (2, 32, 48, 1),
                (2, 2),
                (2, 32, 48, 1),
            ),
        ),
    ],
)
def test_outputs(attributes, want):
    assert shapes(MultiMix(**attributes), (2, 32, 48, 1)) == want


def test_other_channels():
    got = shapes(tiny.model(in_channels=3), (2, 32, 32, 3))
    assert got == ((2, 32, 32, 1), (2, 2), (2, 32, 32, 1))


@pytest.mark.parametrize(
    ("attributes", "images", "words"),
    [
        (
            {},
            (1, 40, 32, 1),
            "images are 40x32, but each side must be a multiple of 16 and at least 32",
        ),
        ({}, (1, 16, 16, 1), "at least 32; change config.size"),
        ({"in_channels": 3}, (1, 32, 32, 1), "images have 1 channels, but the model takes 3"),
        ({"use_classifier": False}, (1, 32, 32, 1), "use_bridge=True needs use_classifier=True"),
        ({"use_decoder": False}, (1, 32, 32, 1), "use_bridge=True needs"),
        ({"initializer": "he"}, (1, 32, 32, 1), "initializer='he' is unknown"),
    ],
)
def test_errors(attributes, images, words):
    with pytest.raises(ValueError, match=words):
        shapes(MultiMix(**attributes), images)


def test_without_classifier_a_side_of_16_is_enough():
    unet = MultiMix(use_classifier=False, use_bridge=False)
    assert shapes(unet, (1, 16, 16, 1))[0] == (1, 16, 16, 1)


def test_equals_its_parts():
    """The wires: SciPy's blocks, joined by hand."""
    model = tiny.model(filters=(2, 3, 4))
    variables = tiny.variables(model)
    image = RNG.uniform(-1, 1, (16, 16, 1)).astype(np.float32)
    output = jax.jit(model.apply)(variables, jnp.asarray(image)[None])
    params = jax.device_get(variables["params"])
    levels = [image]
    for name in ("block1", "block2", "block3"):
        source = tiny.pooled(levels[-1]) if levels[1:] else image
        levels.append(tiny.conv_block(source, params["encoder"][name]))
    _, c1, c2, c3 = levels
    dense = params["classifier"]["logits"]
    logits = tiny.pooled(c3).mean((0, 1)) @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(output.class_logits[0], logits, atol=1e-3)

    saliency = np.asarray(output.saliency[0])
    bridge = tiny.resized(np.concatenate([image, saliency], axis=-1), 8, 8)
    stage = np.concatenate([tiny.resized(c3, 8, 8), c2, bridge], axis=-1)
    stage = tiny.conv_block(stage, params["decoder"]["block1"])
    stage = np.concatenate([tiny.resized(stage, 16, 16), c1], axis=-1)
    stage = tiny.conv_block(stage, params["decoder"]["block2"])
    head = params["decoder"]["logits"]
    np.testing.assert_allclose(
        output.mask_logits[0], stage @ head["kernel"][0, 0] + head["bias"], atol=2e-3
    )


def test_saliency_is_the_slope_of_the_strongest_logit():
    model = tiny.model()
    variables = tiny.variables(model)
    image = jnp.asarray(RNG.uniform(-1, 1, (1, 16, 16, 1)), jnp.float32)
    score = jax.jit(lambda x: model.apply(variables, x).class_logits.max(-1))
    saliency = jax.jit(lambda x: model.apply(variables, x, method="saliency"))
    got = np.asarray(saliency(image))[0, ..., 0]
    # Where the map is strongest the difference stands out from float32's rounding.
    row, column = np.unravel_index(got.argmax(), got.shape)
    step = jnp.zeros_like(image).at[0, row, column, 0].set(1e-2)
    slope = (score(image + step) - score(image - step))[0] / 2e-2
    np.testing.assert_allclose(got[row, column], abs(slope), rtol=0.05)


def test_dropout_needs_keys_and_is_off_in_the_saliency():
    model = tiny.model()
    apply = jax.jit(lambda keys: model.apply(tiny.variables(model), images, keys))
    images = jnp.asarray(RNG.uniform(-1, 1, (2, 16, 16, 1)), jnp.float32)
    first, second = (apply(jax.random.split(jax.random.key(seed), 2)) for seed in (0, 1))
    assert np.abs(first.class_logits - second.class_logits).max() > 0
    assert np.abs(first.mask_logits - second.mask_logits).max() > 0
    np.testing.assert_array_equal(first.saliency, second.saliency)


def test_bfloat16():
    model = tiny.model(dtype=jnp.bfloat16)
    full = tiny.model()
    variables = tiny.variables(full)
    images = jnp.asarray(RNG.uniform(-1, 1, (2, 16, 16, 1)), jnp.float32)
    got, want = (jax.jit(which.apply)(variables, images) for which in (model, full))
    for name in ("mask_logits", "class_logits", "saliency"):
        assert getattr(got, name).dtype == jnp.float32
    np.testing.assert_allclose(got.class_logits, want.class_logits, atol=0.1)
    np.testing.assert_allclose(got.mask_logits, want.mask_logits, atol=0.3)
    own = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(own)} == {jnp.dtype("float32")}


def test_range():
    got = normalize(jnp.asarray([0, 51, 255], jnp.uint8))
    np.testing.assert_allclose(got, [-1, -0.6, 1], atol=1e-6)
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("num_classes", [2, 5])
def test_classifier_equals_numpy(num_classes):
    features = np.random.default_rng(0).normal(size=(3, 4, 6, 7)).astype(np.float32)
    head = ClassifierHead(num_classes)
    logits, variables = head.init_with_output(jax.random.key(0), features)
    dense = jax.device_get(variables["params"]["logits"])
    means = np.stack([tiny.pooled(image).mean((0, 1)) for image in features])
    assert logits.shape == (3, num_classes)
    np.testing.assert_allclose(logits, means @ dense["kernel"] + dense["bias"], atol=1e-5)


def test_classifier_logits_are_float32():
    features = jnp.ones((2, 2, 2, 3), jnp.bfloat16)
    head = ClassifierHead(dtype=jnp.bfloat16)
    logits, _ = head.init_with_output(jax.random.key(0), features)
    assert logits.dtype == jnp.float32
