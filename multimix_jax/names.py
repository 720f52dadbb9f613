"""The names that travel through the whole library: each is written once, here."""

import enum


class Task(enum.StrEnum):
    """What a network learns."""

    SEG = "seg"
    CLS = "cls"


class Stream(enum.StrEnum):
    """The streams of a training batch, which is a dictionary of them."""

    SEG_LABELED = "seg/labeled"
    SEG_UNLABELED = "seg/unlabeled"
    CLS_LABELED = "cls/labeled"
    CLS_UNLABELED = "cls/unlabeled"

    @property
    def task(self) -> Task:
        return Task(self.value.partition("/")[0])

    @property
    def labeled(self) -> bool:
        return self.endswith("/labeled")

    @classmethod
    def of(cls, task: Task, *, labeled: bool) -> "Stream":
        return cls(f"{task}/{'labeled' if labeled else 'unlabeled'}")


class Head(enum.StrEnum):
    """What is predicted of an image, in the order in which it is shown."""

    MASK = "mask"  # probabilities
    MASK_SDF = "mask_sdf"  # the same, from the signed distance map
    MASK_AVERAGE = "mask_average"  # the mean of both
    DISTANCE = "distance"  # a signed distance map in [-1, 1]
    CLASSES = "classes"  # probabilities

    @property
    def is_mask(self) -> bool:
        return self.startswith("mask")

    @property
    def short(self) -> str:
        """How metrics of a mask are told apart: '' of the first, 'sdf', 'average'."""
        return self.partition("_")[2]

    def metric(self, name: str) -> str:
        """The name of a mask's metric in results: 'dice', 'sdf/dice', 'average/dice'."""
        return f"{self.short}/{name}" if self.short else name


class Checkpoint(enum.StrEnum):
    """Which weights of a run: the best on validation, or the last."""

    BEST = "best"
    LAST = "last"


BASELINE = "baseline"  # stands beside the checkpoints in results: the answer without a model


class Split(enum.StrEnum):
    """The parts that a data set is divided into."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class Component(enum.StrEnum):
    """What systems consist of, to tell them apart by."""

    CLASSIFIER = "classifier"
    DECODER = "decoder"
    BRIDGE = "bridge"
    BRIDGE_GRADIENT = "gradient through the bridge"
    PSEUDO_LABELS = "pseudo-labels"
    KL = "KL"
    SPATIAL = "spatial augmentation"
    INTENSITY = "intensity augmentation"
    DISTANCE_NETWORK = "distance network"
    MUTUAL = "mutual term"
    TEACHER = "teacher"
