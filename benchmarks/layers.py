"""Each layer of the network against its plain spelling in JAX and Flax, forward and backward.

    python -m benchmarks.layers [--quick] [--sides 128] [--batch 8] [--json FILE]

The sizes are those that the published network has at its levels for images of the given side.
"""

import functools
import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from configs import common
from multimix_jax.models import blocks
from multimix_jax.ops import convolution, interpolation
from multimix_jax.training import machine

Layer = Callable[..., jax.Array]

row = functools.partial(Row, "layers")


def plain_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def plain_doubled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    height, width = 2 * x.shape[1], 2 * x.shape[2]
    return plain_convolution(interpolation.resize_aligned(x, height, width), kernel)


def plain_norm_relu(x: jax.Array) -> jax.Array:
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    return nn.leaky_relu((x - mean) * jax.lax.rsqrt(variance + blocks.EPSILON), blocks.SLOPE)


def plain_max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), (2, 2))


def cases(side: int, batch_size: int) -> Iterator[tuple[str, Layer, Layer, list[jax.Array]]]:
    """Name, our layer, the plain one, and their arguments."""
    rng = np.random.default_rng(0)
    noise = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    filters = common.get_config().model.filters
    convolutions = [(0, 1, filters[0])]
    for level, width in enumerate(filters):
        convolutions.append((level, width, width))
    for level, channels, features in convolutions:
        at = side >> level
        arguments = [noise(batch_size, at, at, channels), noise(3, 3, channels, features)]
        name = f"convolution {channels} -> {features} at {at}"
        yield name, convolution.conv3x3, plain_convolution, arguments
        if level == len(filters) - 1:
            looped = in_loop(convolution.conv3x3), in_loop(plain_convolution)
            yield f"{name}, within a loop", *looped, arguments
    for level, (features, channels) in enumerate(itertools.pairwise(filters), 1):
        at = side >> level
        arguments = [noise(batch_size, at, at, channels), noise(3, 3, channels, features)]
        name = f"doubling and convolution {channels} -> {features} at {at}"
        yield name, convolution.conv3x3_doubled, plain_doubled, arguments
    x = noise(batch_size, side, side, filters[0])
    yield "instance norm and leaky ReLU", blocks.norm_relu, plain_norm_relu, [x]
    yield "max-pool", blocks.max_pool, plain_max_pool, [x]


def in_loop(layer: Layer) -> Layer:
    """Image by image, as `jax.lax.scan` over the parts of a batch has it."""

    def loop(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.map(lambda image: layer(image[None], kernel)[0], x)

    return loop


def forward_and_backward(layer: Layer, arguments: list[jax.Array]) -> Callable[[], Any]:
    @jax.jit
    def program(arguments: list[jax.Array], cotangent: jax.Array) -> Any:
        y, back = jax.vjp(layer, *arguments)
        return y, back(cotangent)

    cotangent = jnp.ones(jax.eval_shape(layer, *arguments).shape)
    return lambda: jax.block_until_ready(program(arguments, cotangent))


def main() -> None:
    parser = measure.parser(__doc__, sides=(128,))
    parser.add_argument("--batch", type=int, default=8, help="images at once")
    args = parser.parse_args()
    machine.set_xla_flags()
    rows = []
    for side in args.sides:
        for name, layer, plain, arguments in cases(side, args.batch):
            programs = [forward_and_backward(f, arguments) for f in (layer, plain)]
            ours, peer = measure.in_turn(programs, rounds=3 if args.quick else args.rounds)
            medians = statistics.median(ours), statistics.median(peer)
            ratio = measure.median_ratio(peer, ours)
            rows.append(row(f"side {side}: {name}", *medians, "s", ratio))
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
