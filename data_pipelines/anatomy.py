"""What names and masks say of the body: sides that change places in a mirror image."""

import collections
import dataclasses
import re
from collections.abc import Sequence

from data_pipelines.errors import DataError
from multimix_jax.labels import LabelSpec

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
    pairs = ", ".join(" and ".join(filter(None, pair)) for pair in labels.mirrored)
    if not pairs:
        return []
    if labels.may_mirror:
        return [f"in mirror images {pairs} change places (config.mirrored)"]
    return [
        f"of {pairs} the data have one side alone, so that no image is mirrored, in training or in "
        'predictions (--config.mirrored="" would do it all the same)'
    ]


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
