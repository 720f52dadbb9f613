"""Unpacks archives of plain files and folders."""

import errno
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files import claims, paths

# What the modules of archives raise; a password or an unknown method is a RuntimeError.
_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    struct.error,
    lzma.LZMAError,
    zlib.error,
)


def extract(archive: Path, folder: Path) -> None:
    """Unpacks a .zip or .tar.* file, member by member once it is known what that claims to be.

    Raises:
        DataError: it is damaged, holds a link or a path that leads out of `folder`, or more bytes
            than the disk has room for or than it can have packed.
    """
    check = _Members(archive, folder)
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    kind = stat.S_IFMT(info.external_attr >> 16)
                    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                    check.add(info.filename, info.file_size, plain)
                zipped.extractall(folder)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, check.checked(tar), filter="data")
    except DataError:
        raise
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{archive} cannot be extracted ({reason}); download the archive again"
        ) from error


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
