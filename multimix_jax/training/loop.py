"""The training loop: steps, their metrics, validation and checkpoints."""

import contextlib
import dataclasses
import datetime
import functools
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
from tqdm import tqdm

from multimix_jax.errors import UsageError
from multimix_jax.names import Checkpoint
from multimix_jax.state import TrainState
from multimix_jax.training import parallel
from multimix_jax.training.checkpoint import Checkpoints, newest_step
from multimix_jax.training.metric_writer import MetricWriter
from multimix_jax.training.preemption import Preempted, PreemptionGuard

PyTree = Any
TELL_EVERY = 30.0  # seconds


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How often something is done, in steps; the last step does all of it.

    `max_skipped` steps in a row may be not finite, before training ends.
    """

    log_every: int = dataclasses.field(metadata={"least": 1, "free": True})
    eval_every: int = dataclasses.field(metadata={"least": 1})
    checkpoint_every: int = dataclasses.field(metadata={"least": 1})
    max_skipped: int = dataclasses.field(metadata={"least": 1})


class TrainingData(Protocol):
    """What the loop asks of the data: NumPy arrays of the steps `start` to `stop` - 1, the ids of a
    step's examples by stream, and a digest of all examples and their order."""

    images_per_step: int
    digest: str

    def batches(self, start: int, stop: int) -> Iterator[PyTree]: ...
    def ids_of_step(self, step: int) -> Mapping[str, Sequence[str]]: ...


@dataclasses.dataclass
class Progress:
    """What a run carries besides its state; saved with every checkpoint as JSON values."""

    data: str = ""  # `TrainingData.digest`; with the step it gives the place in the data
    best_score: float | None = None  # on validation
    best_step: int | None = None
    seconds: float = 0.0  # of training, over all starts, with compilation and validation
    skipped: int = 0  # steps that were not finite, and so not learned from
    skipped_in_row: int = 0  # how many of them were the last ones


def check_data(trained: str, here: str) -> None:
    """Raises UsageError unless `Progress.data` of a checkpoint is that of the data at hand."""
    if trained != here:
        raise UsageError(
            "the images of this run have changed since its last checkpoint, so it can be neither "
            "continued nor evaluated; restore the data (the ids are in ids.json) or use another "
            "--workdir"
        )


