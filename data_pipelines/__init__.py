"""Data sets of chest X-rays and of volumes, prepared once and read by index."""

import os
import pkgutil
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# TensorFlow moves data here, no more: its notice about faster operations would only confuse.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from data_pipelines.arguments import preparation
from data_pipelines.errors import DataError
from data_pipelines.examples import Examples
from data_pipelines.findings import collected
from data_pipelines.prepare import SetBuilder

_OF_IMAGES = ("chex", "jsrt", "mcu", "nihx", "folder")
_OF_VOLUMES = ("la", "folder3d")
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
        return _make(name, **options)
    if name in _DRAWN:
        _, task, hospital = name.split("_")
        return _make("phantom", task=task, hospital=hospital, size=size, **options)
    options |= dict(source_dir=Path(data_dir, subdir or name), exclude=exclude.get(name, ()))
    if name in _OF_VOLUMES or (kind == "folder3d" and subdir):
        return _make(kind, **options)
    if name in _OF_IMAGES or (kind == "folder" and subdir):
        paths = folder if name == "folder" else {}
        options |= dict(size=size, fit=fit, channels=channels)
        return _make(kind, **paths, **options)
    raise DataError(f"no data set is named {name!r}; use one of {', '.join(NAMES)}")


def _make(kind: str, **options: Any) -> SetBuilder:
    """Module and class are called after the kind: sets/folder3d.py has Folder3D."""
    with collected() as problems:
        builder = pkgutil.resolve_name(f"data_pipelines.sets.{kind}:{kind.title()}")(**options)
    builder.problems = problems
    return builder


def contents(config: Mapping[str, Any]) -> dict[str, str]:
    """Digests of what the own folders hold that a config trains on, wherever they lie.

    They are by kind of file, "images", "masks" and "labels"; {} where there is no such folder.
    """
    names = dict.fromkeys((config["seg_data"], config["cls_data"]))
    builders: list[Any] = [
        make_builder(name, **preparation(config))
        for name in names
        if name.partition(":")[0] == "folder"
    ]
    each = [builder.contents() for builder in builders]
    kinds = each[0] if each else ()
    return {kind: ",".join(one[kind] for one in each if one[kind]) for kind in kinds}


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
