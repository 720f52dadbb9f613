"""The folder of a run: which config it belongs to, and what is written beside the checkpoints."""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.names import Checkpoint
from multimix_jax.runs.data import RunData
from multimix_jax.runs.spec import differences, free_fields, read_config

CONFIG, IDS, RESULTS, PER_IMAGE = "config.json", "ids.json", "results.json", "per_image.csv"
LABELS, CONTENTS = "labels.json", "contents.json"  # what the data said
EXAMPLES, GALLERY, PAGE = "examples.npz", "gallery.npz", "report.html"
CARD = "README.md"  # as model hubs call it
CONVERTED = "converted.json"  # says where weights that were not trained here come from


def check(
    workdir: str | pathlib.Path, config: Mapping[str, Any], *, begin: bool = True
) -> pathlib.Path:
    """The path of `workdir`, if this config's run lies there or may begin there; writes nothing.

    Args:
      workdir: need not exist.
      config: JSON values, nested.
      begin: whether a run may begin there.

    Raises:
      UsageError: it holds a run of another config, or something else.
    """
    path = pathlib.Path(workdir)
    if "://" in str(workdir):
        raise UsageError(
            f"--workdir={workdir} is the address of a bucket, but a run adds lines to its files; "
            "mount it as a folder (docs/scaling.md)"
        )
    if (path / CONFIG).exists():
        _check_same(path, config)
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


def _check_same(path: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Raises UsageError where the run in a folder is of another config; free fields may differ."""
    try:
        saved = read_config(path / CONFIG)
    except UsageError as error:
        raise UsageError(f"{error}, or use another --workdir") from error
    free = set(free_fields())
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


def check_contents(path: pathlib.Path, contents: Mapping[str, str]) -> None:
    """Raises UsageError where a run's folder belongs to other files of one's own than these."""
    if not (path / CONTENTS).exists():
        return
    saved = json.loads((path / CONTENTS).read_text(encoding="utf-8"))
    differing = [key for key in saved if saved[key] != contents.get(key)]
    if differing:
        raise UsageError(
            f"--workdir={path} holds a run of other files than those of config.folder: "
            f"{', '.join(differing)}; use another --workdir, or the images, masks and labels of "
            "that run as they were"
        )


def check_new(path: pathlib.Path) -> None:
    """Raises UsageError unless `path` is free for a new folder: nothing there, or an empty one."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} exists already; name a new folder")


def claim(path: pathlib.Path, config: Mapping[str, Any], data: RunData) -> None:
    """Makes a checked `path` the folder of the run: writes its config and what the data said."""
    path.mkdir(parents=True, exist_ok=True)
    for name, values in (
        (IDS, data.ids),
        (LABELS, dataclasses.asdict(data.label_spec)),
        (CONTENTS, dict(data.contents)),
    ):
        if not (path / name).exists():
            atomic.write_json(path / name, values)
    atomic.write_json(path / CONFIG, config)


def finished(
    path: pathlib.Path, steps: int, tests: Collection[str] | None = None
) -> dict[str, Any] | None:
    """The results of a run that was trained for `steps` and evaluated (on `tests`), else None."""
    try:
        results = json.loads((path / RESULTS).read_text(encoding="utf-8"))
        run = results["run"]
        done = run[Checkpoint.LAST]["step"] == steps and tests in (None, set(run["tests"]))
    except (OSError, KeyError, RecursionError, TypeError, ValueError):
        # Damaged ones are written again.
        return None
    return results if done else None
