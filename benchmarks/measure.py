"""How the benchmarks time two programs in turn, and print and keep the figures."""

import argparse
import dataclasses
import functools
import json
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

DTYPES = ("float32", "bfloat16")  # of a network's computation


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      benchmark: the command's name, such as 'train_step'.
      case: what was measured, such as 'step, side 128, float32, against published'.
      ours, peer: in `unit`; None where there is nothing to measure.
      unit: of both.
      ratio: how the two compare, in `ratio_unit`; None without a peer.
      ratio_unit: of the ratio, such as 'times faster'.
    """

    benchmark: str
    case: str
    ours: float | None
    peer: float | None
    unit: str
    ratio: float | None = None
    ratio_unit: str = "times faster"


def parser(description: str | None, *, sides: Sequence[int]) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--json", type=pathlib.Path, help="file to write the rows to")
    flags.add_argument("--quick", action="store_true", help="smallest case, few rounds: a minute")
    flags.add_argument("--sides", type=int, nargs="+", default=list(sides), help="pixels")
    flags.add_argument(
        "--rounds", type=int, default=7, help="how often each program takes its turn"
    )
    return flags


def in_turn(
    programs: Sequence[Callable[[], Any]], *, rounds: int, warmup: int = 2
) -> list[list[float]]:
    """Seconds of each call, [program][round]; the programs take turns, so that both see the noise.

    A program returns only when its work is done (`jax.block_until_ready`).
    """
    for _ in range(warmup):
        for program in programs:
            program()
    seconds: list[list[float]] = [[] for _ in programs]
    for _ in range(rounds):
        for program, taken in zip(programs, seconds):
            begun = time.perf_counter()
            program()
            taken.append(time.perf_counter() - begun)
    return seconds


def median_ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """Median over the rounds of `of / to`, round by round."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


@functools.cache
def matrix_rate(dtype: Any, *, rounds: int = 7) -> float:
    """The best FLOP/s that a square matrix product reaches here, in XLA."""
    product = jax.jit(lambda a: a @ a)
    best = 0.0
    # An accelerator would spend a smaller product's time on its start.
    for side in (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192):
        a = jnp.ones((side, side), dtype)
        run = functools.partial(lambda a: product(a).block_until_ready(), a)
        best = max(best, 2 * side**3 / min(in_turn([run], rounds=rounds)[0]))
    return best


@functools.cache
def copy_rate(*, rounds: int = 7, size: int = 2**28) -> float:
    """The best bytes/s, read and written together, at which a large array passes here, in XLA."""
    a = jnp.ones(size // 4, jnp.float32)
    shifted = jax.jit(lambda a: a + 1.0)
    seconds = in_turn([lambda: shifted(a).block_until_ready()], rounds=rounds)[0]
    return 2 * size / min(seconds)


def roofline(compiled: Any, dtype: Any, *, arithmetic: float = 0.0) -> float:
    """Seconds that a compiled program takes at least, by its bytes and FLOPs and the rates here.

    XLA does not count what its libraries compute; `arithmetic` is what is known of it, in FLOPs.
    """
    costs = compiled.cost_analysis()
    flops = max(costs["flops"], arithmetic)
    return max(costs["bytes accessed"] / copy_rate(), flops / matrix_rate(dtype))


def peak_memory() -> float:
    """Largest resident memory of this process so far, in bytes (on a GPU: of its allocator)."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return float(stats["peak_bytes_in_use"])
    if sys.platform == "linux":
        # What getrusage gives begins with the peak of the process that started this one.
        status = pathlib.Path("/proc/self/status").read_text()
        return 1024.0 * int(status.partition("VmHWM:")[2].split()[0])
    scale = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)


def report(rows: Sequence[Row], file: pathlib.Path | None) -> None:
    """Prints the rows as a Markdown table; writes them as JSON if a file is given."""
    show = lambda value: "" if value is None else f"{value:.4g}"
    print("| case | ours | peer | unit | ratio | |\n|---|---|---|---|---|---|")
    for row in rows:
        unit = row.ratio_unit if row.ratio is not None else ""
        cells = (row.case, show(row.ours), show(row.peer), row.unit, show(row.ratio), unit)
        print(f"| {' | '.join(cells)} |")
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
