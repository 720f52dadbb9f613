"""What the labels of a data set mean."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

VOID = 255  # in a mask as it is stored: neither inside nor outside, in no loss and in no metric


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """Classes and masks; it goes whole from the data set to the exported program."""

    class_names: tuple[str, ...] = ()  # in the order of the labels
    multi_label: bool = False  # an image has any number of the classes; else just one (multi-class)
    mask_names: tuple[str, ...] = ()  # of the masks' channels; () where there is one
    void: bool = False  # whether masks may hold VOID
    # Pairs of names, of masks or of classes, that change places in a mirror image.
    mirrored: tuple[tuple[str, str], ...] = ()
    # Of how many connected components the masks of each channel consist in training, 0 where that
    # differs; () where nobody asked.
    components: tuple[int, ...] = ()

    @property
    def mask_channels(self) -> int:
        return max(1, len(self.mask_names))

    @property
    def may_mirror(self) -> bool:
        """Whether a mirror image can be labelled: of no pair there is one without the other."""
        return all(
            (one in names) == (other in names)
            for one, other in self.mirrored
            for names in (self.mask_names, self.class_names)
        )

    @property
    def mask_order(self) -> tuple[int, ...]:
        """Which channel of the masks each one of a mirror image is; () where all stay."""
        return self._order(self.mask_names)

    @property
    def class_order(self) -> tuple[int, ...]:
        """Which class each one of a mirror image is; () where all stay."""
        return self._order(self.class_names)

    def _order(self, names: tuple[str, ...]) -> tuple[int, ...]:
        if not self.may_mirror:
            return ()
        other = {a: b for pair in self.mirrored for a, b in (pair, pair[::-1])}
        order = tuple(names.index(other.get(name, name)) for name in names)
        return order if order != tuple(range(len(names))) else ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From JSON values, in which tuples are lists; KeyError or TypeError of others."""
        names = {key: tuple(values[key]) for key in ("class_names", "mask_names")}
        pairs = [tuple(pair) for pair in values["mirrored"]]
        texts = [name for group in (*names.values(), *pairs) for name in group]
        if not all(isinstance(name, str) for name in texts):
            raise TypeError("the names of classes and masks are not text")
        return cls(
            **names,
            multi_label=bool(values["multi_label"]),
            void=bool(values["void"]),
            mirrored=tuple((one, other) for one, other in pairs),
            components=tuple(map(int, values["components"])),
        )
