"""Networks, batches and references small enough to test with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import ndimage

from multimix_jax.keys import ExampleKeys
from multimix_jax.models import MultiMix
from multimix_jax.names import Stream
from multimix_jax.objectives import MultiMixObjective
from multimix_jax.state import TrainState

SIDE = 16

_RNG = np.random.default_rng(0)
LINEAR_BATCH = {
    "x": _RNG.normal(size=(8, 3)).astype(np.float32),
    "y": _RNG.normal(size=8).astype(np.float32),
}
LINEAR_WEIGHTS = np.asarray([0.5, -1.0, 2.0])

# Wires and terms of the published tables, copied from them by hand: model, then loss.
_NO_PSEUDO, _NO_KL = {"pseudo_label_weight": 0.0}, {"kl_weight": 0.0}
_NO_BRIDGE = {"use_bridge": False}
SYSTEMS = {
    "unet": ({**_NO_BRIDGE, "use_classifier": False}, {**_NO_PSEUDO, **_NO_KL}),
    "enc": ({**_NO_BRIDGE, "use_decoder": False}, {**_NO_PSEUDO, **_NO_KL}),
    "enc_ssl": ({**_NO_BRIDGE, "use_decoder": False}, _NO_KL),
    "umtl": (_NO_BRIDGE, {**_NO_PSEUDO, **_NO_KL}),
    "umtl_s": ({}, {**_NO_PSEUDO, **_NO_KL}),
    "umtl_ssl": (_NO_BRIDGE, _NO_KL),
    "umtl_ssl_s": ({}, _NO_KL),
    "multimix": ({}, {}),
}


def model(**attributes):
    """A MultiMix of two levels."""
    return MultiMix(**{"filters": (4, 8), **attributes})


def objective(system="multimix", *, wires=None, **terms):
    """The objective of a published system on a tiny network; `wires` and `terms` override."""
    system_wires, system_terms = SYSTEMS[system]
    return MultiMixObjective(model(**system_wires, **(wires or {})), **{**system_terms, **terms})


def batch(size=4, seed=0):
    """All four streams: bright discs to segment, dark and bright images to tell apart."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]

    def images(label):
        noise = rng.integers(0, 100, (size, SIDE, SIDE, 1))
        return (noise + 150 * label.reshape(size, 1, 1, 1)).astype(np.uint8)

    centres = rng.integers(4, SIDE - 4, (2, size, 1, 1))
    masks = ((y - centres[0]) ** 2 + (x - centres[1]) ** 2 < 16)[..., None].astype(np.uint8)
    labels = rng.permutation(np.arange(2 * size) % 2).reshape(2, size).astype(np.int32)
    zeros = np.zeros(size, int)
    return {
        Stream.SEG_LABELED: {"image": images(zeros) + 150 * masks, "mask": masks},
        Stream.SEG_UNLABELED: {"image": images(zeros)},
        Stream.CLS_LABELED: {"image": images(labels[0]), "label": labels[0]},
        Stream.CLS_UNLABELED: {"image": images(labels[1]), "label": labels[1]},
    }


def keys(seed=0):
    return ExampleKeys(jax.random.key(seed))


@functools.cache
def variables(of, seed=0):
    """Variables of a network, drawn by NumPy, since XLA takes long to compile its own draws."""
    rng = np.random.default_rng(seed)
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, of.in_channels), jnp.float32)
    shapes = jax.eval_shape(of.init, jax.random.key(0), images)
    draw = lambda leaf: rng.uniform(-0.3, 0.3, leaf.shape).astype(leaf.dtype)
    return jax.tree.map(draw, shapes)


def train_state(of, optimizer=None, **arguments):
    """State before the first step of an objective."""
    fresh = jax.tree.map(jnp.array, variables(of.model))
    return TrainState.create(fresh, optimizer or optax.sgd(0.1), **arguments)


@functools.cache
def _loss_and_gradient(of):
    def loss(params, state, batch, keys, threshold):
        return dataclasses.replace(of, threshold=threshold)(params, state, batch, keys)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def loss_and_gradient(of, batch, threshold=0.5):
    """((loss, (metrics, stats)), gradient) at the first weights; compiled once per objective."""
    state = train_state(of)
    return _loss_and_gradient(of)(state.params, state, batch, keys(), threshold)


def linear_loss(params, state, batch, keys):
    """Mean squared error of a linear model."""
    error = jnp.einsum("bi,i->b", batch["x"], params["w"]) - batch["y"]
    return jnp.square(error).mean(), ({"error": error.mean()}, state.batch_stats)


def noisy_loss(params, state, batch, keys):
    """The same with noise of its own on every example."""
    draw = lambda key, x: x + jax.random.normal(key, x.shape)
    x = jax.vmap(draw)(keys("noise", len(batch["x"])), batch["x"])
    return linear_loss(params, state, {**batch, "x": x}, keys)


def linear_state(optimizer, **arguments):
    params = {"w": jnp.asarray(LINEAR_WEIGHTS, jnp.float32)}
    return TrainState.create({"params": params}, optimizer, **arguments)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def assert_near(got, want, message="", tolerance=1e-4):
    """To within `tolerance` of the largest wanted value; `want` may be a PyTorch tensor."""
    want = np.asarray(want.detach() if hasattr(want, "detach") else want)
    atol = tolerance * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=message)


def largest_difference(left, right):
    return max(
        np.abs(a.astype(np.float64) - b).max()
        for a, b in zip(leaves(left), leaves(right), strict=True)
    )


def resized(image, height, width):
    """SciPy's linear interpolation of [H,W,C] with aligned corners, float64."""
    rows = np.linspace(0, image.shape[0] - 1, height)
    columns = np.linspace(0, image.shape[1] - 1, width)
    points = np.meshgrid(rows, columns, indexing="ij")
    planes = [
        ndimage.map_coordinates(plane.astype(np.float64), points, order=1)
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, axis=-1)


def conv_block(image, params):
    """SciPy's ConvBlock of one image [H,W,C] without dropout, float64."""
    for name in ("conv1", "conv2"):
        kernel = np.asarray(params[name]["kernel"], np.float64)
        planes = [
            sum(
                ndimage.correlate(
                    image[..., i].astype(np.float64), kernel[:, :, i, o], mode="constant"
                )
                for i in range(kernel.shape[2])
            )
            + float(params[name]["bias"][o])
            for o in range(kernel.shape[3])
        ]
        image = np.stack(planes, axis=-1)
        image = (image - image.mean((0, 1))) / np.sqrt(image.var((0, 1)) + 1e-5)
        image = np.where(image > 0, image, 0.2 * image)
    return image


def pooled(image):
    """2x2 maxima of [H,W,C]."""
    height, width, channels = image.shape
    return image.reshape(height // 2, 2, width // 2, 2, channels).max((1, 3))
