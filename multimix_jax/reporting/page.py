"""A finished run as one HTML page, which needs nothing but itself.

Elements are built as a tree that escapes every text when it is written, so that no name or value
from a file can become markup.
"""

import base64
import io
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.evaluation import classification, curves
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.names import BASELINE, Checkpoint
from multimix_jax.reporting import figures
from multimix_jax.runs import workdir
from multimix_jax.runs.record import FinishedRun, Images, by_way, image_of

Element = ElementTree.Element
Line = tuple[str, np.ndarray, np.ndarray]  # a name, and where it goes: x [n], y [n]

# Nothing may be fetched, whatever stands in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
POINTS = 150  # of a learning curve; more are averaged
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 230, 46, 10, 10, 38  # of a chart, and its margins
SIDE_BY_PIXEL = 128  # up to here a picture is kept pixel by pixel, since it is shown enlarged
ACCEPTED, CORRECT = "cls/accepted", "cls/accepted_and_correct"


def write(run: FinishedRun, path: pathlib.Path) -> None:
    """Writes the page of a run, whole or not at all.

    Raises:
      UsageError: what the run left behind is damaged.
    """
    page = ElementTree.tostring(_page(run), encoding="unicode", method="html")
    atomic.write_text(path, f"<!DOCTYPE html>\n{page}\n")


def _e(tag: str, *children: Element | str, **attributes: object) -> Element:
    """An element; `class_` is its class, `data_set` its attribute data-set."""
    named = {k.rstrip("_").replace("_", "-"): str(value) for k, value in attributes.items()}
    element = Element(tag, named)
    for child in children:
        if not isinstance(child, str):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element


def _page(run: FinishedRun) -> Element:
    name = run.path.resolve().name
    script, style = (
        pathlib.Path(__file__).with_suffix(suffix).read_text(encoding="utf-8")
        for suffix in (".js", ".css")
    )
    sections = {
        "Results": _results(run),
        "ROC and calibration": _class_curves(run),
        "Test images": _gallery(run),
        "Training": _training(run),
        "Configuration": [_configuration(run)],
    }
    sections = {title: content for title, content in sections.items() if content}
    anchor = lambda title: title.lower().replace(" ", "-")
    return _e(
        "html",
        _e(
            "head",
            _e("meta", charset="utf-8"),
            _e("meta", http_equiv="Content-Security-Policy", content=POLICY),
            _e("meta", name="viewport", content="width=device-width, initial-scale=1"),
            _e("title", f"{name} – results"),
            _e("style", style),
        ),
        _e(
            "body",
            _e("a", "Skip to the results", class_="skip", href="#main"),
            _e(
                "header",
                _e("h1", name),
                _e("p", _summary(run)),
                _e(
                    "nav",
                    _e("ul", *(_e("li", _e("a", t, href=f"#{anchor(t)}")) for t in sections)),
                    aria_label="Sections",
                ),
            ),
            _e(
                "main",
                *(
                    _e("section", _e("h2", title), *content, id=anchor(title))
                    for title, content in sections.items()
                ),
                id="main",
                tabindex=-1,
            ),
            _e("footer", _e("p", "Not a medical device, and not for clinical use.")),
            _e("script", script),
        ),
        lang="en",
    )


def _summary(run: FinishedRun) -> str:
    labels, masks = run.budget
    budget = [f"{labels} class labels"] * (labels is not None) + [f"{masks} masks"] * bool(masks)
    minutes = run.results["run"]["seconds"] / 60
    return (
        f"{run.config['system']}, {' and '.join(budget)}, seed {run.config['seed']}: "
        f"{run.config['steps']} steps in {minutes:.0f} minutes; "
        + "; ".join(
            f"{which} checkpoint of step {run.results['run'][which]['step']}"
            + _chosen(run.calibration(which))
            for which in (Checkpoint.BEST, Checkpoint.LAST)
            if which in run.results["run"]
        )
        + "."
    )


