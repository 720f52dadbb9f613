"""The pneumonia set of Kermany et al. 2018 ("CheX")."""

import re

from data_pipelines.files.paths import files_below
from data_pipelines.sets.image_set import ImageSetBuilder
from data_pipelines.source import Roots, Source
from multimix_jax.labels import LabelSpec

# person12_virus_46, IM-0115-0001, NORMAL2-IM-0381-0001, BACTERIA-1008087-0001
_PATIENT = re.compile(r"person\d+|(?:[A-Z0-9]+-)?[A-Z]+-\d+(?=-)")


class Chex(ImageSetBuilder):
    """chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg, at any depth."""

    label_spec = LabelSpec(("normal", "pneumonia"))
    files = ("*.jpeg", "*.jpg", "*.png")
    complete = 5856
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'Kermany et al., "Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for '
        'Classification", Mendeley Data, doi:10.17632/rscbjbr9sj (ChestXRay2017.zip), or '
        '"Chest X-Ray Images (Pneumonia)" on Kaggle (paultimothymooney/chest-xray-pneumonia); '
        "put the archive, or its folder chest_xray, into DATA_DIR/chex"
    )

    def find(self, roots: Roots) -> list[Source]:
        sources = []
        for path in files_below(roots):
            split, label = path.parts[-3:-1]
            if split not in ("train", "val", "test") or label not in ("NORMAL", "PNEUMONIA"):
                continue
            if path.suffix.lower() in (".jpeg", ".jpg", ".png"):
                number = _PATIENT.match(path.stem)
                patient = f"{label}/{number.group() if number else path.stem}"
                name, sick = f"{split}/{label}/{path.stem}", int(label == "PNEUMONIA")
                sources.append(Source(name, patient, split, image=path, label=sick))
        if not sources:
            raise self.missing("no images in {train,val,test}/{NORMAL,PNEUMONIA}")
        return sources
