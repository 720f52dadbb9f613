"""The folder of a run: which config it belongs to, and what is written beside the checkpoints."""

import contextlib
import dataclasses
import json
import pathlib
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.names import Checkpoint
from multimix_jax.runs.data import RunData
from multimix_jax.runs.spec import RunSpec, differences, free_fields

CONFIG, IDS, RESULTS, PER_IMAGE = "config.json", "ids.json", "results.json", "per_image.csv"
LABELS, CONTENTS = "labels.json", "contents.json"  # what the data said
EXAMPLES, GALLERY, PAGE = "examples.npz", "gallery.npz", "report.html"
APPEARANCE = "appearance.json"  # of the images trained on
CARD = "README.md"  # as model hubs call it
CONVERTED = "converted.json"  # says where weights that were not trained here come from

_AGAIN = "evaluate that run again with --mode=eval"
_DAMAGE = (AttributeError, EOFError, LookupError, OSError, RecursionError, TypeError, ValueError)


@contextlib.contextmanager
def reading(path: pathlib.Path, remedy: str = _AGAIN) -> Iterator[None]:
    """Whatever fails within is the fault of a run's file: it ends in a UsageError that names it."""
    try:
        yield
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; {remedy}") from error
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(
            f"{path} is damaged ({type(error).__name__}: {error}); {remedy}"
        ) from error


def read_config(path: pathlib.Path, remedy: str = "restore it") -> dict[str, Any]:
    """The fields in the config of the run in a folder."""
    try:
        text = (path / CONFIG).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} holds no run ({CONFIG} cannot be read: {error.strerror}); name the folder "
            "that launch.py trained in"
        ) from error
    with reading(path / CONFIG, remedy):
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ValueError("it holds no fields")
    return config


def read_spec(path: pathlib.Path) -> RunSpec:
    """The same, typed; raises UsageError also for a config of another version."""
    config = read_config(path)
    try:
        return RunSpec.of_config(config)
    except UsageError as error:
        raise UsageError(f"{path / CONFIG}: {error}") from error


def check(
    workdir: str | pathlib.Path,
    config: Mapping[str, Any],
    contents: Mapping[str, str],
    *,
    begin: bool = True,
) -> pathlib.Path:
    """The path of `workdir`, if this config's run lies there or, with `begin`, may begin there.

    `contents` are digests of one's own files, by kind, wherever they lie. Nothing is written.
    UsageError where it holds a run of another config or of other files, or something else.
    """
    path = pathlib.Path(workdir)
    if "://" in str(workdir):
        raise UsageError(
            f"--workdir={workdir} is the address of a bucket, but a run adds lines to its files; "
            "mount it as a folder (docs/scaling.md)"
        )
    if (path / CONFIG).exists():
        _check_same(path, config, contents)
    elif not begin and (path / CONVERTED).exists():
        return path
    elif not begin:
        raise UsageError(
            f"--workdir={path} holds no run; train one with --mode=train, or name its folder"
        )
    elif path.exists() and not path.is_dir():
        raise UsageError(f"--workdir={path} is a file; use the path of a folder")
    elif path.exists() and any(path.iterdir()):
        raise UsageError(
            f"--workdir={path} is not empty and holds no run ({CONFIG} is missing); use another "
            "--workdir"
        )
    return path


def _check_same(path: pathlib.Path, config: Mapping[str, Any], contents: Mapping[str, str]) -> None:
    """Raises UsageError where the run in a folder is another; free fields may differ."""
    remedy = "restore it, or use another --workdir"
    saved = read_config(path, remedy)
    free = set(free_fields())
    with reading(path / CONFIG, remedy):  # one that is nested too deep ends here
        differing = [
            f"{key} ({old!r} there, {new!r} here)"
            for key, old, new in differences(saved, json.loads(json.dumps(config)))
            if key.partition(".")[0] not in free
        ]
    if differing:
        raise UsageError(
            f"--workdir={path} holds the run of another config: {', '.join(differing[:5])}; use "
            "another --workdir, or the config of that run"
        )
    saved = read_contents(path)
    differing = [kind for kind in saved if saved[kind] != contents.get(kind)]
    if differing:
        raise UsageError(
            f"--workdir={path} holds a run of other files than those of config.folder: "
            f"{', '.join(differing)}; use another --workdir, or the images, masks and labels of "
            "that run as they were"
        )


def read_contents(path: pathlib.Path) -> dict[str, str]:
    """Digests of what own folders held, by kind of file; {} where there were none."""
    file = path / CONTENTS
    if not file.exists():
        return {}
    with reading(file, "restore it, or train again"):
        return dict(json.loads(file.read_text(encoding="utf-8")))


def check_new(path: pathlib.Path) -> None:
    """Raises UsageError unless `path` is free for a new folder: nothing there, or an empty one."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} exists already; name a new folder")


def claim(path: pathlib.Path, config: Mapping[str, Any], data: RunData) -> None:
    """Makes a checked `path` the folder of the run: writes its config and what the data said."""
    path.mkdir(parents=True, exist_ok=True)
    labels = dataclasses.asdict(data.label_spec)
    files = {IDS: data.ids, LABELS: labels, CONTENTS: dict(data.contents)}
    for name, values in files.items():
        if not (path / name).exists():
            atomic.write_json(path / name, values)
    atomic.write_json(path / CONFIG, config)


def finished(
    path: pathlib.Path, steps: int, tests: Collection[str] | None = None
) -> dict[str, Any] | None:
    """The results of a run that was trained for `steps` and evaluated (on `tests`), else None."""
    with contextlib.suppress(*_DAMAGE):  # damaged ones are written again
        results = json.loads((path / RESULTS).read_text(encoding="utf-8"))
        run = results["run"]
        if run[Checkpoint.LAST]["step"] == steps and tests in (None, set(run["tests"])):
            return results
    return None
