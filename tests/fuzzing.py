"""Damages files at random and gives them to a reader, in a process that another one watches.

    python -m tests.fuzzing FOLDER TARGET:START:COUNT...    # writes FOLDER/report.jsonl

The inputs are a function of the target and their number, and not guided by what they reach. Of the
lines of our readers, Pillow and pydicom, blind changes reached 1,957 for DICOM in a minute and 931
for TIFF in half a one; changes to inputs that had reached new lines (by `sys.settrace`, three to
six times slower) 1,930 and 906, Atheris 2,063 and 901 in a minute each. Neither found a fault that
blind changes had not.
"""

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
HANG = 10.0  # seconds of work for one input
_STUCK = 120.0  # seconds without work, or until the first input
MOST_MEMORY = 2**30  # bytes that reading one may add to what the process has
_LIMIT = 4 * 2**30  # bytes of address space that it may add; so a bomb cannot take the machine

_BYTES = (0, 1, 2, 0x1F, 0x20, 0x30, 0x39, 0x7F, 0x80, 0xFE, 0xFF)
_NUMBERS = (0, 1, 2, 127, 128, 255, 256, *(2**n - i for n in (15, 16, 31, 32) for i in (0, 1)))
_TEXTS = b'0 -1 1e999 nan 99999999999  ../.. null " [[[[ {'.split(b" ")


def mutate(content: bytes, rng: np.random.Generator, others: Sequence[bytes] = ()) -> bytes:
    """One to five changes to a file; `others` of the same kind may lend their end."""
    changed = bytearray(content)
    for _ in range(int(min(5, rng.geometric(0.5)))):
        _CHANGES[rng.integers(len(_CHANGES))](changed, rng, others)
    return bytes(changed)


def _place(content: bytearray, rng: np.random.Generator) -> int:
    """Half of the time near the beginning, where headers are."""
    end = min(len(content), 400) if rng.random() < 0.5 else len(content)
    return int(rng.integers(max(1, end)))


