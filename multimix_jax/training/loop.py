"""The training loop: steps, their metrics, validation and checkpoints."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
from tqdm import tqdm

from multimix_jax.errors import UsageError
from multimix_jax.names import Checkpoint
from multimix_jax.state import TrainState
from multimix_jax.training import parallel
from multimix_jax.training.checkpoint import Checkpoints
from multimix_jax.training.metric_writer import MetricWriter
from multimix_jax.training.preemption import Preempted, PreemptionGuard

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How often something is done, in steps; the last step does all of it.

    Attributes:
      log_every, eval_every, checkpoint_every: 1 or more.
      max_skipped: how many steps in a row may be not finite, before training ends.
    """

    log_every: int = dataclasses.field(metadata={"least": 1, "free": True})
    eval_every: int = dataclasses.field(metadata={"least": 1})
    checkpoint_every: int = dataclasses.field(metadata={"least": 1})
    max_skipped: int = dataclasses.field(metadata={"least": 1})


class TrainingData(Protocol):
    """What the loop asks of the data."""

    images_per_step: int

    def batches(self, start: int, stop: int) -> Iterator[PyTree]:
        """Batches of NumPy arrays of the steps from `start` to `stop` - 1."""
        ...

    def ids_of_step(self, step: int) -> Mapping[str, Sequence[str]]:
        """Ids of a step's examples, by stream."""
        ...


@dataclasses.dataclass
class Progress:
    """What a run carries besides its state; saved with every checkpoint as JSON values.

    Attributes:
      data: identifies the order of the data, which with the step gives the position in it.
      best_score: highest validation score so far, None before the first.
      best_step: where it was reached.
      seconds: time spent training, over all starts, compilation and validation included.
      skipped: steps that were not finite, and so not learned from.
      skipped_in_row: how many of them were the last ones.
    """

    data: str = ""
    best_score: float | None = None
    best_step: int | None = None
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0


def restore(
    checkpoints: Checkpoints, state: TrainState, progress: Progress
) -> tuple[TrainState, Progress]:
    """State and progress of the last checkpoint, or those given where there is none.

    Raises:
      UsageError: the checkpoint is damaged, or was made with other data.
    """
    restored = checkpoints.restore(Checkpoint.LAST, state)
    if restored is None:
        return state, progress
    state, meta = restored
    saved = Progress(**meta)
    check_data(saved.data, progress.data)
    return state, saved


def check_data(trained: str, here: str) -> None:
    """Raises UsageError unless `Progress.data` of a checkpoint is that of the data at hand."""
    if trained != here:
        raise UsageError(
            "the images of this run have changed since its last checkpoint, so it can be neither "
            "continued nor evaluated; restore the data (the ids are in ids.json) or use another "
            "--workdir"
        )


class _Log:
    """Metrics of the steps, fetched one step late, so that the device never waits for the host."""

    def __init__(
        self, steps: int, cadence: Cadence, data: TrainingData, writer: MetricWriter, bar: tqdm
    ):
        self._steps, self._cadence, self._data = steps, cadence, data
        self._writer, self._bar = writer, bar
        self._waiting: tuple[int, Mapping[str, jax.Array]] | None = None
        self._last: tuple[int, float] | None = None  # step and time; the first steps compile

    def note(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Metrics of a step, on the device."""
        self._waiting = step, metrics

    def fetch(self, progress: Progress) -> None:
        """Writes the metrics that were noted last, and counts a step that was skipped.

        Raises:
          UsageError: too many steps in a row were not finite.
        """
        if self._waiting is None:
            return
        (step, metrics), self._waiting = self._waiting, None
        if float(metrics["skipped"]):
            self._skipped(step, metrics, progress)
        else:
            progress.skipped_in_row = 0
        if step % self._cadence.log_every and step != self._steps:
            return
        values = {name: float(value) for name, value in metrics.items()}
        self._writer.scalars(step, "train", values)
        text, now = f"loss {values['loss']:.3f}", time.monotonic()
        if self._last is not None:
            before, then = self._last
            speed = (step - before) * self._data.images_per_step / (now - then)
            self._writer.speed(step, speed)
            text += f", {speed:.0f} images/s"
        self._bar.set_postfix_str(text)
        self._last = step, now

    def _skipped(self, step: int, metrics: Mapping[str, jax.Array], progress: Progress) -> None:
        progress.skipped += 1
        progress.skipped_in_row += 1
        values = {name: float(metrics[name]) for name in ("loss", "grad_norm")}
        text = ", ".join(f"{name} {value:g}" for name, value in values.items())
        self._writer.skipped(step, values, self._data.ids_of_step(step - 1))
        self._bar.write(f"step {step}: not finite ({text}), nothing was learned from it")
        if progress.skipped_in_row >= self._cadence.max_skipped:
            raise UsageError(
                f"{progress.skipped_in_row} steps in a row were not finite, the last step {step} "
                f"({text}); their images are listed in metrics.jsonl. Look at these, or lower "
                "--config.learning_rate in another --workdir; the checkpoints hold finite weights"
            )


def train(
    state: TrainState,
    sharded: parallel.ShardedStep,
    data: TrainingData,
    *,
    steps: int,
    cadence: Cadence,
    validate: Callable[[PyTree, int], tuple[float, Mapping[str, float]]],
    writer: MetricWriter,
    checkpoints: Checkpoints,
    progress: Progress,
    guard: PreemptionGuard,
) -> TrainState:
    """Trains from `state.step` to `steps`; what it wrote up to there is as if never interrupted.

    Args:
      state: placed by `sharded.put_state`.
      sharded: the compiled step.
      data: to train on.
      steps: where to end.
      cadence: of logging, validation and checkpoints.
      validate: (variables, step) -> (score, metrics).
      writer: of metrics.
      checkpoints: to save to.
      progress: updated in place.
      guard: asked after each step.

    Returns:
      The state after the last step.

    Raises:
      Preempted: by SIGTERM or SIGINT; the state was saved.
      UsageError: too many steps in a row were not finite.
    """
    begun, before = time.monotonic(), progress.seconds
    step = int(state.step)
    bar = tqdm(total=steps, initial=step, desc="Training", unit=" steps", disable=None)
    log = _Log(steps, cadence, data, writer, bar)

    def save(which: Checkpoint) -> None:
        progress.seconds = before + time.monotonic() - begun
        checkpoints.save(which, state, dataclasses.asdict(progress))

    with bar:
        for batch in parallel.prefetch(data.batches(step, steps), sharded.put_batch):
            state, metrics = sharded.step(state, batch)
            step += 1
            bar.update()
            log.fetch(progress)
            log.note(step, metrics)
            stop = guard.requested(step)
            evaluate = step == steps or step % cadence.eval_every == 0
            if not (evaluate or stop or step % cadence.checkpoint_every == 0):
                continue
            log.fetch(progress)  # a checkpoint stands for all metrics before it
            if evaluate:
                score, validation = validate(parallel.local_copy(state.eval_variables), step)
                score = parallel.broadcast_from_process_0(score)
                writer.scalars(step, "validation", validation)
                best = progress.best_score is None or score > progress.best_score
                bar.write(
                    f"step {step}: validation score {score:.4f}{', the best' if best else ''}"
                )
                if best:
                    progress.best_score, progress.best_step = score, step
                    save(Checkpoint.BEST)
            save(Checkpoint.LAST)
            if stop and step < steps:
                raise Preempted(f"stopped after step {step} of {steps}; the same command goes on")
    return state
