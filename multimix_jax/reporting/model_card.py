"""A card that says what trained weights are, how good they are and what they are not for."""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from multimix_jax import __version__
from multimix_jax.names import Checkpoint, Component
from multimix_jax.reporting import tables
from multimix_jax.runs.data import RunData
from multimix_jax.runs.spec import RunSpec

SHOWN = ("dice", "hd95", "hd95_mm", "accuracy", "auroc", "ece", "ece_calibrated")


def model_card(spec: RunSpec, results: Mapping[str, Any], data: RunData) -> str:
    """The card of a run (Mitchell et al. 2019) as Markdown, with what model hubs read before it.

    `results`: of `Run.evaluate`.
    """
    run = results["run"]
    tags = ["jax", "flax", "medical-imaging", "semi-supervised", spec.system]
    labels = ""
    if Component.CLASSIFIER in run["components"]:
        labels += f"{spec.data.cls_labels} class labels, "
    if Component.DECODER in run["components"]:
        tags.append("image-segmentation")
        labels += f"{spec.data.seg_labels} masks, "
    if Component.CLASSIFIER in run["components"]:
        tags.append("image-classification")
    counts = [
        [f"{purpose}, {name}", str(len(ids))]
        for purpose, sets in data.ids.items()
        for name, ids in sets.items()
    ]
    card = pathlib.Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    return card.format(
        front=f'library_name: "multimix_jax"\ntags: {json.dumps(tags)}',
        system=spec.system,
        labels=labels,
        seed=spec.seed,
        components=", ".join(run["components"]),
        steps=run["steps"],
        minutes=run["seconds"] / 60,
        version=__version__,
        data=tables.markdown(["images", "number"], counts),
        results=_results(results),
        calibration="\n".join(_calibration(run, data.label_spec.class_names)),
    )


def _results(results: Mapping[str, Any]) -> str:
    rows = []
    for which, data_set, head, part in tables.summaries(results):
        shown = [name for name in SHOWN if name in part]
        figures = [" ".join((name, *(tables.estimate(part[name]) or "–"))) for name in shown]
        rows.append([which, tables.with_head(data_set, head), "; ".join(figures)])
    return tables.markdown(["weights", "images", ""], rows)


def _calibration(run: Mapping[str, Any], class_names: Sequence[str]) -> Iterator[str]:
    if class_names:
        yield f"Classes, in the order of their probabilities: {', '.join(class_names)}."
    for which in Checkpoint:
        chosen = run.get(which, {})
        if "temperature" in chosen:
            threshold = chosen["threshold"]
            at = "" if threshold is None else f", threshold {threshold:.3f} on {class_names[1]}"
            yield (
                f"Of the {which} weights, on validation: temperature "
                f"{chosen['temperature']:.3f}{at}."
            )
