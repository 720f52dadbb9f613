"""Data sets of chest X-rays and of volumes, prepared once and read by index."""

import os
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# TensorFlow moves data here, no more: its notice about faster operations would only confuse.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from data_pipelines.arguments import preparation
from data_pipelines.errors import DataError
from data_pipelines.examples import Examples
from data_pipelines.prepare import SetBuilder
from data_pipelines.sets.chex import Chex
from data_pipelines.sets.folder import Folder
from data_pipelines.sets.folder3d import Folder3D
from data_pipelines.sets.image_set import ImageSetBuilder
from data_pipelines.sets.jsrt import Jsrt
from data_pipelines.sets.la import La
from data_pipelines.sets.mcu import Mcu
from data_pipelines.sets.nihx import Nihx
from data_pipelines.sets.volume_set import VolumeSetBuilder

_OF_IMAGES: dict[str, type[ImageSetBuilder]] = {
    "chex": Chex,
    "jsrt": Jsrt,
    "mcu": Mcu,
    "nihx": Nihx,
    "folder": Folder,
}
_OF_VOLUMES: dict[str, type[VolumeSetBuilder]] = {"la": La, "folder3d": Folder3D}
_DRAWN = ("phantom_seg_a", "phantom_seg_b", "phantom_cls_a", "phantom_cls_b", "phantom3d")
NAMES = (*_OF_IMAGES, "folder:SUBDIR", *_OF_VOLUMES, "folder3d:SUBDIR", *_DRAWN)

__all__ = ["NAMES", "DataError", "Examples", "contents", "load", "make_builder"]


def make_builder(
    name: str,
    *,
    data_dir: str | Path,
    prepared_dir: str,
    size: int,
    fit: str = "squash",
    channels: int = 1,
    folder: Mapping[str, str] = types.MappingProxyType({}),
    exclude: Mapping[str, Collection[str]] = types.MappingProxyType({}),
) -> SetBuilder:
    """The builder of a data set, by its name; see `load`."""
    for key, path in (("data_dir", data_dir), ("prepared_dir", prepared_dir)):
        if "://" in str(path):
            raise DataError(
                f"--config.{key}={path} is the address of a bucket, but prepared sets are read "
                "from disks alone; mount it as a folder (docs/scaling.md)"
            )
    kind, _, subdir = name.partition(":")
    options: dict[str, Any] = dict(prepared_dir=prepared_dir)
    if name == "phantom3d":
        from data_pipelines.sets.phantom3d import Phantom3D

        return Phantom3D(**options)
    if name in _DRAWN:
        from data_pipelines.sets.phantom import Phantom

        _, task, hospital = name.split("_")
        return Phantom(task=task, hospital=hospital, size=size, **options)
    options |= dict(
        source_dir=Path(data_dir, subdir or name), exclude=exclude.get(name, frozenset())
    )
    if name in _OF_IMAGES or (kind == "folder" and subdir):
        paths = folder if name == "folder" else {}
        return _OF_IMAGES[kind](size=size, fit=fit, channels=channels, **paths, **options)
    if name in _OF_VOLUMES or (kind == "folder3d" and subdir):
        return _OF_VOLUMES[kind](**options)
    raise DataError(f"no data set is named {name!r}; use one of {', '.join(NAMES)}")


def contents(config: Mapping[str, Any]) -> dict[str, str]:
    """Digests of what the own folders hold that a config trains on, wherever they lie.

    Args:
        config: fields of configs/common.py, as nested dictionaries.

    Returns:
        By kind of file: "images", "masks" and "labels"; {} where there is no such folder.
    """
    names = dict.fromkeys((config["seg_data"], config["cls_data"]))
    folders = [make_builder(name, **preparation(config)) for name in names if _is_folder(name)]
    each = [builder.contents() for builder in folders if isinstance(builder, Folder)]
    kinds = ("images", "masks", "labels") if each else ()
    return {kind: ",".join(one[kind] for one in each if one[kind]) for kind in kinds}


def _is_folder(name: str) -> bool:
    return name.partition(":")[0] == "folder"


def load(name: str, *, cache_bytes: int = 4 * 2**30, **options: Any) -> Examples:
    """Opens a data set by its name, preparing it first where that has not been done.

    Args:
        name: one of NAMES; "folder:SUBDIR" is the folder data_dir/SUBDIR.
        cache_bytes: sets up to this size are kept in memory.
        data_dir: the folder that contains chex/, jsrt/, ...; unused by the phantoms.
        prepared_dir: root of the prepared sets; "" is TFDS' own ($TFDS_DATA_DIR or
            ~/tensorflow_datasets).
        size: side of the images in pixels, a multiple of 16; volumes keep their own.
        fit, channels: how images are fitted to it, see `resize.ResizeSpec`; phantoms and
            volumes are not.
        folder: where the images, masks and labels of "folder" lie, see `Folder`.
        exclude: ids of examples not to take, by data set (see `exclude.read`); none by default.

    Raises:
        DataError: the name is unknown, or a file is missing or wrong.
    """
    builder = make_builder(name, **options)
    builder.prepare()
    return Examples.open(builder, cache_bytes=cache_bytes)
