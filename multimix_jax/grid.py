"""Many runs, one after the other, each in a folder of its own below one folder."""

import pathlib
from collections.abc import Callable, Mapping
from typing import TypeVar

from tqdm import tqdm

from multimix_jax import workdir
from multimix_jax.errors import UsageError

Config = TypeVar("Config")


def choose(cells: Mapping[str, Config], place: int | None) -> dict[str, Config]:
    """All cells, or the one at a place, counted from 0.

    Raises:
      UsageError: there is no such place.
    """
    if place is None:
        return dict(cells)
    if not 0 <= place < len(cells):
        raise UsageError(f"--cell={place}, but the grid's cells are 0 to {len(cells) - 1}")
    name = list(cells)[place]
    return {name: cells[name]}


def run_all(
    cells: Mapping[str, Config],
    path: str | pathlib.Path,
    run: Callable[[Config, pathlib.Path], object],
    *,
    errors: tuple[type[Exception], ...],
) -> None:
    """Runs every cell in `path/NAME`; one that cannot be run does not keep the others from it.

    Args:
      cells: configs by name.
      path: folder of the grid.
      run: goes on with a config's run in its folder, if anything is left to do.
      errors: what `run` raises for what a user can mend.

    Raises:
      UsageError: `path` holds a single run; or some cells could not be run, with their reasons.
    """
    path = pathlib.Path(path)
    if (path / workdir.CONFIG).exists():
        raise UsageError(f"--workdir={path} holds a single run; use another folder for a grid")
    failed = []
    with tqdm(total=len(cells), desc="Grid", unit=" runs", disable=None) as bar:
        for place, (name, config) in enumerate(cells.items(), 1):
            bar.write(f"run {place} of {len(cells)}: {name}")
            try:
                run(config, path / name)
            except errors as error:
                failed.append(f"{name}: {error}")
                bar.write(f"error: {error}")
            bar.update()
    if failed:
        raise UsageError(f"{len(failed)} of {len(cells)} runs failed: {'; '.join(failed)}")
