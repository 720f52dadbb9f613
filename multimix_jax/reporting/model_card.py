"""A card that says what trained weights are, how good they are and what they are not for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from multimix_jax import __version__
from multimix_jax.names import Checkpoint, Component
from multimix_jax.reporting import tables
from multimix_jax.runs.data import RunData
from multimix_jax.runs.spec import RunSpec

SHOWN = ("dice", "hd95", "hd95_mm", "accuracy", "auroc", "ece", "ece_calibrated")
TASKS = {
    Component.DECODER: "image-segmentation",
    Component.CLASSIFIER: "image-classification",
}
CARD = """\
---
{front}
---

# {system}, {labels}seed {seed}

Components: {components}. Trained for {steps} steps in {minutes:.0f} minutes by multimix_jax
{version}; `config.json` has every field, `ids.json` every image.

```
multimix-predict THIS_FOLDER images/ --out OUT
multimix-export THIS_FOLDER OUT
```

## Data

{data}

## Results

Means over images, with 95 % intervals over test images. `best` weights were best on validation,
`baseline` is the answer that looks at no image.

{results}

{calibration}

## Limits

* Not a medical device, and not for clinical use: made for research, and tested for nothing else.
* It answers whatever image it is given. It knows nothing of other hospitals, machines, ages or
  projections than those it was trained on, and does not say so: see the test sets from elsewhere.
* The threshold takes over how frequent the classes were among the validation images.
* Saliency shows what a score depends on, not where a disease is.
"""


def model_card(spec: RunSpec, results: Mapping[str, Any], data: RunData) -> str:
    """The card of a run (Mitchell et al. 2019) as Markdown, with what model hubs read before it.

    Args:
      spec: of the run.
      results: of `Run.evaluate`.
      data: of the run.
    """
    run = results["run"]
    tags = ["jax", "flax", "medical-imaging", "semi-supervised", spec.system]
    tags += [task for component, task in TASKS.items() if component in run["components"]]
    front = {"library_name": "multimix_jax", "tags": tags}
    budget = {
        Component.CLASSIFIER: f"{spec.data.cls_labels} class labels, ",
        Component.DECODER: f"{spec.data.seg_labels} masks, ",
    }
    return CARD.format(
        front="\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items()),
        system=spec.system,
        labels="".join(budget[one] for one in budget if one in run["components"]),
        seed=spec.seed,
        components=", ".join(run["components"]),
        steps=run["steps"],
        minutes=run["seconds"] / 60,
        version=__version__,
        data=_data(data.ids),
        results=_results(results),
        calibration="\n".join(_calibration(run, data.label_spec.class_names)),
    )


def _data(ids: Mapping[str, Any]) -> str:
    counts = [
        [f"{purpose}, {name}", str(len(names))]
        for purpose, sets in ids.items()
        for name, names in sets.items()
    ]
    return tables.Table(["images", "number"], counts).markdown()


def _results(results: Mapping[str, Any]) -> str:
    rows = []
    for which, data_set, head, part in tables.summaries(results):
        shown = [name for name in SHOWN if name in part]
        figures = [" ".join((name, *(tables.estimate(part[name]) or "–"))) for name in shown]
        rows.append([which, tables.with_head(data_set, head), "; ".join(figures)])
    return tables.Table(["weights", "images", ""], rows).markdown()


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
