"""The training loop: steps, what is said of them, validation and checkpoints."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from tqdm import tqdm

from multimix_jax import parallel
from multimix_jax.checkpoint import Checkpoints
from multimix_jax.errors import UsageError
from multimix_jax.metric_writer import MetricWriter
from multimix_jax.train_state import TrainState
from multimix_jax.workdir import BEST, LAST

PyTree = Any


@dataclasses.dataclass
class Progress:
    """What a run carries besides its state; saved with every checkpoint as JSON values.

    Attributes:
      best_score: highest validation score so far, None before the first.
      best_step: where it was reached.
      seconds: time spent training, over all starts, compilation and validation included.
      data: identifies the order of the data, which with the step gives the position in it.
    """

    data: str = ""
    best_score: float | None = None
    best_step: int | None = None
    seconds: float = 0.0


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
    if found.data != progress.data:
        raise UsageError(
            "the images of this run have changed since its last checkpoint, so it cannot be "
            "continued; restore the data (the ids are in ids.json) or use another --workdir"
        )
    return state, found


def train(
    state: TrainState,
    spread: parallel.Spread,
    batches: Iterator[PyTree],
    *,
    steps: int,
    images_per_step: int,
    log_every: int,
    eval_every: int,
    checkpoint_every: int,
    validate: Callable[[PyTree, int], tuple[float, Mapping[str, float]]],
    writer: MetricWriter,
    checkpoints: Checkpoints,
    progress: Progress,
) -> TrainState:
    """Trains from `state.step` to `steps`; what it wrote up to there is as if never interrupted.

    Args:
      state: placed by `spread.put_state`.
      spread: the compiled step.
      batches: of the steps to come.
      steps: where to end.
      images_per_step: for the speed that is shown.
      log_every, eval_every, checkpoint_every: in steps; the last step does all three.
      validate: (variables, step) -> (score, metrics).
      writer: of metrics.
      checkpoints: to save to.
      progress: updated in place.

    Returns:
      The state after the last step.
    """
    begun, before = time.monotonic(), progress.seconds
    spoke: tuple[int, float] | None = None
    step = int(state.step)
    waiting: tuple[int, Mapping[str, jax.Array]] | None = None
    bar = tqdm(total=steps, initial=step, desc="Training", unit=" steps", disable=None)

    def write_waiting() -> None:
        """Metrics are fetched one step late, so that the device never waits for the host."""
        nonlocal waiting, spoke
        if waiting is None:
            return
        at, on_device = waiting
        values = {name: float(value) for name, value in on_device.items()}
        writer.scalars(at, "train", values)
        shown, now = f"loss {values['loss']:.3f}", time.monotonic()
        if spoke is not None:  # the first steps compile
            speed = (at - spoke[0]) * images_per_step / (now - spoke[1])
            writer.speed(at, speed)
            shown += f", {speed:.0f} images/s"
        bar.set_postfix_str(shown)
        waiting, spoke = None, (at, now)

    with bar:
        for batch in parallel.prefetch(batches, spread.put_batch):
            state, metrics = spread.step(state, batch)
            step += 1
            bar.update()
            write_waiting()
            last = step == steps
            if last or step % log_every == 0:
                waiting = step, metrics
            evaluate = last or step % eval_every == 0
            if not (evaluate or step % checkpoint_every == 0):
                continue
            # A checkpoint stands for all that was said before it.
            write_waiting()
            if evaluate:
                score, validation = validate(state.eval_variables, step)
                writer.scalars(step, "validation", validation)
                best = progress.best_score is None or score > progress.best_score
                bar.write(f"step {step}: validation score {score:.4f}{', the best' * best}")
                if best:
                    progress.best_score, progress.best_step = score, step
                    progress.seconds = before + time.monotonic() - begun
                    checkpoints.save(BEST, state, dataclasses.asdict(progress))
            progress.seconds = before + time.monotonic() - begun
            checkpoints.save(LAST, state, dataclasses.asdict(progress))
    return state
