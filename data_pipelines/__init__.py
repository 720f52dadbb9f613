"""Chest X-ray data sets, prepared once at a working size and read by index."""

import os
from pathlib import Path

# TensorFlow moves data here, no more: its notice about faster operations would only confuse.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from data_pipelines.builder import ImageSetBuilder
from data_pipelines.chex import Chex
from data_pipelines.errors import DataError
from data_pipelines.examples import Examples
from data_pipelines.folder import Folder
from data_pipelines.jsrt import Jsrt
from data_pipelines.mcu import Mcu
from data_pipelines.nihx import Nihx

_FROM_FILES: dict[str, type[ImageSetBuilder]] = {
    "chex": Chex,
    "jsrt": Jsrt,
    "mcu": Mcu,
    "nihx": Nihx,
    "folder": Folder,
}
_DRAWN = ("phantom_seg_a", "phantom_seg_b", "phantom_cls_a", "phantom_cls_b")
NAMES = (*_FROM_FILES, "folder:SUBDIR", *_DRAWN)

__all__ = ["NAMES", "DataError", "Examples", "load"]


def load(
    name: str,
    *,
    data_dir: str | Path,
    prepared_dir: str,
    size: int,
    cache_bytes: int = 4 * 2**30,
) -> Examples:
    """Opens a data set by its name, preparing it first where that has not been done.

    Args:
        name: one of NAMES; "folder:SUBDIR" is the folder data_dir/SUBDIR.
        data_dir: the folder that contains chex/, jsrt/, ...; unused by the phantoms.
        prepared_dir: root of the prepared sets; "" is TFDS' own ($TFDS_DATA_DIR or
            ~/tensorflow_datasets).
        size: side of the images in pixels, a multiple of 16.
        cache_bytes: sets up to this size are held in memory.

    Raises:
        DataError: the name is unknown, or a file is missing or wrong.
    """
    builder: ImageSetBuilder
    kind, _, subdir = name.partition(":")
    if name in _DRAWN:
        from data_pipelines.phantom import Phantom  # here, since it needs SciPy

        _, task, hospital = name.split("_")
        builder = Phantom(task=task, hospital=hospital, size=size, prepared_dir=prepared_dir)
    elif name in _FROM_FILES or (kind == "folder" and subdir):
        source_dir = Path(data_dir, subdir or name)
        builder = _FROM_FILES[kind](source_dir=source_dir, size=size, prepared_dir=prepared_dir)
    else:
        raise DataError(f"no data set is named {name!r}; use one of {', '.join(NAMES)}")
    builder.prepare()
    return Examples(builder, cache_bytes=cache_bytes)
