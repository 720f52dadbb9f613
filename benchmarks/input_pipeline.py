"""Images per second of the input pipeline against what a step consumes, and what PyTorch loads.

    python -m benchmarks.input_pipeline [--quick] [--sides 64 128] [--json FILE]

The built-in phantom sets are prepared in a temporary folder, and 8-bit PNG files of them. Ours
hands out the batches of training: warm, from memory; or cold, from the prepared files, which the
system has been asked to forget. It leaves augmentation to the step, which is timed with it; the
rows "with augmentation" add it, compiled, for the same work as PyTorch's. That is a DataLoader
whose workers decode the PNG files and augment in PIL as published; the better of 0 and 2 workers
counts.

An image counts once, also where the weak and the strong view are made of it. Each pass begins anew
and is timed from its second batch on.
"""

import functools
import importlib.util
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks import measure, pil_augmentation, scaling
from benchmarks.measure import Row
from configs import common
from data_pipelines.examples import Examples
from data_pipelines.run_data import RunData, open_run
from multimix_jax.keys import ExampleKeys
from multimix_jax.names import Stream
from multimix_jax.training import machine

Batches = Iterator[Any]
Begin = Callable[[int], Batches]  # that many batches, from a fresh start
WORKERS = (0, 2)
TRIAL = 20  # batches, to learn how long a pass has to be

row = functools.partial(Row, "input_pipeline")


class Delivery:
    """A pipeline that takes turns with others: `begin`, then `finish`, which is what is timed."""

    def __init__(self, batches: Begin, seconds: float):
        """Args:
        batches: what is delivered.
        seconds: how long a pass should take, roughly.
        """
        self._batches, self._count = batches, TRIAL
        self.begin()
        begun = time.perf_counter()
        self.finish()
        self._count = max(TRIAL, math.ceil(TRIAL * seconds / (time.perf_counter() - begun)))

    def begin(self) -> None:
        self._running = self._batches(1 + self._count)
        next(self._running)

    def finish(self) -> None:
        for _ in self._running:
            pass

    def rate(self, seconds: float, images: int) -> float:
        """Images per second, where `finish` took so long for batches of so many."""
        return self._count * images / seconds


class PngStreams:
    """One image of each stream, read from PNG files: a `torch.utils.data.Dataset` without end."""

    def __init__(self, pools: Mapping[Stream, Examples], folder: Path):
        """Writes the images of the streams to `folder`."""
        self._files: dict[str, list[Path]] = {}
        self._labels: dict[Path, int] = {}
        for name, pool in pools.items():
            (folder / name).mkdir(parents=True)
            files = [folder / name / f"{example}.png" for example in pool.ids]
            fetched = pool.fetch(np.arange(len(pool)))
            for file, image, mask in zip(files, fetched["image"], fetched["mask"]):
                Image.fromarray(image[..., 0]).save(file)
                Image.fromarray(mask[..., 0]).save(_mask_of(file))
            self._files[name] = files
            self._labels |= zip(files, pool.labels.tolist())

    def __getitem__(self, position: int) -> Any:
        rng = random.Random(position)
        drawn = {name: rng.choice(files) for name, files in self._files.items()}
        pictures = {name: Image.open(file) for name, file in drawn.items()}
        labeled, unlabeled = pictures["cls/labeled"], pictures["cls/unlabeled"]
        weak, strong = pil_augmentation.weak, pil_augmentation.strong
        # Pixels stay 8 bits, as ours do: less to hand over than floating point.
        return {
            "seg/labeled": {
                "image": _pixels(pictures["seg/labeled"]),
                "mask": _pixels(Image.open(_mask_of(drawn["seg/labeled"]))),
            },
            "seg/unlabeled": {"image": _pixels(pictures["seg/unlabeled"])},
            "cls/labeled": {
                "image": _pixels(weak(labeled, rng)),
                "label": self._labels[drawn["cls/labeled"]],
            },
            "cls/unlabeled": {
                "weak": _pixels(weak(unlabeled, rng)),
                "strong": _pixels(strong(unlabeled, rng)),
            },
        }


def _mask_of(file: Path) -> Path:
    return file.with_suffix(".mask.png")


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.array(picture)[..., None]


