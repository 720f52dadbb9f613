"""Folders of finished runs, written by hand."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np
from sklearn.metrics import accuracy_score, roc_auc_score

from configs import multimix
from multimix_jax import atomic
from multimix_jax.labels import LabelSpec
from multimix_jax.names import BASELINE, Checkpoint, Head
from multimix_jax.objectives import ObjectiveSpec, make_objective
from multimix_jax.runs import record, workdir
from multimix_jax.runs.picture_files import Gallery, Picture, write_examples, write_gallery

LUNGS, CHESTS = 30, 40
LABELS = np.arange(CHESTS) % 2
STEPS = 40


def write_run(
    folder: pathlib.Path,
    method: str,
    seed: int,
    *,
    dice: float = 0.9,
    noise: float = 0.2,
    draw: int | None = None,
    contents: Mapping[str, str] | None = None,
    **fields: object,
) -> pathlib.Path:
    """A run of a system in `folder`/NAME, on sets 'jsrt', with masks, and 'chex', with labels.

    Args:
      folder: of all runs.
      method: a system of configs/multimix.py.
      seed: of the run.
      dice: about the mean of it.
      noise: of the probabilities; at 0 all are right.
      draw: of its figures, the seed by default.
      contents: digests of own files, by their kind.
      fields: of the config.
    """
    c = multimix.get_config(f"method={method},seed={seed},size=32")
    c.steps = STEPS
    c.update_from_flattened_dict(fields)
    path = folder / f"{c.system}_{seed}"
    path.mkdir()
    rng = np.random.default_rng(seed if draw is None else draw)
    results: dict = {"run": {"seconds": 12.5, "steps": c.steps, "tests": ["jsrt", "chex"]}}
    results["run"]["warnings"] = ["jsrt: a word of caution"]
    objective = make_objective(ObjectiveSpec(c.method, c.dtype, c.model, c.objective))
    results["run"]["components"] = objective.components
    labels = LabelSpec(("well", "ill") if c.model.use_classifier else ())
    rows = []
    for which in (*Checkpoint, BASELINE):
        results[which] = {}
        results["run"][which] = {"step": c.steps, "temperature": 2.0, "threshold": 0.4}
        if c.model.use_decoder:
            scores = (dice + rng.normal(0, 0.02, LUNGS)).clip(0, 1)
            scores = np.full(LUNGS, 0.5) if which == BASELINE else scores
            rows += [
                {"checkpoint": which, "data_set": "jsrt", "id": f"l{n}", "dice": score}
                for n, score in enumerate(scores)
            ]
            dices = {"mean": scores.mean(), "std": scores.std(), "ci95": [0.8, 1.0], "n": LUNGS}
            results[which]["jsrt"] = {"dice": dices}
        if c.model.use_classifier:
            ill = (0.3 + 0.4 * LABELS + rng.normal(0, noise, CHESTS)).clip(0, 1)
            ill = np.full(CHESTS, 0.7) if which == BASELINE else ill
            rows += [
                {
                    **{"checkpoint": which, "data_set": "chex", "id": f"c{n}"},
                    **{"label": LABELS[n], "probability_well": 1 - p, "probability_ill": p},
                }
                for n, p in enumerate(ill)
            ]
            means = {
                "accuracy": accuracy_score(LABELS, ill >= 0.5),
                "auroc": roc_auc_score(LABELS, ill),
                "ece": 0.2,
                "ece_calibrated": 0.1,
            }
            results[which]["chex"] = {
                name: {"mean": mean, "ci95": [0.4, 1.0], "n": CHESTS}
                for name, mean in means.items()
            }
    record.write_csv(path / workdir.PER_IMAGE, rows)
    (path / "config.json").write_text(json.dumps(c.to_dict()))
    atomic.write_json(path / workdir.LABELS, dataclasses.asdict(labels))
    atomic.write_json(path / workdir.CONTENTS, contents or {})
    atomic.write_json(path / workdir.RESULTS, results)
    share = 0.8 if c.model.use_decoder else 1.0  # lines of two systems lie apart
    lines = [
        {
            **{"step": step, "split": "train", "seconds": step / 8, "loss": 1 / step},
            "cls/accepted": share * step / STEPS,
            # The truth is known of half of the images.
            "cls/accepted_and_known": share * step / STEPS / 2,
            "cls/accepted_and_correct": step / STEPS / 4,
        }
        for step in range(1, STEPS + 1)
    ]
    score = {"jsrt/dice": dice} if c.model.use_decoder else {"chex/auroc": 0.9}
    lines += [{"step": step, "split": "validation", **score} for step in (20, STEPS)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _write_pictures(path, masks=c.model.use_decoder, classes=c.model.use_classifier)
    return path


def _write_pictures(path: pathlib.Path, *, masks: bool, classes: bool) -> None:
    """Two lungs with masks, and three chests with saliency."""
    gray = np.full((16, 16, 1), 90, np.uint8)
    square = np.zeros((16, 16, 1), bool)
    square[4:12, 4:12] = True
    predicted = {Checkpoint.BEST: square, Checkpoint.LAST: np.roll(square, 2, axis=0)}
    lungs = {
        which: [Picture(id_, -1, gray, square, {Head.MASK: mask}) for id_ in ("l0", "l5")]
        for which, mask in predicted.items()
    }
    examples = {(which, "jsrt"): shown for which, shown in lungs.items()}
    counts = {name: np.arange(256) for name in ("jsrt", "chex")}
    write_examples(path, examples if masks else {}, counts)
    sets = {"jsrt": lungs[Checkpoint.BEST]} if masks else {}
    if classes:
        sets["chex"] = [Picture(id_, -1, gray, saliency=gray) for id_ in ("c0", "c1", "c2")]
    write_gallery(path, Gallery(Checkpoint.BEST, sets))