def _chosen(calibration: Calibration | None) -> str:
    if calibration is None:
        return ""
    threshold = calibration.threshold
    return f" (temperature {calibration.temperature:.2f}" + (
        ")" if threshold is None else f", threshold {threshold:.2f})"
    )


def _results(run: FinishedRun) -> list[Element]:
    """A table for each test set and task."""
    content = [
        _e(
            "p",
            "Means over the images of a test set, with the 95 % interval over test images. The "
            "baseline looks at no image: the mean of the masks, the most frequent class.",
        )
    ]
    for data_set in run.results["run"]["tests"]:
        for task, leading in (("seg", "dice"), ("cls", "accuracy")):
            rows = [
                (f"{which}, {way}" if way else which, summary)
                for which in (Checkpoint.BEST, Checkpoint.LAST, BASELINE)
                for way, summary in by_way(run.results.get(which, {}).get(data_set, {})).items()
                if leading in summary
            ]
            if not rows:
                continue
            # Metrics of both tasks may stand together; those of masks are of each image.
            of_masks = lambda entry: "std" in entry
            columns = dict.fromkeys(
                metric
                for _, summary in rows
                for metric, entry in summary.items()
                if of_masks(entry) == of_masks(summary[leading])
            )
            count = rows[0][1][leading]["n"]
            where = "trained on" if run.trained_on(data_set, task) else "another hospital"
            content += [
                _e("h3", f"{data_set} ({where})" + (", classes" if task == "cls" else ", masks")),
                _table(
                    f"{data_set}: {count} images",
                    ["checkpoint", *(name.replace("_", " ") for name in columns)],
                    [
                        [title, *(_interval(summary.get(name)) for name in columns)]
                        for title, summary in rows
                    ],
                ),
            ]
    return content


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Element | str]]) -> Element:
    """It scrolls within itself, by keys too."""
    table = _e(
        "table",
        _e("caption", caption),
        _e("thead", _e("tr", *(_e("th", name, scope="col") for name in header))),
        _e(
            "tbody",
            *(
                _e("tr", _e("th", first, scope="row"), *(_e("td", cell) for cell in cells))
                for first, *cells in rows
            ),
        ),
    )
    return _e("div", table, class_="wide", tabindex=0, role="region", aria_label=caption)


def _interval(entry: Mapping[str, Any] | None) -> Element | str:
    if entry is None or math.isnan(entry["mean"]):
        return "–"
    low, high = entry["ci95"]
    return _e("span", f"{entry['mean']:.3f} ", _e("small", f"[{low:.3f}, {high:.3f}]"))


def _class_curves(run: FinishedRun) -> list[Element]:
    content: list[Element] = []
    for data_set in run.results["run"]["tests"]:
        roc: list[Line] = []
        calibration: list[Line] = []
        for which in (Checkpoint.BEST, Checkpoint.LAST):
            images = run.images.get((which, data_set))
            if images is None or not images.class_names:
                continue
            for index, name in enumerate(images.class_names):
                if len(images.class_names) == 2 and index == 0 and images.labels.ndim == 1:
                    continue  # says the same as the other class
                scores = images.probabilities[:, index]
                positive = classification.of_class(images.labels, index)
                title = f"{which}, {name}"
                roc.append((title, *curves.roc_curve(scores, positive)))
                calibration.append((title, *curves.reliability_curve(scores, positive)))
                chosen = run.calibration(which)
                if chosen is not None:
                    scores = np.asarray(chosen(images.probabilities))[:, index]
                    curve = curves.reliability_curve(scores, positive)
                    calibration.append((f"{title}, calibrated", *curve))
        if not roc:
            continue
        x, y = "false positive rate", "true positive rate"
        content += [
            _e("h3", data_set),
            _e(
                "div",
                _chart(f"{data_set}: ROC", roc, x, y, unit=True),
                _chart(
                    f"{data_set}: calibration, bins of at least 5 images",
                    calibration,
                    "predicted probability",
                    "share of the class",
                    marked=True,
                    unit=True,
                ),
                class_="charts",
            ),
        ]
    return content


def _training(run: FinishedRun) -> list[Element]:
    """Learning curves, and steps that taught nothing."""
    lines = {
        split: [line for line in run.history if line["split"] == split]
        for split in ("train", "validation", "skipped")
    }
    names = {
        split: dict.fromkeys(n for line in held for n in line) for split, held in lines.items()
    }
    apart = ("step", "split", "skipped", ACCEPTED, CORRECT)
    charts = []
    scores = [n for n in names["validation"] if n == "score" or n.endswith(("/dice", "/auroc"))]
    if scores:
        curves = [_history(lines["validation"], name) for name in scores]
        title = "validation: the score that chooses the checkpoint, and its parts"
        charts.append(_chart(title, curves, "step", marked=True))
    if CORRECT in names["train"]:
        accepted, correct = (_history(lines["train"], name) for name in (ACCEPTED, CORRECT))
        right = ("right, of the accepted", correct[1], correct[2] / np.maximum(accepted[2], 1e-9))
        curves = [("accepted, of all", *accepted[1:]), right]
        charts.append(_chart("pseudo-labels", curves, "step", shares=True))
    charts += [
        _chart(f"training: {name}", [_history(lines["train"], name)], "step")
        for name in sorted(names["train"], key=lambda name: name != "loss")
        if name not in apart
    ]
    skipped = [str(line["step"]) for line in lines["skipped"]]
    said = f"{len(skipped)} steps were not finite and taught nothing"
    return [
        _e("p", f"{said}: {', '.join(skipped)}." if skipped else "No step was skipped."),
        _e("div", *charts, class_="charts"),
    ]


def _history(lines: Sequence[Mapping[str, Any]], name: str) -> Line:
    """A metric over the steps, of many steps the means of some together."""
    points = [(line["step"], line[name]) for line in lines if name in line]
    parts = np.array_split(np.array(points, float), min(POINTS, len(points)))
    steps, values = np.array([part.mean(axis=0) for part in parts]).T
    return name, steps, values


def _chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str = "",
    *,
    shares: bool = False,
    unit: bool = False,
    marked: bool = False,
) -> Element:
    """Lines in a frame, with a legend; what is not finite is left out.

    Args:
      title: above it.
      lines: any number.
      x_label, y_label: of the axes.
      shares: whether y goes from 0 to 1 whatever the values.
      unit: whether both do, with the diagonal that says nothing.
      marked: whether each point is shown.
    """
    finite = [np.isfinite(x) & np.isfinite(y) for _, x, y in lines]
    lines = [(name, x[kept], y[kept]) for (name, x, y), kept in zip(lines, finite)]
    (left, right), (low, high) = (
        (0.0, 1.0) if fixed else _limits(np.concatenate([line[axis] for line in lines]))
        for axis, fixed in ((1, unit), (2, unit or shares))
    )
    across = lambda x: LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
    down = lambda y: HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
    bottom, middle = HEIGHT - BOTTOM, (HEIGHT - BOTTOM + TOP) / 2
    drawn = []
    for tick in _ticks(left, right):
        at = f"{across(tick):.1f}"
        drawn.append(_e("line", x1=at, x2=at, y1=TOP, y2=bottom, class_="grid"))
        drawn.append(_e("text", f"{tick:.6g}", x=at, y=bottom + 14, text_anchor="middle"))
    for tick in _ticks(low, high):
        at = f"{down(tick):.1f}"
        drawn.append(_e("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
        drawn.append(_e("text", f"{tick:.6g}", x=LEFT - 5, y=at, dy=4, text_anchor="end"))
    if unit:
        ends = dict(x1=LEFT, y1=bottom, x2=WIDTH - RIGHT, y2=TOP)
        drawn.append(_e("line", **ends, class_="diagonal"))
    for index, (_, xs, ys) in enumerate(lines):
        points = [f"{across(x):.1f},{down(y):.1f}" for x, y in zip(xs, ys)]
        drawn.append(_e("polyline", points=" ".join(points), class_=f"line{index % 6}"))
        for point in points if marked or len(points) == 1 else []:
            cx, cy = point.split(",")
            drawn.append(_e("circle", cx=cx, cy=cy, r=2.5, class_=f"line{index % 6}"))
    drawn.append(_e("text", x_label, x=(LEFT + WIDTH) / 2, y=HEIGHT - 6, text_anchor="middle"))
    turned = dict(x=12, y=middle, text_anchor="middle", transform=f"rotate(-90 12 {middle})")
    drawn.append(_e("text", y_label, **turned))
    said = [f"{name} from {y[0]:.3g} to {y[-1]:.3g}" for name, _, y in lines if len(y)]
    picture = _e("svg", *drawn, role="img", aria_label=f"{title}: {'; '.join(said)}")
    picture.set("viewBox", f"0 0 {WIDTH} {HEIGHT}")
    legend = [
        _e("li", _swatch(index), name) for index, (name, *_) in enumerate(lines) if len(lines) > 1
    ]
    return _e(
        "figure",
        _e("figcaption", title),
        picture,
        *([_e("ul", *legend, class_="legend")] if legend else []),
    )


def _swatch(index: int) -> Element:
    line = _e("line", x1=0, x2=24, y1=5, y2=5, class_=f"line{index % 6}")
    return _e("svg", line, width=24, height=10, aria_hidden="true")


def _limits(values: np.ndarray) -> tuple[float, float]:
    """A little more than the values take, and never nothing."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or max(abs(low), 1.0) * 0.1
    return low - margin, high + margin


def _ticks(low: float, high: float) -> Iterator[float]:
    """Round numbers in a range, at most six."""
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(power * m for m in (1, 2, 5, 10) if (high - low) / (power * m) <= 5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return (round(n * step, 12) for n in range(first, last + 1))


def _configuration(run: FinishedRun) -> Element:
    rows = [[name, value] for name, value in _flat(run.config)]
    summary = _e("summary", f"All {len(rows)} fields")
    return _e("details", summary, _table("config.json", ["field", "value"], rows))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{prefix}{name}", shown


def _gallery(run: FinishedRun) -> list[Element]:
    gallery = run.gallery
    if gallery is None:
        command = f"python launch.py --config=CONFIG --workdir={run.path} --mode=eval"
        return [
            _e(
                "p",
                "This run was evaluated before pictures were kept for this page "
                f"({workdir.GALLERY} is missing). Evaluate it again, with the config it was "
                "trained with, and make the page anew:",
            ),
            _e("pre", _e("code", command)),
        ]
    try:
        cards = [
            _card(data_set, place, arrays, run.images[gallery.checkpoint, data_set])
            for data_set, arrays in gallery.sets.items()
            for place in range(len(arrays["id"]))
        ]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{run.path / workdir.GALLERY} does not belong to {workdir.PER_IMAGE} "
            f"({type(error).__name__}: {error}); evaluate that run again with --mode=eval"
        ) from error
    orders = {"": "test set, worst first"}
    for key, name in (("dice", "Dice"), ("error", "class error")):
        if any(f"data-{key}" in card.attrib for card in cards):
            orders[f"{key} up"] = f"{name}, lowest first"
            orders[f"{key} down"] = f"{name}, highest first"
    sets = {"": "all", **{name: name for name in gallery.sets}}
    buttons = [
        _e("button", text, type="button", data_go=go)
        for go, text in (("-1", "Previous"), ("1", "Next"), ("", "Close"))
    ]
    return [
        _e(
            "p",
            f"Up to {max(map(_images, gallery.sets.values()), default=0)} images of each test set, "
            f"evenly from the worst to the best, by the {gallery.checkpoint} checkpoint. ",
            _e("span", "True outline (green)", class_="truth"),
            " and ",
            _e("span", "predicted outline (orange)", class_="predicted"),
            "; saliency is bright where the classifier depends on a pixel. The class error is 1 "
            "less the probability of the true class (of independent classes, the largest of them).",
        ),
        _e(
            "div",
            _select("set", "Test set", sets),
            _select("sort", "Sort by", orders),
            _e("p", role="status", id="count"),
            class_="controls",
            hidden="hidden",  # until there is a script to obey them
        ),
        _e("ul", *cards, id="cards"),
        _e(
            "dialog",
            _e("div", *buttons, class_="controls"),
            _e("div", id="enlarged"),
            id="lightbox",
            aria_label="Enlarged test image; arrow keys go to the others",
        ),
    ]


def _images(arrays: Mapping[str, np.ndarray]) -> int:
    return len({image_of(id_) for id_ in arrays["id"].tolist()})


def _select(name: str, label: str, options: Mapping[str, str]) -> Element:
    chosen = [_e("option", text, value=value) for value, text in options.items()]
    return _e("label", f"{label} ", _e("select", *chosen, id=name))


def _card(data_set: str, place: int, arrays: Mapping[str, np.ndarray], images: Images) -> Element:
    """Pictures of a test image and its figures."""
    id_ = arrays["id"][place].item()
    row = images.ids.index(image_of(id_))
    values = {
        name: column[row].item()
        for name, column in images.columns.items()
        if not math.isnan(column[row])
    }
    title = id_.replace("\n", ", ")
    image = arrays["image"][place]
    truth = arrays["truth"][place] if "truth" in arrays else None
    pictures = {"image": figures.overlay(image)}
    if truth is not None:
        pictures["truth"] = figures.overlay(image, truth=truth)
    for way in (key for key in arrays if key.startswith("mask")):
        shown = way.replace("mask", "prediction").replace("_", ", ")
        pictures[shown] = figures.overlay(image, truth=truth, mask=arrays[way][place])
    if "saliency" in arrays:
        pictures["saliency"] = figures.heat(arrays["saliency"][place])
    attributes = {"data_set": data_set}
    facts = [("test set", data_set)]
    for name in values:
        way, _, metric = name.rpartition("/")
        if metric == "dice":
            facts.append((f"Dice, {way}" if way else "Dice", f"{values[name]:.3f}"))
    if "dice" in values:
        attributes["data_dice"] = f"{values['dice']:.6f}"
    truths = figures.of_truth(values)
    if truths:
        names = images.class_names
        attributes["data_error"] = f"{1 - min(truths.values()):.6f}"
        facts.append(("label", ", ".join(truths)))
        facts += [(f"probability of {n}", f"{values[f'probability_{n}']:.3f}") for n in names]
        facts.append(("class at 0.5", "right" if images.correct[row] == 1 else "wrong"))
    return _e(
        "li",
        _e("h3", _e("button", title, type="button", aria_haspopup="dialog")),
        _e(
            "div",
            *(
                _e("figure", _picture(picture, f"{kind} of {title}"), _e("figcaption", kind))
                for kind, picture in pictures.items()
            ),
            class_="panels",
        ),
        _e("dl", *(_e("div", _e("dt", name), _e("dd", value)) for name, value in facts)),
        **attributes,
    )


def _picture(picture: np.ndarray, alt: str) -> Element:
    """uint8 [H,W,3] as an image that lies in the page."""
    height, width, _ = picture.shape
    data = io.BytesIO()
    exact = max(height, width) <= SIDE_BY_PIXEL
    Image.fromarray(picture).save(data, "WEBP", lossless=exact, quality=90)
    source = f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
    return _e("img", src=source, alt=alt, width=width, height=height, decoding="async")
