"""The folder of a run: which config it belongs to, and what is written beside the checkpoints."""

import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.names import Checkpoint

CONFIG, IDS, RESULTS, PER_IMAGE = "config.json", "ids.json", "results.json", "per_image.csv"
EXAMPLES, GALLERY, PAGE = "examples.npz", "gallery.npz", "report.html"
CARD = "README.md"  # as model hubs call it
CONVERTED = "converted.json"  # says where weights that were not trained here come from
# Where things lie, how often they are said and how long a stop may take may differ between two
# starts of one run.
FREE_KEYS = (
    "data_dir prepared_dir folder exclude cache_gib log_every grace_period test_data".split()
)
FILES = "own_files"  # what folders of one's own hold, wherever they lie; "" for nothing known
# Fields that configs have had from some day on, and what runs without them did.
ADDED = {
    "class_multiple": 1,
    "components": 0,
    "fit": "squash",
    "largest_component": False,  # what `components` was before
    "max_skipped": 20,
    "objective.exclusive": True,
    "objective.mirror": False,
    FILES: "",
}


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
    file = path / CONFIG
    if file.exists():
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(held, dict):
                raise ValueError("it holds no fields")
        except (OSError, RecursionError, ValueError) as error:
            raise UsageError(
                f"{file} is damaged ({error}); restore it or use another --workdir"
            ) from error
        differing = {
            key: f"{key} ({old!r} there, {new!r} here)"
            for key, old, new in differences(held, json.loads(json.dumps(config)))
            if key.partition(".")[0] not in FREE_KEYS
        }
        told = ", ".join(list(differing.values())[:5])
        if differing and {key.partition(".")[0] for key in differing} == {FILES}:
            raise UsageError(
                f"--workdir={path} holds a run of other files than those of config.folder: {told}; "
                "use another --workdir, or the images, masks and labels of that run as they were"
            )
        if differing:
            raise UsageError(
                f"--workdir={path} holds the run of another config: {told}; use another "
                "--workdir, or the config of that run"
            )
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


def check_new(path: pathlib.Path) -> None:
    """Raises UsageError unless `path` is free for a new folder: nothing there, or an empty one."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} exists already; name a new folder")


def claim(path: pathlib.Path, config: Mapping[str, Any], ids: Mapping[str, Any]) -> None:
    """Makes a checked `path` the folder of the run: writes its config and the ids it uses."""
    path.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path / CONFIG, config)
    if not (path / IDS).exists():
        atomic.write_json(path / IDS, ids)


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


def differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """The fields in which two configs differ, nested ones with dots, and their values.

    One that is missing has the value of ADDED; FILES that are not known differ from none.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        unknown = key.partition(".")[0] == FILES and not (old and new)
        return [] if old == new or unknown else [(key, old, new)]
    found = []
    for name in sorted(set(old) | set(new)):
        inner = f"{key}.{name}" if key else name
        one, other = (config.get(name, ADDED.get(inner)) for config in (old, new))
        found += differences(one, other, inner)
    return found
