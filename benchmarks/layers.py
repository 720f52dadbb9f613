"""Each layer of the network against its plain spelling in JAX and Flax, forward and backward.

    python -m benchmarks.layers [--quick] [--sides 128] [--batch 8] [--json FILE]

The sizes are those that the published network has at its levels for images of the given side.
"""

import functools
import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from configs import common
from multimix_jax.ops import norms, pooling
from multimix_jax.ops.convolution import conv3x3, conv3x3_reference
from multimix_jax.ops.interpolation import conv3x3_doubled, conv3x3_doubled_reference
from multimix_jax.training import machine

Layer = Callable[..., jax.Array]

row = functools.partial(Row, "layers")


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
        yield name, conv3x3, conv3x3_reference, arguments
        if level == len(filters) - 1:
            looped = in_loop(conv3x3), in_loop(conv3x3_reference)
            yield f"{name}, within a loop", *looped, arguments
    for level, (features, channels) in enumerate(itertools.pairwise(filters), 1):
        at = side >> level
        arguments = [noise(batch_size, at, at, channels), noise(3, 3, channels, features)]
        name = f"doubling and convolution {channels} -> {features} at {at}"
        yield name, conv3x3_doubled, conv3x3_doubled_reference, arguments
    x = noise(batch_size, side, side, filters[0])
    norm, norm_reference = norms.instance_norm_relu, norms.instance_norm_relu_reference
    yield "instance norm and leaky ReLU", norm, norm_reference, [x]
    yield "max-pool", pooling.max_pool, pooling.max_pool_reference, [x]


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
