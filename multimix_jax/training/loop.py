"""The training loop: steps, what is said of them, validation and checkpoints."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

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


@dataclasses.dataclass
class Progress:
    """What a run carries besides its state; saved with every checkpoint as JSON values.

    Attributes:
      best_score: highest validation score so far, None before the first.
      best_step: where it was reached.
      seconds: time spent training, over all starts, compilation and validation included.
      data: identifies the order of the data, which with the step gives the position in it.
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
    checkpoints: Checkpoints, which: str, state: TrainState, progress: Progress
) -> tuple[TrainState, Progress]:
    """State and progress of a checkpoint, or those given where there is none.

    Raises:
      UsageError: the checkpoint is damaged, or was made with other data.
    """
    restored = checkpoints.restore(which, state)
    if restored is None:
        return state, progress
    state, meta = restored
    found = Progress(**meta)
    check_data(found.data, progress.data)
    return state, found


def check_data(trained: str, here: str) -> None:
    """Raises UsageError unless `Progress.data` of a checkpoint is that of the data at hand."""
    if trained != here:
        raise UsageError(
            "the images of this run have changed since its last checkpoint, so it can be neither "
            "continued nor evaluated; restore the data (the ids are in ids.json) or use another "
            "--workdir"
        )


def train(
    state: TrainState,
    spread: parallel.ShardedStep,
    batches: Iterator[PyTree],
    *,
    steps: int,
    images_per_step: int,
    log_every: int,
    eval_every: int,
    checkpoint_every: int,
    max_skipped: int,
    validate: Callable[[PyTree, int], tuple[float, Mapping[str, float]]],
    ids_of_step: Callable[[int], Mapping[str, Sequence[str]]],
    writer: MetricWriter,
    checkpoints: Checkpoints,
    progress: Progress,
    stopping: PreemptionGuard,
) -> TrainState:
    """Trains from `state.step` to `steps`; what it wrote up to there is as if never interrupted.

    Args:
      state: placed by `spread.put_state`.
      spread: the compiled step.
      batches: of the steps to come.
      steps: where to end.
      images_per_step: for the speed that is shown.
      log_every, eval_every, checkpoint_every: in steps; the last step does all three.
      max_skipped: steps in a row that may be not finite.
      validate: (variables, step) -> (score, metrics).
      ids_of_step: (step) -> ids of its examples by stream.
      writer: of metrics.
      checkpoints: to save to.
      progress: updated in place.
      stopping: asked after each step.

    Returns:
      The state after the last step.

    Raises:
      Preempted: by SIGTERM or SIGINT; the state was saved.
      UsageError: `max_skipped` steps in a row were not finite.
    """
    begun, before = time.monotonic(), progress.seconds
    spoke: tuple[int, float] | None = None
    step = int(state.step)
    waiting: tuple[int, Mapping[str, jax.Array]] | None = None
    bar = tqdm(total=steps, initial=step, desc="Training", unit=" steps", disable=None)

    def look_back() -> None:
        """Metrics are fetched one step late, so that the device never waits for the host."""
        nonlocal waiting, spoke
        if waiting is None:
            return
        (at, on_device), waiting = waiting, None
        if float(on_device["skipped"]):
            progress.skipped += 1
            progress.skipped_in_row += 1
            values = {name: float(on_device[name]) for name in ("loss", "grad_norm")}
            writer.skipped(at, values, ids_of_step(at - 1))
            bar.write(f"step {at}: not finite ({_shown(values)}), nothing was learned from it")
            if progress.skipped_in_row >= max_skipped:
                raise UsageError(
                    f"{max_skipped} steps in a row were not finite, the last step {at} "
                    f"({_shown(values)}); their images are listed in metrics.jsonl. Look at these, "
                    "or lower --config.learning_rate in another --workdir; the checkpoints hold "
                    "finite weights"
                )
        else:
            progress.skipped_in_row = 0
        if at % log_every and at != steps:
            return
        values = {name: float(value) for name, value in on_device.items()}
        writer.scalars(at, "train", values)
        shown, now = f"loss {values['loss']:.3f}", time.monotonic()
        if spoke is not None:  # the first steps compile
            speed = (at - spoke[0]) * images_per_step / (now - spoke[1])
            writer.speed(at, speed)
            shown += f", {speed:.0f} images/s"
        bar.set_postfix_str(shown)
        spoke = at, now

    def save(which: str) -> None:
        progress.seconds = before + time.monotonic() - begun
        checkpoints.save(which, state, dataclasses.asdict(progress))

    with bar:
        for batch in parallel.prefetch(batches, spread.put_batch):
            state, metrics = spread.step(state, batch)
            step += 1
            bar.update()
            look_back()
            waiting = step, metrics
            stop = stopping.requested(step)
            evaluate = step == steps or step % eval_every == 0
            if not (evaluate or stop or step % checkpoint_every == 0):
                continue
            # A checkpoint stands for all that was said before it.
            look_back()
            if evaluate:
                score, validation = validate(parallel.local_copy(state.eval_variables), step)
                score = parallel.broadcast_from_process_0(score)
                writer.scalars(step, "validation", validation)
                best = progress.best_score is None or score > progress.best_score
                bar.write(f"step {step}: validation score {score:.4f}{', the best' * best}")
                if best:
                    progress.best_score, progress.best_step = score, step
                    save(Checkpoint.BEST)
            save(Checkpoint.LAST)
            if stop and step < steps:
                raise Preempted(f"stopped after step {step} of {steps}; the same command goes on")
    return state


def _shown(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
