"""What the values of masks mean, where they are more than inside and outside."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data_pipelines.errors import DataError
from data_pipelines.files import IMAGE_SUFFIXES, masks
from data_pipelines.files.paths import files_by_name
from data_pipelines.sets.folder_masks import ENDINGS
from data_pipelines.threads import in_threads
from multimix_jax.labels import VOID

SOFT = "soft"  # in place of meanings: masks are cut at half of the full scale
_KEY = "--config.folder.mask_values"
_OUTSIDE = -1
_RESERVED = {"outside": _OUTSIDE, "void": VOID}
_MOST_CLASSES = 32  # that are taken for such without being told
_HIGHEST_INDEX = 63  # of a class that is found without being told
_BETWEEN = 0.9  # share of the values between that lie between others in soft masks


@dataclasses.dataclass(frozen=True)
class MaskValues:
    """Attributes:
    meanings: of each value its class, VOID, or -1 for outside.
    names: of the classes; () where there is one without a name.
    """

    meanings: dict[int, int]
    names: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        return max(1, len(self.names))

    def __str__(self) -> str:
        words = {VOID: "void", _OUTSIDE: "outside"} | dict(enumerate(self.names or ("inside",)))
        return ", ".join(f"{masks.named(v)} is {words[m]}" for v, m in self.meanings.items())

    @property
    def void(self) -> bool:
        return VOID in self.meanings.values()

    def read(self, path: Path) -> np.ndarray:
        """uint8 [H, W, classes]: 1 inside, VOID in all where a pixel is void.

        Raises DataError as `masks.decode` does, and for a value without a meaning.
        """
        values = masks.decode(path).values
        unknown = np.setdiff1d(values, list(self.meanings))
        if len(unknown):
            raise DataError(
                f"{path} holds {masks.listed(unknown)}, which {_KEY} does not name; add to it what "
                "is meant, or correct the mask"
            )
        planes = np.zeros((*values.shape, self.classes), np.uint8)
        for value, meaning in self.meanings.items():
            if meaning == VOID:
                planes[values == value] = VOID
            elif meaning != _OUTSIDE:
                planes[values == value, meaning] = 1
        return planes


def parse(text: str) -> MaskValues | None:
    """'1=lung,2=heart,255=void' -> what it says; None of 'soft'. 0 is outside unless it is named.

    Raises DataError where it is neither.
    """
    if text.strip() == SOFT:
        return None
    meanings = {0: _OUTSIDE}
    names: list[str] = []
    for item in text.split(","):
        value, _, name = (part.strip() for part in item.partition("="))
        try:
            number = _colour(value) if value.startswith("#") else int(value)
        except ValueError:
            number = -1
        if number < 0 or not name:
            raise DataError(
                f"{_KEY} has {item!r}; it must be VALUE=NAME,... with whole numbers or colours "
                "(#ff0000) and the names of classes, 'void' or 'outside', or be 'soft'"
            )
        if name not in (*_RESERVED, *names):
            names.append(name)
        meanings[number] = _RESERVED[name] if name in _RESERVED else names.index(name)
    if not names:
        raise DataError(f"{_KEY}={text} names no class; add VALUE=NAME")
    return MaskValues(meanings, tuple(names))


def _colour(text: str) -> int:
    number = int(text[1:], 16)
    red, green, blue = number.to_bytes(3, "big")
    return red if red == green == blue else masks.COLOUR + number


Found = list[MaskValues | None]  # of each folder of masks


def to_json(found: Found) -> str:
    return json.dumps([one and [list(one.meanings.items()), one.names] for one in found])


def from_json(text: str) -> Found:
    return [one and MaskValues(dict(one[0]), tuple(one[1])) for one in json.loads(text)]


def refuse_classes(found: Found, roots: Sequence[Path]) -> None:
    """Raises DataError where folders of one class each hold, or are said to hold, several."""
    for meaning, root in zip(found, roots, strict=True):
        if meaning and meaning.names:
            raise DataError(
                f"{root} is the folder of one class, but its masks hold several ({meaning.names[0]}"
                f", ...), or {_KEY} says so; export them with 255 inside and 0 outside, or put "
                "masks of all classes into one folder"
            )


@functools.lru_cache(maxsize=8)
def find_in(roots: tuple[Path, ...], fingerprint: str, exclude: frozenset[str]) -> Found:
    """See `find`, for the masks below each root, but those of examples that are excluded; the
    `fingerprint` tells the files from what they were."""
    del fingerprint
    listed = [files_by_name(root, IMAGE_SUFFIXES) for root in roots]
    out = exclude | {PurePath(entry).with_suffix("").as_posix() for entry in exclude}
    is_out = lambda name: any(name.removesuffix(ending) in out for ending in ("", *ENDINGS))
    return [find(path for name, path in of.items() if not is_out(name)) for of in listed]


def spread(plane: np.ndarray, place: int, count: int) -> np.ndarray:
    """[H, W, 1] -> [H, W, count], with it as the channel `place`, and its VOID in all."""
    planes = np.zeros((*plane.shape[:2], count), plane.dtype)
    planes[..., place] = plane[..., 0]
    planes[plane[..., 0] == VOID] = VOID
    return planes


class _Seen(NamedTuple):
    """Of a mask file: its values but 0, in order; `soft`: too many for classes, fractions or lossy;
    `flat`: some values, few but for what lossy compression adds, between 0 and the highest cover
    areas.
    """

    path: Path
    values: Sequence[float]
    colours: dict[int, masks.Colour]
    soft: bool
    flat: bool


def find(paths: Iterable[Path]) -> MaskValues | None:
    """What the values of masks mean, judged by all files; None: they are cut at half of the full
    scale, each by itself (see `masks.read_soft`).

    Files of one value beside 0, or with soft edges, are cut. Small whole numbers are indices of
    classes; 255 beside them is void. Indices of palettes with colours, and colours, are classes.
    Files that cannot be read are passed over. Raises DataError where it can be neither.
    """
    seen = [one for one in in_threads(_look, paths) if one is not None]
    hard = [one for one in seen if not one.soft]
    values = sorted({value for one in hard for value in one.values})
    coloured = [one for one in seen if one.colours or max(one.values, default=0) >= masks.COLOUR]
    _refuse_palettes(coloured)
    small = [value for value in values if value != 255]
    bordered = any(255 in one.values and len(one.values) > 1 for one in hard)
    void = bordered and 0 < max(small) <= _HIGHEST_INDEX
    if not coloured:
        if not small or max(small) > _HIGHEST_INDEX or (255 in values and not void):
            _refuse_levels(seen)
            return None
        if len(small) == 1 and not void:  # right if it is 1, else refused as each file is read
            return None
    soft = next((one for one in seen if one.soft), None)
    if soft is not None or len(values) > _MOST_CLASSES:
        path = hard[0].path if soft is None else soft.path
        raise DataError(
            f"{path} holds {masks.listed(np.array(soft.values if soft else values))}, all masks "
            f"{masks.listed(np.array(values or [0]))} that may be classes; say what they mean, "
            f"{_KEY}=VALUE=NAME,..., or 'soft' for masks to be cut at half of the full scale"
        )
    classes = [value for value in values if not (void and value == 255)]
    meanings = {int(value): place for place, value in enumerate(classes)}
    names = tuple(map(masks.named, classes)) if len(classes) > 1 else ()
    return MaskValues({0: _OUTSIDE} | meanings | ({255: VOID} if void else {}), names)


def _look(path: Path) -> _Seen | None:
    try:
        values, colours, lossy = masks.decode(path)
    except DataError:
        return None  # reported when the example is read
    if values.dtype == np.uint8:
        found = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    else:
        found = np.unique(values)
    found = found[found != 0]
    many = len(found) > _MOST_CLASSES or (found != np.rint(found)).any()
    flat = False
    if 1 < len(found) <= _MOST_CLASSES and _HIGHEST_INDEX < found[-1] < masks.COLOUR and not lossy:
        between = (values > 0) & (values < found[-1])
        lower, higher = (f(values, 3) for f in (ndimage.minimum_filter, ndimage.maximum_filter))
        flat = ((lower < values) & (values < higher))[between].mean() < _BETWEEN
    elif lossy and len(found) > 1 and found[-1] < masks.COLOUR:
        flat = _has_levels(values)
    soft = bool(many or (lossy and len(found) > 1))
    return _Seen(path, found[: _MOST_CLASSES + 1].tolist(), colours, soft, bool(flat))


def _has_levels(values: np.ndarray) -> bool:
    """Whether areas of a lossy mask, uint8 [H, W], are of few values between outside and inside."""
    lower, higher = (f(values, 5) for f in (ndimage.minimum_filter, ndimage.maximum_filter))
    between = (values > 24) & (values < 231)
    even = values[between & (higher - lower <= 8)]
    often = np.bincount(even // 16, minlength=16) > 0.02 * even.size
    # What is blurred has each value alike.
    return even.size > max(0.01 * values.size, 0.5 * between.sum()) and often.sum() <= 6


def _refuse_palettes(coloured: Sequence[_Seen]) -> None:
    """Raises DataError where an index has one colour here and another there."""
    first: dict[int, tuple[masks.Colour, Path]] = {}
    for one in coloured:
        for index, colour in one.colours.items():
            known, path = first.setdefault(index, (colour, one.path))
            if known != colour:
                raise DataError(
                    f"{one.path} has the colour {colour} at place {index} of its palette, but "
                    f"{path} has {known} there; export all masks with one palette, or with colours "
                    f"in place of one, or name the places, {_KEY}=PLACE=NAME,..."
                )


def _refuse_levels(seen: Sequence[_Seen]) -> None:
    """Raises DataError where values between 0 and the highest may be classes of their own."""
    soft = any(one.soft or (len(one.values) > 1 and not one.flat) for one in seen)
    passing = lambda value: value > masks.full_scale(value) / 2  # others are refused as read
    values = {value for one in seen for value in one.values}
    levels = set(filter(passing, values - {1, 255, 65535}))
    odd = next((one for one in seen if set(one.values) & levels), None)
    mixed = odd is not None and not soft and any(set(o.values) - set(odd.values) for o in seen)
    flat = next((one for one in seen if one.flat), odd if mixed else None)
    if flat is not None and flat.soft:
        raise DataError(
            f"{flat.path} has areas of values between outside and inside, as if of several "
            "classes, but its compression has changed the values; export it as PNG, or say "
            f"{_KEY}=soft for masks to be cut at half of the full scale"
        )
    if flat is not None:
        raise DataError(
            f"{flat.path} holds {masks.listed(np.array([0, *flat.values]))}: neither outside and "
            "inside, nor the numbers of classes from 1 on, nor soft edges; say what they mean, "
            f"{_KEY}=VALUE=NAME,... ('void' for pixels that do not count, 'outside' for others), "
            "or 'soft' for masks to be cut at half of the full scale"
        )
