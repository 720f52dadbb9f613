"""The network's convolutions alone: what is left of a step or a prediction if all else were free.

A kernel's gradient is as much work as the convolution forwards, and is counted, and run, as one.
The decoder's go over the doubled features whole, which our step does in less work: this is a
yardstick, not a bound.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import torch_multimix
from configs import common
from multimix_jax.ops.convolution import conv3x3

Streams = tuple[int, ...]  # how many streams each call takes at once
Shape = tuple[int, int, int]  # side, channels, features


class Convolution(NamedTuple):
    """Side in pixels, channels and features of a 3x3 convolution, and how many images it takes."""

    side: int
    channels: int
    features: int
    images: int

    @property
    def flops(self) -> float:
        return 2.0 * 9 * self.images * self.side**2 * self.channels * self.features


def of_step(side: int, images: int) -> list[Convolution]:
    """Those of a training step with so many images per stream that computes nothing in vain."""
    # Four streams forwards and back, the weak view forwards, saliency to the image and back.
    forwards, to_kernel, to_input = (4, 1, 2), (4,), (4, 2)
    to_image = (2,)  # of saliency alone
    encoder = _of_encoder(side, forwards + to_kernel, to_input, to_image)
    return _counted(encoder + _of_decoder(side, (2, 2), (2,)), images)


def of_prediction(side: int, images: int, saliency: bool) -> list[Convolution]:
    """Those of a prediction of masks and classes."""
    back = (1,) if saliency else ()
    return _counted(_of_encoder(side, (1,), back, back) + _of_decoder(side, (1,), ()), images)


def _of_encoder(
    side: int, forwards: Streams, to_input: Streams, to_image: Streams
) -> list[tuple[Shape, Streams]]:
    """Shapes, and through how many streams at once each convolution of a shape goes."""
    filters = common.get_config().model.filters
    shapes: list[tuple[Shape, Streams]] = []
    for level, width in enumerate(filters):
        at, before = side >> level, filters[level - 1] if level else 1
        shapes.append(((at, before, width), forwards))
        shapes.append(((at, width, width), forwards + to_input))
        shapes.append(((at, width, before), to_input if level else to_image))
    return shapes


def _of_decoder(side: int, forwards: Streams, to_input: Streams) -> list[tuple[Shape, Streams]]:
    filters = common.get_config().model.filters
    shapes: list[tuple[Shape, Streams]] = []
    for level, width in enumerate(filters[:-1]):
        at, joined = side >> level, width + filters[level + 1]
        shapes.append(((at, joined, width), forwards))
        shapes.append(((at, width, width), forwards + to_input))
        shapes.append(((at, width, joined), to_input))
    return shapes


def _counted(shapes: list[tuple[Shape, Streams]], images: int) -> list[Convolution]:
    return [Convolution(*shape, streams * images) for shape, calls in shapes for streams in calls]


def ours(convolutions: Sequence[Convolution], dtype: str) -> Callable[[], Any]:
    """All of them in one program on noise, free to run beside each other."""
    rng = np.random.default_rng(0)
    noise = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    inputs = {(c.images, c.side, c.side, c.channels) for c in convolutions}
    arguments = (
        {shape: noise(*shape) for shape in inputs},
        [noise(3, 3, c.channels, c.features) for c in convolutions],
    )

    @jax.jit
    def program(inputs: Any, kernels: Any) -> Any:
        results = [
            conv3x3(inputs[c.images, c.side, c.side, c.channels], kernel)
            for c, kernel in zip(convolutions, kernels)
        ]
        return [y[0, 0, 0, 0] for y in results]

    return lambda: jax.block_until_ready(program(*arguments))


def of_peer(convolutions: Sequence[Convolution], dtype: str) -> Callable[[], Any]:
    """PyTorch's, one after the other, channels last."""
    shapes = [(c.images, c.side, c.channels, c.features) for c in convolutions]
    return torch_multimix.convolutions(shapes, dtype)