@dataclasses.dataclass
class _Log:
    """Metrics of the steps, fetched one step late, so that the device never waits for the host."""

    steps: int
    cadence: Cadence
    data: TrainingData
    writer: MetricWriter
    bar: tqdm
    progress: Progress
    noted: tuple[int, Mapping[str, jax.Array]] | None = None  # of a step, on the device
    last: tuple[int, float] | None = None  # step and time; the first steps compile
    first: tuple[int, float] | None = None  # the same, of the first step after compilation
    told: float = -math.inf  # when a line was last written for who sees no bar

    def fetch(self) -> None:
        """Writes the metrics that were noted last, and counts a step that was skipped.

        Raises UsageError where too many steps in a row were not finite.
        """
        if self.noted is None:
            return
        (step, metrics), self.noted = self.noted, None
        if float(metrics["skipped"]):
            self._skipped(step, metrics)
        else:
            self.progress.skipped_in_row = 0
        self._tell(step, metrics)
        if step % self.cadence.log_every and step != self.steps:
            return
        values = {name: float(value) for name, value in metrics.items()}
        self.writer.scalars(step, "train", values)
        text, now = f"loss {values['loss']:.3f}", time.monotonic()
        if self.last is not None:
            before, then = self.last
            speed = (step - before) * self.data.images_per_step / (now - then)
            self.writer.speed(step, speed)
            text += f", {speed:.0f} images/s"
        self.bar.set_postfix_str(text)
        self.last = step, now

    def _tell(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Where there is no bar, as in a file of a batch system, a line at once and then every
        TELL_EVERY seconds: loss, speed and the time that is left."""
        now = time.monotonic()
        if self.first is None:
            self.first = step, now
        if not self.bar.disable or not parallel.is_first() or now - self.told < TELL_EVERY:
            return
        self.told, (begun, then) = now, self.first
        text = f"step {step} of {self.steps}: loss {float(metrics['loss']):.3f}"
        if step > begun:
            speed = (step - begun) / (now - then)
            left = datetime.timedelta(seconds=round((self.steps - step) / speed))
            text += f", {speed * self.data.images_per_step:.0f} images/s, {left} left"
        _say(self.bar, text)

    def _skipped(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_row += 1
        values = {name: float(metrics[name]) for name in ("loss", "grad_norm")}
        text = ", ".join(f"{name} {value:g}" for name, value in values.items())
        self.writer.skipped(step, values, self.data.ids_of_step(step - 1))
        _say(self.bar, f"step {step}: not finite ({text}), nothing was learned from it")
        if progress.skipped_in_row >= self.cadence.max_skipped:
            raise UsageError(
                f"{progress.skipped_in_row} steps in a row were not finite, the last step {step} "
                f"({text}); their images are listed in metrics.jsonl. Look at these, or lower "
                "--config.learning_rate in another --workdir; the checkpoints hold finite weights"
            )


def _say(bar: tqdm, line: str) -> None:
    """Above the bar, or in a file at once, which Python would fill block by block."""
    bar.write(line)
    sys.stdout.flush()


def train(
    workdir: pathlib.Path,
    initial: Callable[[], TrainState],
    sharded: parallel.ShardedStep,
    data: TrainingData,
    *,
    steps: int,
    cadence: Cadence,
    validate: Callable[[PyTree, int, MetricWriter], tuple[float, Mapping[str, float]]],
    guard: PreemptionGuard,
) -> None:
    """Trains to `steps`; goes on from the last checkpoint in `workdir` as if never interrupted.

    `initial` makes the state before the first step, placed by `sharded.put_state`, so that nobody
    else holds it; `validate` gives a score and metrics of variables; `guard` is asked after each
    step.

    Raises:
      Preempted: by SIGTERM or SIGINT; the state was saved.
      UsageError: the checkpoint is damaged, or was made with other data; or too many steps in a row
        were not finite.
    """
    progress = Progress(data=data.digest)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir))
        state = initial()
        restored = checkpoints.restore(Checkpoint.LAST, state)
        if restored is not None:
            state, meta = restored
            progress = Progress(**meta)
            check_data(progress.data, data.digest)
        step, before = int(state.step), progress.seconds
        guard.begin(step, functools.partial(newest_step, workdir, Checkpoint.LAST))
        silent = not parallel.is_first()
        writer = stack.enter_context(MetricWriter(workdir, step, before, silent=silent))
        bar = stack.enter_context(
            tqdm(total=steps, initial=step, desc="Training", unit=" steps", disable=None)
        )
        begun = time.monotonic()
        log = _Log(steps, cadence, data, writer, bar, progress)

        def save(which: Checkpoint) -> None:
            progress.seconds = before + time.monotonic() - begun
            checkpoints.save(which, state, dataclasses.asdict(progress))

        for batch in parallel.prefetch(data.batches(step, steps), sharded.put_batch):
            state, metrics = sharded.step(state, batch)
            step += 1
            bar.update()
            log.fetch()
            log.noted = step, metrics
            stop = guard.requested(step)
            evaluate = step == steps or step % cadence.eval_every == 0
            if not (evaluate or stop or step % cadence.checkpoint_every == 0):
                continue
            log.fetch()  # a checkpoint stands for all metrics before it
            if evaluate:
                # The copy is kept by no name: it is as large as the weights.
                score, validation = validate(
                    parallel.local_copy(state.eval_variables), step, writer
                )
                score = parallel.broadcast_from_process_0(score)
                writer.scalars(step, "validation", validation)
                best = progress.best_score is None or score > progress.best_score
                text = f"step {step}: validation score {score:.4f}"
                _say(bar, f"{text}, the best" if best else text)
                if best:
                    progress.best_score, progress.best_step = score, step
                    save(Checkpoint.BEST)
            save(Checkpoint.LAST)
            if stop and step < steps:
                raise Preempted(f"stopped after step {step} of {steps}; the same command goes on")
