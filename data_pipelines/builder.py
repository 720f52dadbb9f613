"""The base of every data set: a TFDS builder that prepares one folder once."""

import collections
import contextlib
import csv
import dataclasses
import errno
import fcntl
import hashlib
import io
import itertools
import logging
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from tqdm import tqdm

from data_pipelines.errors import DataError
from data_pipelines.files import claims

SPLIT = "examples"  # the one TFDS split; its name for all splits, "all", is reserved
INDEX_FILE = "examples.csv"
PLACES_FILE = "places.txt"  # where the files were that were prepared
INDEX_COLUMNS = (
    *("id", "group", "split", "label", "has_mask"),
    *("shape", "spacing_mm", "affine", "source"),
)
_DIGITS = 12  # of a fingerprint
_SHARD_BYTES = 2**27  # TFDS holds one shard in memory while it writes it
_THREADS = min(8, os.cpu_count() or 1)  # each may hold a film of 20 megapixels

# What the modules of archives raise; a password or an unknown method is a RuntimeError.
_UNPACKABLE = (
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
_logger = logging.getLogger(__name__)
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclasses.dataclass(frozen=True)
class Source:
    """One example before anything is decoded: who it is and where its files lie."""

    id: str
    group: str
    split: str = ""
    image: Path | None = None
    masks: tuple[Path, ...] = ()
    label: int = -1  # a class; of independent ones bit k is set for class k; -1 for unknown


class SetBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Reads a folder of images or volumes and stores the set as ArrayRecord files.

    A subclass says where the files lie (`find`) and what is stored of one example (`example`,
    `pixel_features`).
    """

    VERSION = tfds.core.Version("1.1.0")
    class_names: tuple[str, ...] = ()  # in the order of the label values
    exclusive: bool = True  # whether an image has one class; else any of them, each by itself
    mask_names: tuple[str, ...] = ()  # in the order of the mask's channels, where there are several
    channels: int = 1  # of the images
    url_infos: dict[str, Any] = {}  # nothing is downloaded; TFDS would look for checksums
    archives: tuple[str, ...] = ("*.zip",)  # glob patterns of the official archives
    complete: int = 0  # examples in the whole set, 0 = any number
    pixel_type: type[np.generic]  # of `image` as it is stored
    example_bytes: int  # of one record, about

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(skip_registration=True, **kwargs)  # type: ignore[call-arg]

    def __init__(
        self,
        *,
        source_dir: str | Path,
        variant: str,
        prepared_dir: str,
        name: str = "",
        leave_out: Collection[str] = (),
    ):
        """Args:
        source_dir: the folder with the official or the converted files.
        variant: how they are prepared, for the name of the prepared set.
        prepared_dir: root of the prepared sets; "" is TFDS' own ($TFDS_DATA_DIR or
            ~/tensorflow_datasets).
        name: folder of this set below prepared_dir; "" is the name of the class.
        leave_out: ids of examples that are not taken.
        """
        self.source_dir = Path(source_dir)
        self.variant = variant
        self.leave_out = frozenset(leave_out)
        if name:
            self.name = name
        left_out = "\n".join(sorted(self.leave_out)).encode()
        mark = f"_without{hashlib.sha256(left_out).hexdigest()[:6]}" if left_out else ""
        name = f"{variant}_{self.fingerprint()}{mark}"
        self._alike = re.compile(f"{re.escape(variant)}_[0-9a-f]{{{_DIGITS}}}{mark}")
        config = tfds.core.BuilderConfig(name=name)
        with _quiet():
            super().__init__(
                data_dir=prepared_dir or None, config=config, file_format="array_record"
            )

    @property
    def mask_channels(self) -> int:
        return max(1, len(self.mask_names))

    def find(self, roots: Sequence[Path]) -> list[Source]:
        """Lists the examples below `roots`: the source folder, then any extracted archives.

        Where an id is listed twice, the first one counts.

        Raises:
            DataError: nothing was found, or the listing contradicts itself.
        """
        raise NotImplementedError

    def example(self, source: Source) -> dict[str, Any]:
        """Decodes one example: the `pixel_features`, and `has_mask`."""
        raise NotImplementedError

    def pixel_features(self) -> dict[str, Any]:
        """TFDS features of `image`, `mask` (zeros where there is none), `spacing` and any more."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Changes when a file below the source folder does: its path, size or time."""
        return self.digest(files_below([self.source_dir]))

    def places(self) -> str:
        """Where the files lie: a set prepared from the same places was prepared earlier."""
        return str(self.source_dir.resolve())

    def digest(self, files: Iterable[Path], words: Iterable[str] = ()) -> str:
        """Of the paths, sizes and times of files, and of what else matters."""
        digest = hashlib.sha256(str(self.VERSION).encode())
        for path in files:
            stat = path.stat()
            name = str(path).removeprefix(str(self.source_dir))
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        for word in words:
            digest.update(f"{word}\n".encode())
        return digest.hexdigest()[:_DIGITS]

    def missing(self, what: str) -> DataError:
        """The error for files that are not there; says where to get them."""
        return DataError(
            f"{self.source_dir}: {what}; set --config.data_dir to the folder that contains "
            f"{self.source_dir.name}/, or fetch the set: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )

    def prepare(self) -> None:
        """Prepares the set unless it is there already. On failure nothing is left behind.

        Of several processes with the same prepared_dir, one prepares and the others wait.

        Raises:
            DataError: a file is missing or wrong.
        """
        root = Path(self.data_dir_root)
        if self.index_path.exists():
            return
        with _no_leftovers(self.index_path.parent):
            root.mkdir(parents=True, exist_ok=True)
            with _locked(root):
                self._prepare(root)

    def _prepare(self, root: Path) -> None:
        index = self.index_path
        if index.exists():  # another process was first
            self.info.read_from_directory(self.data_dir)
            return
        if index.parent.exists():  # stopped between the records and their table
            self._write_places()
            _write_index(index, self._index_from_records())
            return
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=root, prefix=".scratch"))
            sources = self.sources(Path(scratch))
            self._warn(len(sources))
            _logger.info("preparing %s (%s): %d examples", self.name, self.variant, len(sources))
            rows: list[dict[str, Any]] = []
            self._num_examples = len(sources)
            self._pending = stack.enter_context(contextlib.closing(self._examples(sources, rows)))
            with _quiet():
                self.download_and_prepare(
                    download_dir=scratch,
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                )
        self._write_places()
        _write_index(index, rows)

    def _write_places(self) -> None:
        text = self.places().encode(errors="surrogateescape")
        self.index_path.with_name(PLACES_FILE).write_bytes(text)

    @property
    def index_path(self) -> Path:
        return Path(self.data_dir) / INDEX_FILE

    def sources(self, scratch: Path) -> list[Source]:
        """Lists the examples by id; if that fails, with the archives extracted into `scratch`.

        Raises:
            DataError: nothing was found, or the listing contradicts itself.
        """
        try:
            found = self.find([self.source_dir])
        except DataError:
            packed = sorted({p for glob in self.archives for p in self.source_dir.glob(glob)})
            if not packed:
                raise
            folders = []
            for number, archive in enumerate(packed):
                _logger.info("extracting %s", archive)
                folders.append(scratch / str(number))
                _extract(archive, folders[-1])
            found = self.find([self.source_dir, *folders])
        by_id: dict[str, Source] = {}
        for source in found:
            if not _is_name(source.id) or not _is_text(source.group):
                raise DataError(
                    f"{source.image}: an example cannot be called {source.id!r} (of group "
                    f"{source.group!r}), since files are named after it; rename it"
                )
            by_id.setdefault(source.id, source)
        return [by_id[key] for key in sorted(by_id) if key not in self.leave_out]

    def _examples(
        self, sources: list[Source], rows: list[dict[str, Any]]
    ) -> Generator[tuple[str, dict[str, Any]]]:
        """Yields (key, features) in the order of `sources` and notes each in `rows`."""
        examples = in_threads(self._example, sources)
        progress = tqdm(
            zip(sources, examples, strict=True),
            desc=f"Preparing {self.name} ({self.variant})",
            total=len(sources),
            unit=" examples",
            disable=None,  # shown on a terminal only
        )
        with contextlib.closing(examples), progress:
            for source, example in progress:
                rows.append(_row(example, str(source.image or "")))
                yield source.id, example

    def _example(self, source: Source) -> dict[str, Any]:
        who = {key: getattr(source, key) for key in ("id", "group", "split", "label")}
        return {**who, **self.example(source)}

    def _warn(self, found: int) -> None:
        """Says so where the set is not complete, or was prepared earlier from other files."""
        if self.complete not in (0, found):
            _logger.warning(
                "%s: found %d examples; the complete set has %d",
                self.source_dir,
                found,
                self.complete,
            )
        path = Path(self.data_dir).parent
        alike = [p for p in path.parent.glob("*") if p != path and self._alike.fullmatch(p.name)]
        older = [p for p in alike if _places(p / str(self.VERSION)) == self.places()]
        if older:
            _logger.warning(
                "the files in %s have changed since %s was prepared; preparing again "
                "(the older preparation can be deleted)",
                self.source_dir,
                max(older, key=lambda p: p.stat().st_mtime),
            )

    def _index_from_records(self) -> list[dict[str, Any]]:
        return [
            _row({key: _text(value) for key, value in record.items()}, "")
            for record in self.as_data_source(SPLIT)
        ]

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "group": tfds.features.Text(),
                "split": tfds.features.Text(),
                "has_mask": np.bool_,
                "label": np.int64,
                **self.pixel_features(),
            }
        )
        return _Info(builder=self, features=features, disable_shuffling=True)

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterable[tuple[str, dict[str, Any]]]]]]:
        del dl_manager  # nothing is downloaded
        per_shard = max(1, _SHARD_BYTES // self.example_bytes)
        shards = -(-self._num_examples // per_shard)
        # TFDS writes the shards one after the other, so they can share one running iterator.
        return {SPLIT: [lambda: itertools.islice(self._pending, per_shard)] * shards}


class _Info(tfds.core.DatasetInfo):
    """Does not look for the set where TFDS keeps its own; that would leave a folder behind."""

    def initialize_from_bucket(self) -> None:
        pass


def files_below(roots: Iterable[Path]) -> Iterator[Path]:
    """Yields the files in and below each root, sorted; hidden ones and __MACOSX are skipped."""
    for root in roots:
        for folder, folders, names in os.walk(root, followlinks=True):
            folders[:] = sorted(name for name in folders if not is_stray(name))
            yield from (Path(folder, name) for name in sorted(names) if not is_stray(name))


def files_by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files below `folder` with one of the suffixes, by their relative paths without it."""
    found: dict[str, Path] = {}
    for path in files_below([folder]):
        suffix = next((s for s in suffixes if path.name.lower().endswith(s)), None)
        if suffix is None:
            continue
        name = path.relative_to(folder).as_posix()[: -len(suffix)]
        if name in found:
            raise DataError(f"{found[name]} and {path} have the same name; rename one of them")
        found[name] = path
    return found


def is_stray(name: str) -> bool:
    """Whether a file or a folder is not of a data set: hidden, or left by an archiver."""
    return name.startswith(".") or name == "__MACOSX"


def _is_text(text: str) -> bool:
    """Whether it can be written to a table: file names may hold bytes that are no text."""
    return not any(char < " " or "\ud800" <= char <= "\udfff" for char in text)


def _is_name(text: str) -> bool:
    """Whether files may be named after it: it stays within a folder."""
    path = PurePosixPath(text.replace("\\", "/"))
    return text != "" and _is_text(text) and not path.is_absolute() and ".." not in path.parts


def _extract(archive: Path, folder: Path) -> None:
    """Unpacks an archive of plain files and folders, once it is known what it claims."""
    bytes_claimed = 0
    free = shutil.disk_usage(folder.parent).free
    most = claims.MOST_PACKED * archive.stat().st_size

    def check(name: str, size: int, plain: bool) -> None:
        nonlocal bytes_claimed
        bytes_claimed += size
        if not _is_name(name) or not plain:
            raise DataError(
                f"{archive} holds {name!r}, which is a link, leads elsewhere or is no name; "
                "download the archive again, or unpack it by hand"
            )
        if bytes_claimed > min(free, most):
            raise DataError(
                f"{archive} holds {bytes_claimed} bytes or more, but "
                + (f"{free} are free in {folder.parent}; make room, or" if free < most else "")
                + (f"cannot have packed more than {most};" if most <= free else "")
                + " download the archive again"
            )

    def checked(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        for member in tar:
            check(member.name, member.size, member.isfile() or member.isdir())
            yield member

    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    mode = stat.S_IFMT(info.external_attr >> 16)
                    check(info.filename, info.file_size, mode in (0, stat.S_IFREG, stat.S_IFDIR))
                zipped.extractall(folder)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, checked(tar), filter="data")
    except DataError:
        raise
    except _UNPACKABLE as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{archive} cannot be extracted ({reason}); download the archive again"
        ) from error


def in_threads(function: Callable[[_In], _Out], items: Iterable[_In]) -> Generator[_Out]:
    """Maps in threads; keeps the order and stays at most a few items ahead of the reader."""
    waiting: collections.deque[Future[_Out]] = collections.deque()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _row(example: dict[str, Any], source: str) -> dict[str, Any]:
    return {
        **{key: example[key] for key in ("id", "group", "split", "label")},
        "has_mask": int(example["has_mask"]),
        "shape": " ".join(map(str, example["image"].shape[:-1])),
        "spacing_mm": _numbers(example["spacing"]),
        "affine": _numbers(example.get("affine", ())),
        "source": source,
    }


def _numbers(values: Any) -> str:
    return " ".join(map(str, np.asarray(values).ravel().tolist()))


def _places(prepared: Path) -> str:
    """What `places` was when a set was prepared; '' where that is not known."""
    try:
        return (prepared / PLACES_FILE).read_bytes().decode(errors="surrogateescape")
    except OSError:
        return ""


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _write_index(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the table of examples; whole or not at all."""
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, INDEX_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS' own notices off the screen; they speak of downloads that never happen."""
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time, where the file system knows locks; a killed one holds none."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _no_leftovers(path: Path) -> Iterator[None]:
    """On failure removes the empty parents of `path` that were made inside."""
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise
