"""A finished run as one HTML page, which needs nothing but itself.

The template escapes every name and value when it is filled in, so that none from a file can become
markup.
"""

import base64
import io
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2
import numpy as np
from flax.traverse_util import flatten_dict
from PIL import Image

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.names import Task
from multimix_jax.reporting import observer, pictures, plots, series, tables
from multimix_jax.reporting.series import Curve
from multimix_jax.runs import record, workdir
from multimix_jax.runs.picture_files import Picture
from multimix_jax.runs.record import FinishedRun, Images

# Nothing may be fetched, whatever stands in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
POINTS = 150  # of a learning curve; more are averaged
NO_CURVE = ("step", "split", "seconds", "skipped", series.ACCEPTED, series.KNOWN, series.CORRECT)
MANY = 4  # classes; of more each has charts of its own
SIDE_BY_PIXEL = 128  # up to here a picture is kept pixel by pixel, since it is shown enlarged


def write(run: FinishedRun, path: pathlib.Path) -> None:
    """Writes the page of a run; UsageError where what it left behind is damaged."""
    folder = pathlib.Path(__file__).parent
    read = lambda name: (folder / name).read_text(encoding="utf-8")
    labels, masks = run.budget
    budget = [] if labels is None else [f"{labels} class labels"]
    if masks:
        budget.append(f"{masks} masks")
    shown = {" and ".join(together): together[0] for together in run.checkpoints}
    fields = flatten_dict(dict(run.config), sep=".")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(read("page.html")).render(
        policy=POLICY,
        style=read("page.css"),
        script=read("page.js"),
        name=run.path.resolve().name,
        run=run,
        budget=budget,
        checkpoints={
            name: (run.results["run"][which]["step"], run.calibration(which))
            for name, which in shown.items()
        },
        results=list(_results(run)),
        curves=list(_class_curves(run)),
        **_gallery(run),
        **_training(run),
        fields=[(name, _text(value)) for name, value in fields.items()],
    )
    atomic.write_text(path, page.lstrip() + "\n")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _results(run: FinishedRun) -> Iterator[tuple[str, str, list[str], list[list[Any]]]]:
    """Title, caption, columns and rows of a table for each test set and task."""
    names: dict[str, str] = {one[0]: " and ".join(one) for one in run.checkpoints}
    hidden = {which for _, *others in run.checkpoints for which in others}
    for data_set in run.results["run"]["tests"]:
        for task, leading, kind in (
            (Task.SEG, "dice", "masks"),
            (Task.CLS, "accuracy", "classes"),
        ):
            rows = [
                (tables.with_head(names.get(which, which), head), part)
                for which, tested, head, part in tables.summaries(run.results)
                if tested == data_set and leading in part and which not in hidden
            ]
            if not rows:
                continue
            # Metrics of both tasks may stand together; those of masks are of each image.
            of_masks = lambda entry: "std" in entry
            metrics_shown = dict.fromkeys(
                metric
                for _, part in rows
                for metric, entry in part.items()
                if of_masks(entry) == of_masks(part[leading])
            )
            title = f"{data_set} ({tables.domain(run.trained_on(data_set, task))}), {kind}"
            caption = f"{data_set}: {rows[0][1][leading]['n']} images"
            each = tables.of_one_class(metrics_shown)
            of_all = [name for name in metrics_shown if name not in each]
            lines = [[at, *(tables.estimate(part.get(n)) for n in of_all)] for at, part in rows]
            yield title, caption, ["checkpoint", *(n.replace("_", " ") for n in of_all)], lines
            if each:
                kinds = list(dict.fromkeys(kind for kind, _ in each.values()))
                lines = [
                    [f"{at}, {name}", *(tables.estimate(part.get(f"{k}_{name}")) for k in kinds)]
                    for name in dict.fromkeys(name for _, name in each.values())
                    for at, part in rows
                ]
                columns = ["checkpoint, class", *(kind.replace("_", " ") for kind in kinds)]
                yield f"{title}, each", f"{caption}, each class against the others", columns, lines


