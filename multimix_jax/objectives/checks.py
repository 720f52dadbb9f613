"""What arrays of one's own may hold, looked at before they are learned from or predicted."""

from typing import Any, Protocol

import jax
import numpy as np

from multimix_jax.errors import UsageError
from multimix_jax.labels import VOID, LabelSpec
from multimix_jax.names import Stream, Task
from multimix_jax.objectives.base import Batch, Network


def check_pixels(values: Any, what: str) -> None:
    """Raises UsageError unless all numbers of an image, or of several, are pixels of 0 to 255."""
    values = np.asarray(values)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    remedy = ""
    if values.dtype == bool:
        remedy = "it is a mask"
    elif not np.isfinite([low, high]).all():
        remedy = "replace what is not finite"
    elif low < 0:
        remedy = "map them to 0..255, such as by (x + 1) * 127.5 from -1..1"
    elif 0 < high <= 1 and not np.issubdtype(values.dtype, np.integer):
        remedy = "multiply by 255"
    elif high > 255:
        remedy = "map them to 0..255, such as by x * (255 / x.max())"
    if remedy:
        raise UsageError(
            f"{what} holds values from {low:g} to {high:g} ({values.dtype}), but pixels are 0 to "
            f"255; {remedy}"
        )


class Learner(Protocol):
    """What of an objective says what it learns from."""

    @property
    def labels(self) -> LabelSpec: ...
    @property
    def network(self) -> Network: ...
    @property
    def streams(self) -> tuple[Stream, ...]: ...


def check_batch(
    batch: Batch,
    learner: Learner,
    *,
    mask_channels: int,
    num_classes: int = 0,
    multi_label: bool = False,
    eight_bit: bool = True,
) -> None:
    """Raises UsageError where a batch is not what an objective learns from; of arrays that are
    traced, where values are unknown, by their shapes alone.

    Args:
      batch: arrays by stream.
      learner: the objective, of whose images the number of axes and the channels count.
      mask_channels, num_classes: of the networks.
      eight_bit: whether images are pixels of 0 to 255.
    """
    streams, image_shape = learner.streams, learner.network.input_shape(0)
    for stream in streams:
        needed = ["image"]
        if stream.labeled:
            needed.append("mask" if stream.task == Task.SEG else "label")
        arrays = batch.get(stream, {})
        missing = [name for name in needed if name not in arrays]
        if missing:
            raise UsageError(
                f'the batch has no batch["{stream}"]["{missing[0]}"], but this objective learns '
                f"from {', '.join(streams)}; add {' and '.join(needed)}, or switch off what learns "
                "from it"
            )
        image, name = arrays["image"], f'batch["{stream}"]["image"]'
        if image.ndim != len(image_shape) + 1 or image.shape[-1] != image_shape[-1]:
            axes = "B,H,W" if len(image_shape) == 3 else "B,D,H,W"
            raise UsageError(
                f"{name} is {list(image.shape)}, but the network takes [{axes},{image_shape[-1]}]: "
                "the channels are the last axis"
            )
        if eight_bit and not isinstance(image, jax.core.Tracer):
            check_pixels(image, name)
        if "mask" in needed:
            _check_mask(arrays["mask"], image, mask_channels, learner.labels)
        if "label" in needed:
            _check_label(arrays["label"], len(image), num_classes, multi_label)


def _check_mask(mask: Any, image: Any, channels: int, labels: LabelSpec) -> None:
    name = f'batch["{Stream.SEG_LABELED}"]["mask"]'
    wanted = (*image.shape[:-1], channels)
    if mask.shape != wanted:
        axis = "; add the axis of the channels, mask[..., None]" * (mask.shape == wanted[:-1])
        raise UsageError(f"{name} is {list(mask.shape)}, but the masks are {list(wanted)}{axis}")
    if isinstance(mask, jax.core.Tracer):
        return
    found = np.unique(np.asarray(mask))[:5]
    if not set(found.tolist()) <= {0, 1, *([VOID] if labels.void else [])}:
        raise UsageError(
            f"{name} holds {', '.join(f'{value:g}' for value in found)}, but masks are 0 and 1; "
            "use mask > 127 of masks of 0 and 255"
        )


def _check_label(label: Any, count: int, classes: int, multi_label: bool) -> None:
    name = f'batch["{Stream.CLS_LABELED}"]["label"]'
    wanted = (count, classes) if multi_label else (count,)
    if label.shape != wanted:
        remedy = ""
        if label.shape == (count, classes):
            remedy = (
                "; of one-hot labels use label.argmax(-1), and multi_label=True where an image may "
                "have any number of classes"
            )
        raise UsageError(f"{name} is {list(label.shape)}, but labels are {list(wanted)}{remedy}")
    if isinstance(label, jax.core.Tracer):
        return
    low, high = (-1, 1) if multi_label else (0, classes - 1)
    values = np.asarray(label)
    if values.size and not (values.min() >= low and values.max() <= high):
        raise UsageError(
            f"{name} holds {values.min()} to {values.max()}, but labels are {low} to {high}"
        )
