"""Metrics and pictures of a run: JSON lines and TensorBoard."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from multimix_jax import atomic


class MetricWriter(contextlib.AbstractContextManager):
    """Writes `WORKDIR/metrics.jsonl` and `WORKDIR/tensorboard/`.

    A resumed run, after `seconds` of training, first drops the lines written after `step`, so that
    none comes twice. A `silent` one writes nothing, since another process does.
    """

    def __init__(
        self, workdir: pathlib.Path, step: int = 0, seconds: float = 0.0, *, silent: bool = False
    ):
        self._begun = time.monotonic() - seconds
        path = pathlib.Path(os.devnull) if silent else workdir / "metrics.jsonl"
        if not silent:
            _keep_until(path, step)
        self._lines = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1, write_to_disk=not silent
        )

    def __exit__(self, *exc_info: object) -> None:
        self._lines.close()
        self._board.close()

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One line `{"step":, "split":, "seconds":, name: value, ...}`, on disk when this returns.

        The seconds of training, over all starts, are all that differs from a run to the same again.
        """
        numbers = {name: float(value) for name, value in values.items()}
        self._write_line(step, split, numbers)
        for name, number in numbers.items():
            self._board.add_scalar(f"{split}/{name}", number, step)

    def skipped(
        self, step: int, values: Mapping[str, float], ids: Mapping[str, Sequence[str]]
    ) -> None:
        """One line for a step not learned from: `{"step":, "split": "skipped", ..., "ids": {}}`."""
        self._write_line(step, "skipped", {**values, "ids": dict(ids)})

    def _write_line(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        seconds = round(time.monotonic() - self._begun, 2)
        entry = {"step": step, "split": split, "seconds": seconds, **values}
        self._lines.write(json.dumps(entry) + "\n")
        self._lines.flush()

    def speed(self, step: int, images_per_second: float) -> None:
        """To TensorBoard only: `metrics.jsonl` has the seconds."""
        self._board.add_scalar("speed/images_per_second", images_per_second, step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """A uint8 picture [H,W,3], to TensorBoard."""
        self._board.add_image(name, picture, step, dataformats="HWC")


def _keep_until(path: pathlib.Path, step: int) -> None:
    """Drops lines of later steps, and one that a crash cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["step"] <= step:
            kept.append(line)
    atomic.write_text(path, "".join(kept))
