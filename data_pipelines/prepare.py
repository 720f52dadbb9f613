"""The base of every data set: a TFDS builder that prepares one folder once."""

import contextlib
import csv
import dataclasses
import fnmatch
import functools
import hashlib
import io
import itertools
import logging
import re
import tempfile
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging

from data_pipelines import checks, exclude, findings, records
from data_pipelines.errors import DataError
from data_pipelines.files import archive, paths
from data_pipelines.findings import Finding, Problem, collected
from data_pipelines.folders import locked, no_leftovers
from data_pipelines.source import Roots, Source
from data_pipelines.threads import in_threads, show_progress
from multimix_jax import atomic
from multimix_jax.labels import LabelSpec

SPLIT = "examples"  # the one TFDS split; its name for all splits, "all", is reserved
_FINDINGS = "findings.json"  # of the audit
_ORIGIN = "origin.txt"  # how, and from where, a set was prepared
_TEXTS = (".csv", ".txt", ".list")
_SHARD_BYTES = 2**27  # TFDS holds one shard in memory while it writes it
_logger = logging.getLogger(__name__)


class _Info(tfds.core.DatasetInfo):
    """Does not look for a set that is not prepared yet in a bucket of TFDS' own, which would leave
    an empty folder among the system's temporary files each time. It is the one override of what
    TFDS does inside.
    """

    def initialize_from_bucket(self) -> None:
        pass


class SetBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Reads a folder of images or volumes and stores the set as ArrayRecord files.

    A subclass says where the files lie (`find`) and what is stored of one example (`example`). It
    is a `ShardBasedBuilder` since a `GeneratorBasedBuilder` that keeps the order of its examples
    sorts all of them in memory.
    """

    VERSION = tfds.core.Version("1.2.0")
    variant: str  # how examples are prepared, for the name of the prepared set
    label_spec: LabelSpec = LabelSpec()
    channels: int = 1  # of the images
    files: tuple[str, ...] = ("*",)  # glob patterns of the files that are read, in lower case
    archives: tuple[str, ...] = ("*.zip",)  # and of the official archives
    complete: int = 0  # examples in the whole set, 0 = any number
    pixel_type: type[np.generic]  # of `image` as it is stored
    sides: tuple[int | None, ...]  # of examples as they are stored, None where they differ
    example_bytes: int  # of one record, about
    problems: Sequence[Problem] = ()  # noted when it was made, such as of its table

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(skip_registration=True, **kwargs)  # type: ignore[call-arg]

    def __init__(
        self,
        *,
        source_dir: str | Path,
        prepared_dir: str = "",
        name: str = "",
        exclude: Collection[str] = (),
    ):
        """`source_dir` has the official or the converted files; `prepared_dir` and `exclude` are as
        for `data_pipelines.load`; `name`, by default of the class, is the folder of the prepared
        set.
        """
        self.source_dir = Path(source_dir)
        self.exclude = frozenset(exclude)
        if name:
            self.name = name
        excluded = "\n".join(sorted(self.exclude)).encode()
        self.mark = f"_without{hashlib.sha256(excluded).hexdigest()[:6]}" if excluded else ""
        self.files_digest = self.fingerprint()
        config = tfds.core.BuilderConfig(name=f"{self.variant}_{self.files_digest}{self.mark}")
        with _quiet():
            super().__init__(
                data_dir=prepared_dir or None, config=config, file_format="array_record"
            )

    def find(self, roots: Roots) -> list[Source]:
        """Lists the examples below `roots`; where an id is listed twice, the first one counts.

        Raises DataError where there are none, or the listing contradicts itself.
        """
        raise NotImplementedError

    def example(self, source: Source) -> dict[str, Any]:
        """Decodes one example: `image`, `mask` (zeros where there is none), `has_mask`, `spacing`,
        `source_shape` and, of volumes, `affine`.
        """
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Changes when a file below the source folder that is used does: its path, size or time."""
        patterns = "|".join(map(fnmatch.translate, (*self.files, *self.archives)))
        used = lambda path: re.match(patterns, path.name.lower())
        return self.digest(filter(used, paths.files_below([self.source_dir])))

    def digest(self, files: Iterable[Path], *words: str) -> str:
        """Of the paths, sizes and times of files, of the content of texts in place of their time,
        and of what else matters.
        """
        lines = [str(self.VERSION), *words]
        for path in files:
            name = str(path).removeprefix(str(self.source_dir))
            with contextlib.suppress(OSError):  # of a link to nowhere; reading it says so
                status = path.stat()
                content = path.read_bytes() if path.suffix in _TEXTS else b""
                state = hashlib.sha256(content).hexdigest() if content else status.st_mtime_ns
                lines.append(f"{name}\0{status.st_size}\0{state}")
        text = "\n".join(lines).encode(errors="surrogateescape")
        return hashlib.sha256(text).hexdigest()[:12]

    def places(self) -> str:
        """Where the files lie: a set that was prepared from the same places is an older one."""
        return str(self.source_dir.resolve())

    def missing(self, what: str) -> DataError:
        """The error for files that are not there; says where to get them."""
        return DataError(
            f"{self.source_dir}: {what}; set --config.data_dir to the folder that contains "
            f"{self.source_dir.name}/, or fetch the set: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )

    @property
    def index_path(self) -> Path:
        """The table of examples; written last, so where it is, the set is prepared."""
        return Path(self.data_dir) / "examples.csv"

    def findings(self) -> list[Finding] | None:
        """What the audit finds about this set, without the others: known once it is prepared."""
        return findings.read(self.index_path.with_name(_FINDINGS))

    def prepare(self) -> None:
        """Prepares the set unless it is there already. On failure nothing is left behind.

        Of several processes with the same prepared_dir, one prepares and the others wait. Raises
        DataError where a file is missing or wrong.
        """
        if self.index_path.exists():
            return
        root = Path(self.data_dir_root)
        with atomic.writing("--config.prepared_dir", root), no_leftovers(self.index_path.parent):
            root.mkdir(parents=True, exist_ok=True)
            with locked(root):
                root.mkdir(parents=True, exist_ok=True)  # another that failed has removed it
                if self.index_path.exists():  # another process was first
                    self.info.read_from_directory(self.data_dir)
                elif self.index_path.parent.exists():  # stopped between the records and the table
                    self._write_index(map(records.row, self.as_data_source(SPLIT)))
                else:
                    self._write_index(self._write_records(root))

    def listed(self, scratch: Path) -> tuple[list[Source], list[Problem]]:
        """`sources`, and what was noted of the set as a whole, even before."""
        with collected() as problems:
            sources = self.sources(scratch)
        return sources, list(dict.fromkeys([*self.problems, *problems]))

    def sources(self, scratch: Path) -> list[Source]:
        """See `find`, in the order of the ids; where that fails, with the archives extracted into
        `scratch`.
        """
        try:
            sources = self.find([self.source_dir])
        except DataError:
            packed = sorted({p for glob in self.archives for p in self.source_dir.glob(glob)})
            if not packed:
                raise
            folders = [scratch / str(number) for number in range(len(packed))]
            for path, folder in zip(packed, folders, strict=True):
                _logger.info("extracting %s", path)
                archive.extract(path, folder)
            sources = self.find([self.source_dir, *folders])
        by_id: dict[str, Source] = {}
        for source in map(_named, sources):
            if not paths.stays_below(source.id):
                raise DataError(
                    f"{source.image}: an example cannot be called {source.id!r}, since files are "
                    "named after it; rename it"
                )
            by_id.setdefault(source.id, source)
        images = {key: source.image for key, source in by_id.items()}
        excluded = exclude.choose(images, self.exclude, self.name)
        kept = [by_id[key] for key in sorted(by_id) if key not in excluded]
        if not kept:
            raise DataError(f"every example in {self.source_dir} is excluded (config.exclude)")
        return kept

    def _write_records(self, root: Path) -> list[tuple[Any, ...]]:
        """Has TFDS write the examples, and stores what was found; gives the rows of their table."""
        rows: list[tuple[Any, ...]] = []
        facts: list[checks.Facts] = []
        with tempfile.TemporaryDirectory(dir=root, prefix=".scratch") as scratch:
            sources, problems = self.listed(Path(scratch))
            _warn(self, len(sources), problems)
            _logger.info("preparing %s (%s): %d examples", self.name, self.variant, len(sources))
            with contextlib.closing(_read_all(self, sources, rows, facts)) as examples, _quiet():
                # TFDS writes one shard after the other, so they can share the running iterator.
                per_shard = max(1, _SHARD_BYTES // self.example_bytes)
                shard = lambda: itertools.islice(examples, per_shard)
                self._shards = [shard] * -(-len(sources) // per_shard)
                self.download_and_prepare(
                    download_dir=scratch,
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                )
        of_set = checks.of_set(self.name, self.label_spec, self.complete, facts, problems)
        findings.write(self.index_path.with_name(_FINDINGS), of_set + checks.duplicates(facts))
        return rows

    def _origin(self) -> bytes:
        """The same for all preparations that differ in the state of their files alone."""
        return f"{self.variant}{self.mark}\n{self.places()}".encode(errors="surrogateescape")

    def _write_index(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self.index_path.with_name(_ORIGIN).write_bytes(self._origin())
        with atomic.replacing(self.index_path) as temporary:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([records.COLUMNS, *rows])

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            records.features(
                self.sides, self.pixel_type, self.channels, self.label_spec.mask_channels
            )
        )
        return _Info(builder=self, features=features, disable_shuffling=True)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable]]:
        del dl_manager  # nothing is downloaded
        return {SPLIT: self._shards}


def _warn(builder: SetBuilder, count: int, problems: Iterable[Problem]) -> None:
    """Says what was noted of the set as a whole, and where it is not complete, or was prepared
    earlier from other files.
    """
    for _, severity, detail in problems:
        level = logging.WARNING if severity == findings.WARNING else logging.INFO
        _logger.log(level, "%s", detail)
    if builder.complete not in (0, count):
        text = "%s: found %d examples; the complete set has %d"
        _logger.warning(text, builder.source_dir, count, builder.complete)
    others = Path(builder.data_dir).parents[1].glob(f"*/{builder.VERSION}/{_ORIGIN}")
    older = [path for path in others if _read(path) == builder._origin()]
    if older:
        _logger.warning(
            "the files in %s have changed since %s was prepared; preparing again "
            "(the older preparation can be deleted)",
            builder.source_dir,
            max(older, key=lambda path: path.stat().st_mtime).parents[1],
        )


def _named(source: Source) -> Source:
    """With names that can be written: those of files may hold bytes that are no text."""
    named = dataclasses.replace(
        source, id=paths.as_text(source.id), group=paths.as_text(source.group)
    )
    if named != source:
        detail = f"{source.image} is not named in UTF-8, and is called {named.id}"
        findings.note("names that are no text", findings.WARNING, detail)
    return named


def _read_all(
    builder: SetBuilder,
    sources: list[Source],
    rows: list[tuple[Any, ...]],
    facts: list[checks.Facts],
) -> Generator[tuple[str, dict[str, Any]]]:
    """Yields (key, features) in the order of `sources` and notes each in `rows`, `facts`."""
    title = f"Preparing {builder.name} ({builder.variant})"
    look = functools.partial(checks.examine, builder.name, builder.label_spec, builder.example)
    examined = in_threads(look, sources)
    shown = show_progress(examined, title, len(sources))
    with contextlib.closing(examined), shown:
        for one, pixels in shown:
            facts.append(one)
            if one.error is not None:
                raise checks.refusal(facts, examined, len(sources))
            example = {key: getattr(one.source, key) for key in records.COLUMNS[:5]} | pixels
            rows.append(records.row(example, paths.as_text(str(one.source.image or ""))))
            yield one.source.id, example


def _read(path: Path) -> bytes:
    """A note, or nothing: another's may be gone by now, or not for us to read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


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
