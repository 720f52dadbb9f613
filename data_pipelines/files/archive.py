"""Unpacks archives of plain files and folders."""

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipelines.errors import MOST_PACKED, DataError, refuse_damaged
from data_pipelines.files import paths


def extract(archive: Path, folder: Path) -> None:
    """Unpacks a .zip or .tar.* file; a DataError refuses one that is damaged, holds a link or a
    path that leads out of `folder`, or more bytes than the disk has room for or than it can have
    packed.
    """
    with refuse_damaged(archive, "extracted", "download the archive again"):
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(folder, list(_checked(zipped.infolist(), archive, folder)))
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, _checked(tar, archive, folder), filter="data")


def _checked(members: Iterable[Any], archive: Path, folder: Path) -> Iterator[Any]:
    """Passes members on as long as what they claim, summed up, can be."""
    free = shutil.disk_usage(folder.parent).free
    most = MOST_PACKED * archive.stat().st_size
    claimed = 0
    for member in members:
        if isinstance(member, zipfile.ZipInfo):
            name, size = member.filename, member.file_size
            kind = stat.S_IFMT(member.external_attr >> 16)
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
        else:
            name, size = member.name, member.size
            plain = member.isfile() or member.isdir()
        if not paths.stays_below(name) or not plain:
            raise DataError(
                f"{archive} holds {name!r}, which is a link, leads elsewhere or is no name; "
                "download the archive again, or unpack it by hand"
            )
        claimed += size
        if claimed > min(free, most):
            limit = f"cannot have packed more than {most};"
            if free < most:
                limit = f"{free} are free in {folder.parent}; make room, or"
            raise DataError(
                f"{archive} holds {claimed} bytes or more, but {limit} download the archive again"
            )
        yield member
