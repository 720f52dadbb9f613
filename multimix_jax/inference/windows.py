"""Prediction for images and volumes larger than what a network is given at once."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.errors import UsageError

PyTree = Any
PredictPatches = Callable[[PyTree, jax.Array], dict[str, jax.Array]]


def window_starts(extent: Sequence[int], patch: Sequence[int], stride: Sequence[int]) -> np.ndarray:
    """First corners of the windows over an image: every `stride`, and one that ends at its edge.

    int32 [N, axes], as many as it takes to cover every pixel; a side of the image, `extent`, that
    is smaller than the window's, `patch`, counts as large.
    """
    axes = []
    for size, side, step in zip(extent, patch, stride, strict=True):
        last = max(size - side, 0)
        axes.append([min(step * index, last) for index in range(-(-last // step) + 1)])
    return np.array(list(itertools.product(*axes)), np.int32)


def window_weights(patch: Sequence[int], kind: str) -> np.ndarray:
    """How much each pixel of a window counts, float32 of its shape, more than 0.

    `kind` is 'uniform', or 'gaussian': of an eighth of each side around the middle, not below a
    thousandth (Isensee et al. 2021).
    """
    if kind == "uniform":
        return np.ones(patch, np.float32)
    along = [np.exp(-((np.arange(n) - (n - 1) / 2) ** 2) / (2 * (n / 8) ** 2)) for n in patch]
    weights = functools.reduce(np.multiply.outer, along)
    return np.maximum(weights / weights.max(), 1e-3).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Windows:
    """How an image is cut; raises UsageError where a value is out of its range."""

    patch: tuple[int, ...] = ()  # sides of a window
    stride: tuple[int, ...] = ()  # along each axis; more than the patch's side would leave gaps
    batch_size: int = dataclasses.field(default=4, metadata={"least": 1})  # windows at once
    weights: str = "gaussian"  # or 'uniform', see `window_weights`

    def __post_init__(self) -> None:
        fits = len(self.stride) == len(self.patch) and all(
            1 <= step <= side for step, side in zip(self.stride, self.patch, strict=True)
        )
        if not fits:
            raise UsageError(
                f"stride={tuple(self.stride)}, but it must be 1 to {tuple(self.patch)} on each "
                "axis; set config.window.stride"
            )
        if self.weights not in ("uniform", "gaussian"):
            raise UsageError(
                f"weights={self.weights!r} is unknown; use 'uniform' or 'gaussian' "
                "(config.window.weights)"
            )


def make_sliding_window(
    predict: PredictPatches, windows: Windows
) -> Callable[[PyTree, np.ndarray], dict[str, np.ndarray]]:
    """Compiles a prediction for whole images: the weighted mean over the windows that see a pixel.

    The windows go through the network in batches, within one compiled program. It is compiled once
    for all images whose sides, rounded up to multiples of the patch's, are the same.

    Args:
      predict: (variables, patches [B,*patch,C]) -> probabilities [B,*patch,C'] by name.
      windows: how an image is cut; a smaller one is filled up with zeros around it.

    Returns:
      (variables, image [*sides,C]) -> float32 [*sides,C'] by name.
    """
    patch, stride, batch_size = windows.patch, windows.stride, windows.batch_size
    weight = jnp.asarray(window_weights(patch, windows.weights))[..., None]

    @jax.jit
    def compiled(
        variables: PyTree, image: jax.Array, starts: jax.Array, count: jax.Array
    ) -> dict[str, jax.Array]:
        cut = lambda array, start: jax.lax.dynamic_slice(
            array, (*start, 0), (*patch, array.shape[-1])
        )
        patches = jnp.zeros((batch_size, *patch, image.shape[-1]), image.dtype)
        shapes = jax.eval_shape(predict, variables, patches)
        sums = {
            name: jnp.zeros((*image.shape[:-1], shape.shape[-1] + 1), jnp.float32)
            for name, shape in shapes.items()
        }

        def one_batch(index: jax.Array, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
            places = index * batch_size + jnp.arange(batch_size)
            at = starts[jnp.minimum(places, count - 1)]
            answer = predict(variables, jax.vmap(cut, in_axes=(None, 0))(image, at))
            for name, values in answer.items():
                for row in range(batch_size):
                    # The last channel adds up the weights; beyond the last window nothing counts.
                    shown = jnp.where(places[row] < count, weight, 0.0)
                    added = jnp.concatenate([values[row] * shown, shown], axis=-1)
                    window = cut(sums[name], at[row]) + added
                    sums[name] = jax.lax.dynamic_update_slice(sums[name], window, (*at[row], 0))
            return sums

        sums = jax.lax.fori_loop(0, -(-count // batch_size), one_batch, sums)
        return {name: s[..., :-1] / jnp.maximum(s[..., -1:], 1e-12) for name, s in sums.items()}

    def whole(variables: PyTree, image: np.ndarray) -> dict[str, np.ndarray]:
        sides = image.shape[:-1]
        missing = [max(side - size, 0) for size, side in zip(sides, patch, strict=True)]
        before = [gap // 2 for gap in missing]
        filled = [-(-max(size, side) // side) * side for size, side in zip(sides, patch)]
        padding = [(b, f - size - b) for b, f, size in zip(before, filled, sides)]
        starts = window_starts(sides, patch, stride)
        # As many as the largest image of this program has, so that all its images share it.
        most = len(window_starts(filled, patch, stride))
        places = np.zeros((most, len(patch)), np.int32)
        places[: len(starts)] = starts
        padded = np.pad(image, [*padding, (0, 0)])
        answer = compiled(variables, padded, places, jnp.int32(len(starts)))
        inner = tuple(slice(b, b + size) for b, size in zip(before, sides))
        return {name: np.asarray(values)[inner] for name, values in answer.items()}

    return whole
