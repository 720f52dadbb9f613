"""What the labels of a data set mean."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """Classes and masks; it goes whole from the data set to the exported program.

    Attributes:
      class_names: in the order of the labels; () where there are no classes.
      multi_label: whether an image has any number of the classes; else just one (multi-class).
      mask_names: of the channels of the masks; () where there is one channel.
    """

    class_names: tuple[str, ...] = ()
    multi_label: bool = False
    mask_names: tuple[str, ...] = ()

    @property
    def mask_channels(self) -> int:
        return max(1, len(self.mask_names))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "class_names": list(self.class_names),
            "multi_label": self.multi_label,
            "mask_names": list(self.mask_names),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
          KeyError, TypeError: the values are not those of a `LabelSpec`.
        """
        names = {key: tuple(values[key]) for key in ("class_names", "mask_names")}
        if not all(isinstance(name, str) for group in names.values() for name in group):
            raise TypeError("the names of classes and masks are not text")
        return cls(multi_label=bool(values["multi_label"]), **names)