def _class_curves(run: FinishedRun) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The charts of each data set with classes."""
    for data_set in run.results["run"]["tests"]:
        apart: dict[str, tuple[list[Curve], list[Curve]]] = {}  # all classes, or each of many
        for together in run.checkpoints:
            which = together[0]
            images = run.images.get((which, data_set))
            if images is None or not images.class_names:
                continue
            for index in series.shown_classes(images.class_names, run.labels.multi_label):
                name, label = images.class_names[index], " and ".join(together)
                each = apart.setdefault(name if len(images.class_names) > MANY else "", ([], []))
                style = f"{label}, {name}", f"C{len(each[0])}"
                for curves, of in zip(each, (series.roc, series.calibration)):
                    curves += of(*style, [(run, images)], which, index)
        charts = []
        for name, (roc, calibration) in apart.items():
            title = f"{data_set}, {name}" if name else data_set
            bins = f"{title}: calibration, bins of at least 5 images"
            charts.append(_chart(f"{title}: ROC", roc, *series.ROC, diagonal=True))
            charts.append(_chart(bins, calibration, *series.CALIBRATION, diagonal=True))
        if charts:
            yield data_set, charts


def _training(run: FinishedRun) -> dict[str, Any]:
    """Learning curves, and the steps that were skipped."""
    lines = {
        split: [line for line in run.history if line["split"] == split]
        for split in ("train", "validation", "skipped")
    }
    names = {split: dict.fromkeys(n for line in of for n in line) for split, of in lines.items()}

    def curve(split: str, name: str, label: str = "", color: str = "C0") -> Curve:
        """A metric over the steps, of many steps the means of some together."""
        steps, values = series.history([run], split, name)
        parts = min(POINTS, len(steps))
        means = lambda numbers: np.array([part.mean() for part in np.array_split(numbers, parts)])
        return Curve(label or name, means(steps), means(values), color)

    drawn = []
    scores = [n for n in names["validation"] if n == "score" or n.endswith(("/dice", "/auroc"))]
    if scores:
        title = "validation: the score that chooses the checkpoint, and its parts"
        parts = [curve("validation", n, color=f"C{index}") for index, n in enumerate(scores)]
        drawn.append(_chart(title, parts))
    if series.ACCEPTED in names["train"]:
        both = ("accepted, of all", "right, of the accepted")
        smooth = max(len(lines["train"]) // POINTS, 1)
        accepted, right = series.accepted_curves([run], *both, smooth)
        title = "pseudo-labels" if right else "pseudo-labels, the truth of which is not known"
        shown = [accepted, *(curve._replace(color="C1") for curve in right)]
        some = [c._replace(x=c.x[::-smooth][::-1], y=c.y[::-smooth][::-1]) for c in shown]
        drawn.append(_chart(title, some, shares=True))
    drawn += [
        _chart(f"training: {name}", [curve("train", name)])
        for name in sorted(names["train"], key=lambda name: name != "loss")
        if name not in NO_CURVE
    ]
    steps = [str(line["step"]) for line in lines["skipped"]]
    skipped = f"{len(steps)} steps were not finite and taught nothing: {', '.join(steps)}."
    return {"skipped": skipped if steps else "No step was skipped.", "training": drawn}


def _chart(
    title: str, curves: Sequence[Curve], x: str = "step", y: str = "", **options: Any
) -> dict[str, Any]:
    """A chart, its legend, and what it shows, for those who do not see it."""
    parts = []
    for curve in curves:
        finite = curve.y[np.isfinite(curve.y)]
        if len(finite):
            parts.append(f"{curve.label} from {finite[0]:.3g} to {finite[-1]:.3g}")
    source = _source(plots.svg(curves, x=x, y=y, **options).encode(), "svg+xml")
    legend = [(curve.label, plots.css(curve)) for curve in curves] if len(curves) > 1 else []
    text = f"{title}: {'; '.join(parts)}"
    return {"title": title, "source": source, "text": text, "legend": legend}


def _gallery(run: FinishedRun) -> dict[str, Any]:
    """Cards of test images, and what they may be chosen and ordered by."""
    gallery = run.gallery
    try:
        cards = [
            _card(data_set, picture, run.images[gallery.checkpoint, data_set])
            for data_set, shown in gallery.sets.items()
            for picture in shown
        ]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{run.path / workdir.GALLERY} does not belong to {workdir.PER_IMAGE} "
            f"({type(error).__name__}: {error}); evaluate that run again with --mode=eval"
        ) from error
    orders = {"": "test set, what is known, worst first"}
    for key, name in (("dice", "Dice"), ("error", "class error")):
        if any(key in card["order"] for card in cards):
            orders[f"{key} up"] = f"{name}, lowest first"
            orders[f"{key} down"] = f"{name}, highest first"
    images = [len({picture.id for picture in shown}) for shown in gallery.sets.values()]
    return {
        "most": max(images, default=0),
        "checkpoint": str(gallery.checkpoint),
        "sets": {"": "all", **{name: name for name in gallery.sets}},
        "orders": orders,
        "cards": cards,
    }


def _card(data_set: str, picture: Picture, images: Images) -> dict[str, Any]:
    """Pictures of a test image and its figures."""
    row = images.ids.index(picture.id)
    values = {
        name: column[row].item()
        for name, column in images.columns.items()
        if not math.isnan(column[row])
    }
    order = {}
    facts = [("test set", data_set)]
    for head, part in record.by_head(values).items():
        if "dice" in part:
            facts.append((tables.with_head("Dice", head), f"{part['dice']:.3f}"))
    if "dice" in values:
        order["dice"] = f"{values['dice']:.6f}"
    truths = observer.of_truth(values)
    if truths:
        names = images.class_names
        order["error"] = f"{1 - min(truths.values()):.6f}"
        facts.append(("truth", ", ".join(truths)))
        facts += [(f"probability of {n}", f"{values[f'probability_{n}']:.3f}") for n in names]
        if not math.isnan(images.correct[row]):
            facts.append(("class at 0.5", "right" if images.correct[row] == 1 else "wrong"))
    if not truths and "dice" not in values:
        facts.append(("truth", "unknown"))
    shown = pictures.panels(picture)
    return {
        "data_set": data_set,
        "title": pictures.with_slice(picture.id, picture.slice, ", "),
        "order": order,
        "panels": [(t, _webp(panel), *panel.shape[:2]) for t, panel in shown.items()],
        "facts": facts,
    }


def _webp(picture: np.ndarray) -> str:
    """The address of uint8 [H,W,3]."""
    file = io.BytesIO()
    exact = max(picture.shape[:2]) <= SIDE_BY_PIXEL
    Image.fromarray(picture).save(file, "WEBP", lossless=exact, quality=90)
    return _source(file.getvalue(), "webp")


def _source(data: bytes, kind: str) -> str:
    """The address of an image that lies in the page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
