"""Drawn chest X-rays: small data sets for tests, examples and machines without data."""

from typing import NamedTuple

import numpy as np

from data_pipelines.sets.chest_drawing import draw
from data_pipelines.sets.image_set import DecodedImage, ImageSetBuilder
from data_pipelines.source import Roots, Source
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Split, Task

_SEED = 20210413  # of all sets
_DRAWN_SIZE = 256


class Plan(NamedTuple):
    """What a set consists of."""

    number: int  # for the seed
    train: int
    val: int
    test: int
    sick: float  # share of patients with opacities


PLANS = {
    ("seg", "a"): Plan(0, train=110, val=10, test=40, sick=0.06),
    ("seg", "b"): Plan(1, train=0, val=0, test=60, sick=0.06),
    ("cls", "a"): Plan(2, train=500, val=60, test=120, sick=0.65),
    ("cls", "b"): Plan(3, train=0, val=0, test=120, sick=0.5),
}


class Phantom(ImageSetBuilder):
    """Drawn films of one hospital, for one task: lung masks (seg) or normal / pneumonia (cls)."""

    def __init__(self, *, task: str, hospital: str, size: int, prepared_dir: str = ""):
        """Of the hospitals, 'a' is to train on and 'b' to test on."""
        self.task, self.hospital = task, hospital
        self.plan = PLANS[task, hospital]
        if task == Task.CLS:
            self.label_spec = LabelSpec(("normal", "pneumonia"))
        name = f"phantom_{task}_{hospital}"
        super().__init__(source_dir=__file__, size=size, prepared_dir=prepared_dir, name=name)

    def fingerprint(self) -> str:
        return "drawing1"  # raise the number when a picture changes

    def find(self, roots: Roots) -> list[Source]:
        """Lists the films; in 'cls', one or two are of one patient and agree in their label."""
        rng = np.random.default_rng([_SEED, self.plan.number])
        sources: list[Source] = []
        for split in Split:
            count = getattr(self.plan, split)
            films = rng.integers(1, 3, count) if self.task == Task.CLS else np.ones(count, np.int64)
            sick = rng.random(count) < self.plan.sick
            for patient in np.repeat(np.arange(count), films)[:count]:
                label = int(sick[patient]) if self.task == Task.CLS else -1
                group = f"{split}_patient{patient:04d}"
                sources.append(Source(f"{split}_{len(sources):04d}", group, split, label=label))
        return sources

    def read(self, source: Source) -> DecodedImage:
        index = int(source.id.rpartition("_")[2])
        rng = np.random.default_rng([_SEED, self.plan.number, index])
        opacity = source.label == 1 if self.task == Task.CLS else rng.random() < self.plan.sick
        image, lungs = draw(rng, size=_DRAWN_SIZE, hospital=self.hospital, opacity=bool(opacity))
        return image, lungs if self.task == Task.SEG else None, (0.0, 0.0)
