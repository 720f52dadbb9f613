"""The published tables of MultiMix, to stand beside our own (Haque et al. 2021, MELBA 2021:011)."""

import csv
import functools
import pathlib

NOTES = (
    "Jaccard can never exceed Dice, yet it does in many published rows without the bridge. Dice by "
    "the printed Jaccard, 2J / (1 + J), in brackets, agrees with the printed Dice for systems with "
    "the bridge and is .02 to .30 higher for those without: these tables do not show that the "
    "bridge helps; pseudo-labels do.",
    "Published accuracy on the external test set below .658 is below that of always answering "
    "normal.",
    "Published distances are of 256 x 256 images; which Hausdorff distance they are is not stated. "
    "Values below one pixel cannot be the greatest distance, so they stand beside the average one.",
    "The published external test sets, 4,185 images of NIH ChestX-ray14 and 35 of MCU, were chosen "
    "in a way that is not published, and are not the images of our tables.",
)
_BUDGET = ("system", "cls_labels", "seg_labels")
_EXTERNAL = "external "  # begins the columns of figures on the other data set
_EXTERNAL_SETS = {"jsrt": False, "chex": False, "mcu": True, "nihx": True}


def dice_by_jaccard(jaccard: float) -> float:
    """The Dice that belongs to a Jaccard index."""
    return 2 * jaccard / (1 + jaccard)


@functools.cache
def table() -> list[dict[str, str]]:
    """The rows of `published.csv`: budgets, and figures by our name of the metric; '' for none."""
    with pathlib.Path(__file__).with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def find(
    system: str, cls_labels: str | None, seg_labels: str | None, data_set: str
) -> dict[str, float]:
    """The published figures of a system and budget, by our name of the metric; {} if none are."""
    external = _EXTERNAL_SETS.get(data_set)
    wanted = system, cls_labels or "", seg_labels or ""
    for row in table():
        if external is not None and tuple(row[name] for name in _BUDGET) == wanted:
            return {
                name.removeprefix(_EXTERNAL): float(value)
                for name, value in row.items()
                if value and name not in _BUDGET and name.startswith(_EXTERNAL) == external
            }
    return {}
