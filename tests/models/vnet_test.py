import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multimix_jax.errors import UsageError
from multimix_jax.models import VNet

SMALL = dict(filters=4, convolutions=(1, 2))


def shapes(net, images, **options):
    init = functools.partial(net.init, **options)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros(images))


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_counts():
    both = VNet(heads=("mask", "sdf"))
    assert count(shapes(both, (1, 32, 32, 16, 1))) == 9_448_866
    assert count(shapes(VNet(), (1, 32, 32, 16, 1))) == 9_448_849


def test_count_in_two_dimensions():
    """By hand: 9 weights instead of 27, 4 instead of 8."""
    conv = lambda n, a, b: n * (9 * a * b + 3 * b)  # with bias, scale and shift
    step = lambda a, b: 4 * a * b + 3 * b
    widths = [16, 32, 64, 128, 256]
    want = conv(1, 1, 16) + sum(step(a, b) for a, b in zip(widths, widths[1:]))
    want += sum(conv(n, w, w) for n, w in zip((2, 3, 3, 3), widths[1:]))
    want += sum(step(b, a) for a, b in zip(widths, widths[1:]))
    want += sum(conv(n, w, w) for n, w in zip((1, 2, 3, 3), widths)) + 17
    assert count(shapes(VNet(), (1, 32, 32, 1))) == want


@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
@pytest.mark.parametrize("sides", [(8, 4), (4, 6, 8)])
def test_shapes_and_ranges(norm, sides):
    net = VNet(**SMALL, heads=("mask", "sdf"), norm=norm, mask_channels=2)
    images = jax.random.normal(jax.random.key(1), (3, *sides, 1))
    variables = net.init(jax.random.key(0), images)
    got = net.apply(variables, images)
    assert jax.tree.map(jnp.shape, got) == dict.fromkeys(("mask", "sdf"), (3, *sides, 2))
    assert jnp.abs(got["sdf"]).max() < 1
    assert ("batch_stats" in variables) == (norm == "batch")


def test_batch_norm_in_both_modes():
    net = VNet(**SMALL)
    images = 3 + jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    variables = net.init(jax.random.key(0), images)
    trained, updated = net.apply(variables, images, train=True, mutable=["batch_stats"])
    assert jnp.abs(trained["mask"] - net.apply(variables, images)["mask"]).max() > 1e-3
    before, after = variables["batch_stats"], updated["batch_stats"]
    assert jnp.abs(after["down1_norm"]["mean"] - before["down1_norm"]["mean"]).max() > 0


def test_dropout_takes_whole_channels():
    net = VNet(**SMALL, norm="instance")
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    variables = net.init(jax.random.key(0), images)
    draw = lambda seed: net.apply(variables, images, jax.random.split(jax.random.key(seed), 2))
    assert jnp.abs(draw(0)["mask"] - draw(1)["mask"]).max() > 1e-3
    np.testing.assert_array_equal(draw(0)["mask"], draw(0)["mask"])


@pytest.mark.parametrize(
    ("attributes", "images", "words"),
    [
        (dict(heads=("mask", "depth")), (1, 8, 8, 1), "head 'depth' is unknown"),
        (dict(norm="layer"), (1, 8, 8, 1), "norm='layer' is unknown; use one of batch"),
        ({}, (1, 8, 7, 1), "images are 8x7, but each side must be a multiple of 2"),
        ({}, (1, 8, 8, 3, 1), "images are 8x8x3, but each side"),
    ],
)
def test_errors(attributes, images, words):
    with pytest.raises(UsageError, match=words):
        shapes(VNet(**{**SMALL, **attributes}), images)