def png_batches(pngs: PngStreams, workers: int) -> Begin:
    """Batches of PyTorch's loader, which keeps its workers from pass to pass."""
    from torch.utils.data import DataLoader

    positions: list[int] = []
    loader: DataLoader[Any] = DataLoader(
        pngs,  # type: ignore[arg-type]  # need not inherit
        batch_size=scaling.BATCH_SIZE,
        sampler=positions,
        num_workers=workers,
        persistent_workers=workers > 0,
        # JAX, which has threads, must not be forked.
        multiprocessing_context="spawn" if workers else None,
    )

    def begin(count: int) -> Batches:
        positions[:] = range(count * scaling.BATCH_SIZE)
        return iter(loader)

    return begin


def open_data(side: int, prepared: Path, cache_bytes: int) -> RunData:
    """The data of a run on the phantom sets, prepared where they are not yet."""
    c = common.get_config()
    c.prepared_dir, c.size = str(prepared), side
    c.cache_gib, c.batch_size = cache_bytes / 2**30, scaling.BATCH_SIZE
    return open_run(c.to_dict(), scaling.objective().streams, test_data={})


def our_batches(data: RunData) -> Begin:
    """Batches as training gets them."""
    return functools.partial(data.batches, 0)


def forgetting(begin: Begin, prepared: Path) -> Begin:
    """The same batches, with none of the files in the system's memory at the start."""

    def forget_and_begin(count: int) -> Batches:
        for file in prepared.rglob("*.array_record*"):
            with file.open("rb") as opened:
                if hasattr(os, "posix_fadvise"):
                    os.fsync(opened.fileno())  # what is not written yet cannot be forgotten
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return begin(count)

    return forget_and_begin


def augmented(begin: Begin) -> Begin:
    """All views of the same batches, augmented as the step does it."""
    views = jax.jit(scaling.objective().views)
    keys = ExampleKeys(jax.random.key(0))
    return lambda count: (jax.block_until_ready(views(batch, keys)) for batch in begin(count))


def compare(side: int, folder: Path, *, seconds: float, rounds: int) -> list[Row]:
    """Delivered, consumed and PyTorch's images per second at this side."""
    scaling.log(f"preparing images at side {side}")
    prepared = folder / "prepared"
    from_files = open_data(side, prepared, 0)
    from_memory = open_data(side, prepared, 2**40)
    pngs = PngStreams(from_files.pools, folder / f"png{side}")
    cold, warm = forgetting(our_batches(from_files), prepared), our_batches(from_memory)
    pipelines = {"cold": cold, "warm": warm, "warm, with augmentation": augmented(warm)}
    peers = {workers: png_batches(pngs, workers) for workers in WORKERS}
    step = scaling.on_one_device(side, scaling.BATCH_SIZE)

    scaling.log("timing the pipelines and the step")
    begins = [*pipelines.values(), *peers.values()]
    deliveries = [Delivery(begin, seconds) for begin in begins]
    turns = [turn for delivery in deliveries for turn in (delivery.begin, delivery.finish)]
    taken = measure.in_turn([step, *turns], rounds=rounds, warmup=1)
    images = from_files.images_per_step
    consumed = [images / once for once in taken[0]]
    rates = {
        name: [delivery.rate(once, images) for once in finishes]
        for name, delivery, finishes in zip([*pipelines, *peers], deliveries, taken[2::2])
    }
    best = max(peers, key=lambda workers: statistics.median(rates[workers]))

    def against(case: str, ours: list[float], peer: list[float], unit: str) -> Row:
        ratio = measure.median_ratio(ours, peer)
        medians = statistics.median(ours), statistics.median(peer)
        return row(f"side {side}, {case}", *medians, "images/s", ratio, unit)

    rows = []
    for name in ("cold", "warm"):
        unit = "times what the step consumes"
        rows.append(against(f"{name}, against the step", rates[name], consumed, unit))
    for name in pipelines:
        case = f"{name}, against PyTorch with {best} workers"
        rows.append(against(case, rates[name], rates[best], "times faster"))
    return rows


def main() -> None:
    args = measure.parser(__doc__, sides=(64, 128, 256)).parse_args()
    if importlib.util.find_spec("torch") is None:
        sys.exit("torch is missing; pip install -e '.[bench]'")
    machine.set_xla_flags()
    machine.keep_compiled()
    sides, rounds, seconds = sorted(args.sides), args.rounds, 2.0
    if args.quick:
        sides, rounds, seconds = sides[:1], 3, 0.5
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            rows += compare(side, Path(folder), seconds=seconds, rounds=rounds)
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
