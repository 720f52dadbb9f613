"""The published tables of MultiMix (Haque et al. 2021, MELBA 2021:011), to stand beside our own."""

import csv
import pathlib

# The published table's columns: (in-domain, metric, title).
COLUMNS = (
    (True, "accuracy", "Acc"),
    (True, "f1_normal", "F1-N"),
    (True, "f1_pneumonia", "F1-P"),
    (True, "dice", "Dice"),
    (True, "ssim", "SSIM"),
    (True, "ahd", "HD"),
    (True, "jaccard", "Jaccard"),
    (True, "precision", "P"),
    (True, "recall", "R"),
    (False, "accuracy", "Acc"),
    (False, "dice", "Dice"),
    (False, "ssim", "SSIM"),
    (False, "ahd", "HD"),
)
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
# How the names of columns of `published.csv` begin that are of these sets.
_SETS = {"jsrt": "", "chex": "", "mcu": "external ", "nihx": "external "}


def rows() -> list[dict[str, str]]:
    """The rows of `published.csv`: budgets, and figures by our name of the metric; '' for none."""
    path = pathlib.Path(__file__).with_name("published.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def figures(
    system: str, cls_labels: str | None, seg_labels: str | None, data_set: str
) -> dict[str, float]:
    """The published figures of a system and budget, by our name of the metric; {} if none are."""
    wanted = {"system": system, "cls_labels": cls_labels or "", "seg_labels": seg_labels or ""}
    prefix = _SETS.get(data_set)
    for row in rows() if prefix is not None else ():
        if wanted.items() <= row.items():
            shown = {metric: row.get(f"{prefix}{metric}") for _, metric, _ in COLUMNS}
            return {metric: float(figure) for metric, figure in shown.items() if figure}
    return {}
