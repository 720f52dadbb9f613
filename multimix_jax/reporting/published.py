"""The published tables of MultiMix, to stand beside our own (Haque et al. 2021, MELBA 2021:011)."""

from typing import NamedTuple

NOTES = (
    "Jaccard can never exceed Dice, yet it does in many published rows without the bridge. Dice by "
    "the printed Jaccard, 2J / (1 + J), in brackets, agrees with the printed Dice for systems with "
    "the bridge and is .02 to .30 higher for those without: these tables do not show that the "
    "bridge helps; pseudo-labels do.",
    "Published accuracy in the other hospital below .658 is below that of always answering normal.",
    "Published distances are of 256 x 256 images; which Hausdorff distance they are is not said. "
    "Values below one pixel cannot be the greatest distance, so they stand beside the average one.",
    "The published sets of other hospitals, 4,185 images of NIH ChestX-ray14 and 35 of MCU, were "
    "chosen in a way that is not published, and are not the images of our tables.",
)


IN_DOMAIN = {"jsrt": True, "chex": True, "mcu": False, "nihx": False}


class Published(NamedTuple):
    """A row: budgets, and figures by (in-domain or not, our name of the metric)."""

    system: str
    cls_labels: str | None
    seg_labels: str | None
    values: dict[tuple[bool, str], float]


def dice_by_jaccard(jaccard: float) -> float:
    """The Dice that belongs to a Jaccard index."""
    return 2 * jaccard / (1 + jaccard)


_SEGMENTATION = [
    *((True, name) for name in ("dice", "ssim", "ahd", "jaccard", "precision", "recall")),
    *((False, name) for name in ("dice", "ssim", "ahd")),
]
_CLASSIFICATION = [
    *((True, name) for name in ("accuracy", "f1_normal", "f1_pneumonia")),
    (False, "accuracy"),
]


def _row(
    system: str,
    cls_labels: str | None,
    seg_labels: str | None,
    classification: tuple[float, ...] = (),
    segmentation: tuple[float, ...] = (),
) -> Published:
    values = dict(zip(_CLASSIFICATION, classification))
    return Published(
        system, cls_labels, seg_labels, values | dict(zip(_SEGMENTATION, segmentation))
    )


# fmt: off
ROWS = (
    _row("unet", None, "10", (), (.634, .810, 2.899, .695, .779, .865, .555, .680, 8.691)),
    _row("unet", None, "all", (), (.915, .929, .104, .906, .949, .953, .838, .929, 1.414)),
    _row("enc", "100", None, (.732, .424, .806, .352)),
    _row("enc", "all", None, (.737, .534, .838, .434)),
    _row("enc_ssl", "100", None, (.780, .570, .844, .402)),
    _row("enc_ssl", "all", None, (.817, .680, .872, .510)),
    _row("umtl", "100", "10", (.707, .443, .797, .350),
         (.626, .908, 4.323, .871, .900, .964, .586, .836, 7.156)),
    _row("umtl", "all", "all", (.731, .447, .822, .443),
         (.932, .957, .372, .951, .965, .977, .854, .792, .866)),
    _row("umtl_s", "100", "10", (.704, .358, .806, .344),
         (.922, .891, 4.005, .848, .871, .966, .797, .807, 5.754)),
    _row("umtl_s", "all", "all", (.723, .413, .817, .433),
         (.974, .957, .327, .953, .967, .981, .916, .921, .882)),
    _row("umtl_ssl", "100", "10", (.790, .618, .856, .442),
         (.906, .940, .626, .925, .954, .953, .833, .884, .895)),
    _row("umtl_ssl_s", "100", "10", (.798, .628, .860, .370),
         (.951, .935, .792, .911, .940, .963, .853, .866, 1.048)),
    _row("multimix", "100", "10", (.800, .594, .856, .440),
         (.954, .938, .695, .920, .949, .969, .857, .863, 1.227)),
    _row("multimix", "1000", "50", (.825, .650, .860, .540),
         (.970, .950, .811, .941, .964, .977, .912, .907, 1.293)),
    _row("multimix", "all", "50", (.854, .760, .890, .560),
         (.972, .956, .692, .950, .970, .980, .935, .930, .515)),
    _row("multimix", "all", "all", (.843, .740, .890, .520),
         (.975, .960, .528, .952, .970, .982, .943, .937, .417)),
)
# fmt: on


def find(
    system: str, cls_labels: str | None, seg_labels: str | None, data_set: str
) -> dict[str, float]:
    """The published figures of a system and budget, by our name of the metric; {} if none are."""
    in_domain = IN_DOMAIN.get(data_set)
    for row in ROWS:
        if in_domain is not None and row[:3] == (system, cls_labels, seg_labels):
            return {metric: value for (at, metric), value in row.values.items() if at == in_domain}
    return {}
