"""Unpacks archives of plain files and folders."""

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.errors import DataError, refuse_damaged
from data_pipelines.files import claims, paths


def extract(archive: Path, folder: Path) -> None:
    """Unpacks a .zip or .tar.* file, member by member once it is known what that claims to be.

    Raises:
        DataError: it is damaged, holds a link or a path that leads out of `folder`, or more bytes
            than the disk has room for or than it can have packed.
    """
    members = _Members(archive, folder)
    with refuse_damaged(archive, "extracted", "download the archive again"):
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    kind = stat.S_IFMT(info.external_attr >> 16)
                    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                    members.add(info.filename, info.file_size, plain)
                zipped.extractall(folder)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, members.checked(tar), filter="data")


class _Members:
    """What the members of an archive claim, summed up."""

    def __init__(self, archive: Path, folder: Path):
        self.archive, self.parent = archive, folder.parent
        self.free = shutil.disk_usage(folder.parent).free
        self.most = claims.MOST_PACKED * archive.stat().st_size
        self.claimed = 0

    def add(self, name: str, size: int, plain: bool) -> None:
        self.claimed += size
        if not paths.stays_below(name) or not plain:
            raise DataError(
                f"{self.archive} holds {name!r}, which is a link, leads elsewhere or is no name; "
                "download the archive again, or unpack it by hand"
            )
        if self.claimed <= min(self.free, self.most):
            return
        if self.free < self.most:
            limit = f"{self.free} are free in {self.parent}; make room, or"
        else:
            limit = f"cannot have packed more than {self.most};"
        raise DataError(
            f"{self.archive} holds {self.claimed} bytes or more, but {limit} download the archive "
            "again"
        )

    def checked(self, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        for member in tar:
            self.add(member.name, member.size, member.isfile() or member.isdir())
            yield member
