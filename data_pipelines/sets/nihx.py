"""NIH ChestX-ray14 (Wang et al. 2017), normal against abnormal."""

from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files import table
from data_pipelines.files.paths import files_below
from data_pipelines.sets.image_set import ImageSetBuilder
from data_pipelines.source import Roots, Source
from multimix_jax.labels import LabelSpec

_COLUMNS = ("Image Index", "Finding Labels", "Patient ID")
_LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}


class Nihx(ImageSetBuilder):
    """images*/**/*.png with Data_Entry_2017*.csv; a subset of the images will do.

    "No Finding" is normal, any finding is abnormal. The official lists give the splits.
    """

    label_spec = LabelSpec(("normal", "abnormal"))
    archives = ("images*.tar.gz", "images*.zip", "archive.zip")
    files = ("*.png", "data_entry_2017*.csv", *_LISTS)
    complete = 112120
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the ChestX-ray14 box of the NIH Clinical Center (CXR8: images_001.tar.gz ... "
        "images_012.tar.gz, Data_Entry_2017*.csv, train_val_list.txt, test_list.txt), or "
        '"NIH Chest X-rays" on Kaggle (nih-chest-xrays/data); put the files, packed or unpacked, '
        "into DATA_DIR/nihx"
    )

    def find(self, roots: Roots) -> list[Source]:
        images: dict[str, Path] = {}
        tables: list[Path] = []
        splits: dict[str, str] = {}
        for path in files_below(roots):
            if path.suffix.lower() == ".png":
                images.setdefault(path.name, path)
            elif path.name.startswith("Data_Entry_2017") and path.suffix == ".csv":
                tables.append(path)
            elif path.name in _LISTS:
                names = (Path(line).stem for line in table.read_lines(path))
                splits |= dict.fromkeys(names, _LISTS[path.name])
        if not images:
            raise self.missing("no images *.png")
        if not tables:
            raise self.missing("no Data_Entry_2017*.csv")
        rows: dict[str, tuple[str, str]] = {}
        due = f"the official table, with {', '.join(_COLUMNS)}, is needed"
        for _, cells in table.read_rows(tables[0], _COLUMNS, due):
            name, findings, patient = (table.stated(cells[column]) for column in _COLUMNS)
            if not findings or not patient:
                raise DataError(
                    f"{tables[0]}: the row of {name} has no Finding Labels or no Patient ID; use "
                    "the official table"
                )
            if rows.setdefault(Path(name).stem, (findings, patient)) != (findings, patient):
                raise DataError(f"{tables[0]} has two rows of {name}; use the official table")
        sources = []
        for path in images.values():
            if path.stem not in rows:
                raise DataError(
                    f"{path} has no row in {tables[0]}; add its row (columns "
                    f"{', '.join(_COLUMNS)}) or remove the image"
                )
            findings, patient = rows[path.stem]
            label = int(findings != "No Finding")
            split = splits.get(path.stem, "")
            sources.append(Source(path.stem, patient, split, image=path, label=label))
        return sources