def _flip(content: bytearray, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    if content:
        content[_place(content, rng)] ^= 1 << int(rng.integers(8))


def _set(content: bytearray, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    if content:
        content[_place(content, rng)] = _BYTES[rng.integers(len(_BYTES))]


def _number(content: bytearray, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    at, size = _place(content, rng), int(rng.choice([2, 4, 8]))
    value = _NUMBERS[rng.integers(len(_NUMBERS))] % 256**size
    packed = value.to_bytes(size, ("little", "big")[rng.integers(2)])
    content[at : at + size] = packed[: len(content) - at]


def _digits(content: bytearray, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    """Text, or the run of digits there, becomes something else."""
    start = end = _place(content, rng)
    while end < len(content) and chr(content[end]).isdigit():
        end += 1
    content[start : max(end, start + 1)] = _TEXTS[rng.integers(len(_TEXTS))]


def _cut(content: bytearray, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    del content[_place(content, rng) :]


def _insert(content: bytearray, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    size = int(2 ** rng.uniform(0, 12))
    new = rng.bytes(size) if rng.random() < 0.5 else bytes([rng.integers(256)]) * size
    at = _place(content, rng)
    content[at:at] = new


def _delete(content: bytearray, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    at = _place(content, rng)
    del content[at : at + int(2 ** rng.uniform(0, 8))]


def _copy(content: bytearray, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    source, target, size = _place(content, rng), _place(content, rng), int(2 ** rng.uniform(0, 10))
    content[target : target + size] = content[source : source + size]


def _splice(content: bytearray, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    if others:
        other = others[rng.integers(len(others))]
        content[_place(content, rng) :] = other[_place(bytearray(other), rng) :]


_CHANGES = (
    *(_flip, _flip, _set, _set, _number, _number, _number),
    *(_digits, _cut, _insert, _delete, _copy, _splice),
)


def inputs(name: str, folder: Path, start: int, count: int) -> Iterator[tuple[int, bytes, bool]]:
    """Inputs of a target by number; the first are the sound files themselves (True)."""
    target = _targets()[name]
    seeds = target.seeds(folder)
    for number in range(start, count):
        sound = number < len(seeds)
        if sound:
            yield number, seeds[number], sound
            continue
        rng = np.random.default_rng([number, *name.encode()])
        yield number, target.change(seeds[rng.integers(len(seeds))], rng, seeds), sound


def _targets() -> Mapping[str, Any]:
    from tests import fuzz_targets  # which has its ways to change files from here

    return fuzz_targets.TARGETS


def read_all(folder: Path, name: str, start: int, count: int) -> None:
    """Reads the inputs of a target from number `start` on; writes what is found to the report."""
    from configs.common import ConfigError
    from data_pipelines import DataError
    from multimix_jax.errors import UsageError

    target, place = _targets()[name], folder / "place"
    _say(folder, "")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "own").mkdir()
    path = place / target.file
    path.parent.mkdir(exist_ok=True)
    read = target.reader(place)
    path.touch()
    os.environ["TMPDIR"] = tempfile.tempdir = str(place)
    os.chdir(place)
    strays: list[str] = []
    sys.unraisablehook = lambda stray: strays.append(f"{stray.exc_value!r} in {stray.object!r}")
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)  # ml_collections'
    gc.collect()
    gc.freeze()
    there = _listing(place)
    began, findings, sound_results, most = time.monotonic(), 0, 0, 0
    for number, content, sound in inputs(name, place, start, count):
        path.write_bytes(content)
        _say(folder, f"{name} {number}")
        before, refused, failure = _memory_now(), False, ""
        try:
            read(path)
        except (DataError, UsageError, ConfigError) as error:
            refused, message = True, str(error)
            if (target.names or path.name) not in message or "\n" in message.strip():
                failure = f"unclear message: {message[:300]}"
            if sound:
                failure = f"a sound file is refused: {message[:300]}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failure = "".join(traceback.format_exception(error)[-6:])
        sound_results += not refused
        most = max(most, _peak() - before)
        if _peak() - before > MOST_MEMORY:
            failure = f"{(_peak() - before) / 2**20:.0f} MiB of memory"
        if _listing(place) != there:
            failure = f"left behind {sorted(_listing(place) ^ there)[:3]}"
            there = _listing(place)
        if strays:
            failure, strays = f"unraisable: {strays[0]}", []
        if failure:
            findings += 1
            _report(folder, name, number, failure)
    took = time.monotonic() - began
    line = dict(
        target=name,
        done=count - start,
        seconds=round(took, 1),
        read=sound_results,
        findings=findings,
        mib=most // 2**20,
    )
    with (folder / "report.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    os.chdir(folder)


def _report(folder: Path, name: str, number: int, failure: str) -> None:
    """Keeps the input that is being read."""
    kept = folder / "failed" / f"{name}_{number}_{Path(_targets()[name].file).name}"
    kept.parent.mkdir(exist_ok=True)
    shutil.copy(folder / "place" / _targets()[name].file, kept)
    line = dict(target=name, number=number, failure=failure, input=str(kept))
    with (folder / "report.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def _say(folder: Path, what: str) -> None:
    """Which input is being read, in one go: it may be looked at, or this process die, any time."""
    with (folder / "at").open("r+b") as file:
        file.write(what.encode().ljust(60))


def _listing(place: Path) -> set[str]:
    return {str(path) for path in place.rglob("*")}


def _memory_now() -> int:
    """Bytes of memory, from which the highest counts anew; 0 where Linux does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _peak()


def _peak() -> int:
    """Bytes of memory at the highest; `getrusage` would count that of the process before, too."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def watch(folder: Path, counts: Mapping[str, int], hang: float = HANG) -> list[dict[str, Any]]:
    """Has a process read so many inputs of each target; if it dies or hangs, another goes on.

    Returns:
      Lines of the report: findings (target, number, failure, input) and sums (target, done,
      seconds, read, findings, mib).
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = dict.fromkeys(counts, 0)
    left = list(counts)
    while left:
        (folder / "at").write_bytes(b"")
        arguments = [f"{name}:{start[name]}:{counts[name]}" for name in left]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzzing", str(folder), *arguments],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        reason = _wait(process, folder, hang)
        if not reason:
            break
        at = (folder / "at").read_text().split()
        if not at:
            raise RuntimeError(f"{reason} at its start, see {folder / 'log'}")
        name, number = at[0], int(at[1])
        _report(folder, name, number, reason)
        left = left[left.index(name) :]
        start[name] = number + 1
    return [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]


def _wait(process: subprocess.Popen, folder: Path, hang: float) -> str:
    """Why the process did not come to its end; '' if it did."""
    last, since, worked = "", time.monotonic(), 0.0
    while process.poll() is None:
        time.sleep(0.2)
        at = (folder / "at").read_text().strip()
        if at != last:
            last, since, worked = at, time.monotonic(), _seconds_worked(process)
        # A machine that others keep busy is no fault of the reader's.
        busy = last and _seconds_worked(process) - worked > hang
        if busy or time.monotonic() - since > _STUCK:
            process.kill()
            process.wait()
            return f"hung for {hang:g} s"
    return f"crashed with status {process.returncode}" if process.returncode else ""


def _seconds_worked(process: subprocess.Popen) -> float:
    """Of a processor, so far; 0 where that is not known."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for argument in sys.argv[2:]:
        name, start, count = argument.split(":")
        if sys.platform == "linux":
            held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
            resource.setrlimit(resource.RLIMIT_AS, (held + _LIMIT, resource.RLIM_INFINITY))
        read_all(folder, name, int(start), int(count))


if __name__ == "__main__":
    main()
