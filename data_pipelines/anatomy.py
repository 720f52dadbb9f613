"""What names and masks say of the body: sides that change places in a mirror image, and organs."""

import collections
import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data_pipelines.errors import DataError
from data_pipelines.examples import Examples
from multimix_jax.labels import LabelSpec

_MOST_MASKS, _FEWEST_MASKS = 200, 5
_SAME_COUNT, _SAME_PLACE, _SPECK = 0.95, 0.9, 0.01
_SIDES = {"left": "right", "right": "left"}
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")  # of left_lung, LeftLung and LEFT LUNG


def of_body(labels: LabelSpec, mirrored: str) -> LabelSpec:
    """The labels with the pairs that `config.mirrored` means; DataError where it names what they
    have not."""
    masks, classes = labels.mask_names, labels.class_names
    names = tuple(dict.fromkeys((*masks, *classes)))
    guessed = _guess(masks) + _guess(classes)
    pairs = tuple(dict.fromkeys(guessed if mirrored == "auto" else _parse(mirrored, names)))
    counts = collections.Counter(name for pair in pairs for name in pair if name)
    for name, count in counts.items():
        if count > 1:
            raise DataError(
                f"{name} has more than one mirror image among {', '.join(names)}; say which in "
                "config.mirrored, such as left=right"
            )
    return dataclasses.replace(labels, mirrored=pairs)


def notes(labels: LabelSpec) -> list[str]:
    """What is done on account of it, a line each."""
    lines = []
    pairs = ", ".join(" and ".join(filter(None, pair)) for pair in labels.mirrored)
    if pairs and labels.may_mirror:
        lines.append(f"in mirror images {pairs} change places (config.mirrored)")
    elif pairs:
        lines.append(
            f"of {pairs} the data have one side alone, so that no image is mirrored, in training "
            'or in predictions (--config.mirrored="" would do it all the same)'
        )
    if any(labels.components):
        named = zip(labels.mask_names or ("each mask",), labels.components, strict=True)
        kept = ", ".join(f"{count} of {name}" for name, count in named if count)
        lines.append(
            f"of predicted masks the largest parts are kept, {kept}, as many as those trained on "
            "have (--config.keep_largest=0 keeps all)"
        )
    return lines


def count_components(masks: Examples) -> tuple[int, ...]:
    """How many connected components the masks of each channel have, where they are of an organ.

    That is where .95 of the first 200 masks have as many, but for specks of less than .01 of a
    mask, and there is a place that .9 of them cover; 0 where that is not so, or there are fewer
    than 5. A mask that is empty counts as one of no component.
    """
    count = min(len(masks), _MOST_MASKS)
    inside = [masks.fetch(np.array([index]))["mask"][0] == 1 for index in range(count)]
    return tuple(_components([mask[..., c] for mask in inside]) for c in range(inside[0].shape[-1]))


def _components(masks: Sequence[np.ndarray]) -> int:
    """Of masks bool [H,W] or [D,H,W], one of each image."""
    if len(masks) < _FEWEST_MASKS or np.mean(masks, axis=0).max() < _SAME_PLACE:
        return 0
    counts = []
    for mask in masks:
        sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
        counts.append(int((sizes >= _SPECK * sizes.sum()).sum()))
    most, times = collections.Counter(counts).most_common(1)[0]
    return most if times >= _SAME_COUNT * len(masks) else 0


def _guess(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs whose names differ in left and right alone, and those of which there is but one."""
    words = {name: [word.lower() for word in _WORDS.findall(name)] for name in names}
    pairs = []
    for name, own in words.items():
        sides = {word for word in own if word in _SIDES}
        if len(sides) != 1:  # none, or both: it is its own mirror image
            continue
        swapped = [_SIDES.get(word, word) for word in own]
        other = next((other for other in names if words[other] == swapped), "")
        if not other or sides == {"left"}:
            pairs.append((name, other))
    return tuple(pairs)


def _parse(text: str, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for item in filter(None, (item.strip() for item in text.split(","))):
        one, equals, other = (part.strip() for part in item.partition("="))
        unknown = [name for name in (one, other) if name and name not in names]
        if not (one and equals) or unknown:
            raise DataError(
                f"mirrored={text!r}: {(unknown or [item])[0]!r} is no "
                f"{'mask or class' if unknown else 'pair'}; write left=right, or left= for what "
                f"has no counterpart, with names of {', '.join(names) or 'masks or classes'} "
                "(config.mirrored)"
            )
        pairs.append((one, other))
    return tuple(pairs)
