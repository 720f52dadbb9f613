"""Many runs, one after the other, each in a folder of its own below one folder."""

import pathlib
from collections.abc import Callable, Mapping
from typing import TypeVar

from tqdm import tqdm

from multimix_jax.errors import UsageError
from multimix_jax.runs import workdir

Config = TypeVar("Config")


def run_all(
    cells: Mapping[str, Config],
    path: str | pathlib.Path,
    run: Callable[[Config, pathlib.Path], object],
    *,
    errors: tuple[type[Exception], ...],
    only: int | None = None,
) -> None:
    """Runs every cell in `path/NAME`, or `only` one, counted from 0.

    `run` goes on with a config's run in its folder, if anything is left to do; where it raises one
    of `errors`, the other cells are run all the same, and a UsageError names it at the end.
    """
    if only is not None and not 0 <= only < len(cells):
        raise UsageError(f"--cell={only}, but the grid's cells are 0 to {len(cells) - 1}")
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--workdir={path} is a file; use the path of a folder")
    if (path / workdir.CONFIG).exists():
        raise UsageError(f"--workdir={path} holds a single run; use another folder for a grid")
    chosen = [(place, name) for place, name in enumerate(cells) if only in (None, place)]
    failed = []
    with tqdm(total=len(chosen), desc="Grid", unit=" runs", disable=None) as bar:
        for place, name in chosen:
            bar.write(f"cell {place} of 0 to {len(cells) - 1}: {name}")
            try:
                run(cells[name], path / name)
            except errors as error:
                failed.append(f"{name}: {error}")
                bar.write(f"error: {error}")
            bar.update()
    if failed:
        raise UsageError(f"{len(failed)} of {len(chosen)} runs failed: {'; '.join(failed)}")
