"""Seconds from `python launch.py` to the end of the second step, at a first and at later starts.

    python -m benchmarks.start [--quick] [--sides 64 128] [--json FILE]

The config is configs/common.py, MultiMix on phantoms, at the given side. The first start draws the
phantom sets and compiles; later ones find both kept. A start is stopped once its second step is
written.
"""

import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import measure
from benchmarks.measure import Row

ROOT = pathlib.Path(__file__).parents[1]
LONGEST = 600.0  # seconds that a start may take

row = functools.partial(Row, "start")


def seconds_to_second_step(side: int, folder: pathlib.Path, name: str) -> float:
    """Of a run of its own, `name`; what is kept between starts lies in `folder`."""
    workdir = folder / name
    command = [sys.executable, "launch.py", "--config=configs/common.py"]
    command += [f"--workdir={workdir}", f"--config.size={side}", "--config.log_every=1"]
    command += [f"--config.prepared_dir={folder / 'prepared'}"]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    begun = time.perf_counter()
    with (folder / f"{name}.log").open("w") as log:
        run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            while not has_step(workdir / "metrics.jsonl", 2):
                if run.poll() is not None or time.perf_counter() - begun > LONGEST:
                    raise SystemExit((folder / f"{name}.log").read_text()[-2000:])
                time.sleep(0.02)
            return time.perf_counter() - begun
        finally:
            run.kill()
            run.wait()


def has_step(file: pathlib.Path, step: int) -> bool:
    """Whether the metrics of this step are written whole."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return any(json.loads(line)["step"] >= step for line in lines)


def main() -> None:
    parser = measure.parser(__doc__, sides=(64, 128, 256))
    args = parser.parse_args()
    sides, rounds = args.sides, args.rounds
    if args.quick:
        sides, rounds = sides[:1], 1
    rows = []
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            start = functools.partial(seconds_to_second_step, side, pathlib.Path(folder))
            rows.append(row(f"side {side}: first start", start("first"), None, "s"))
            later = [start(f"later{i}") for i in range(rounds)]
            rows.append(row(f"side {side}: later starts", statistics.median(later), None, "s"))
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
