"""Charts: of systems beside each other as PNG, and of one run for its page as SVG."""

import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multimix_jax.names import Checkpoint, Component, Head, Task
from multimix_jax.reporting import pictures, series, tables
from multimix_jax.reporting.groups import Group, by_budget, comparable
from multimix_jax.reporting.pictures import plain
from multimix_jax.reporting.series import Curve
from multimix_jax.runs.picture_files import Picture
from multimix_jax.runs.record import FinishedRun

FEW = 20  # points of a line up to which each is marked
IN_A_ROW = 4  # charts of a figure, and names in its legend


def panels(count: int, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure of some axes side by side, each of so many inches."""
    rows, across = -(-count // IN_A_ROW), min(count, IN_A_ROW)
    figure = Figure(figsize=(4.8 * across, height * rows), layout="constrained", dpi=110)
    axes = figure.subplots(rows, across, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, list(axes[:count])


def draw_curves(
    panel: Axes,
    curves: Sequence[Curve],
    *,
    x: str,
    y: str = "",
    title: str = "",
    log: bool = False,
    shares: bool = False,
    diagonal: bool = False,
) -> list[Artist]:
    """Draws lines, and gives them; where y is of `shares`, it goes from 0 to 1 whatever the values.

    The `diagonal` is the line of what tells nothing, where x is of shares, too.
    """
    lines: list[Artist] = []
    for _, xs, ys, color, style in curves:
        finite = np.isfinite(xs) & np.isfinite(ys)
        xs, ys = xs[finite], ys[finite]
        marker = "o" if len(xs) <= FEW else ""
        lines += panel.plot(xs, ys, style, color=color, marker=marker, markersize=3, linewidth=1)
    if diagonal:
        panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    if shares or diagonal:
        panel.set_ylim(-0.02, 1.02)
    if log:
        panel.set_yscale("log")
    panel.set(xlabel=plain(x), ylabel=plain(y), title=plain(title))
    panel.grid(alpha=0.3)
    return lines


def _save(path: pathlib.Path, charts: Mapping[str, Sequence[Curve]], **options: Any) -> None:
    """Writes a PNG of charts by their titles, side by side, if there are any.

    One legend stands below them all, where it hides no line: a name has one colour in all charts.
    """
    if charts:
        figure, axes = panels(len(charts))
        names: dict[str, Artist] = {}
        for panel, (title, curves) in zip(axes, charts.items()):
            lines = draw_curves(panel, curves, title=title, **options)
            names |= {plain(curve.label): line for curve, line in zip(curves, lines)}
        across = min(len(charts), IN_A_ROW) if max(map(len, names), default=0) < 30 else 1
        figure.set_figheight(figure.get_figheight() + 0.16 * -(-len(names) // across))
        figure.legend(
            list(names.values()), list(names), loc="outside lower center", ncols=across, fontsize=7
        )
        figure.savefig(path)


def svg(curves: Sequence[Curve], **options: Any) -> str:
    """A chart as an SVG file, the same every time; text stays text. `options`: of `draw_curves`."""
    figure, (panel,) = panels(1, height=3.1)
    draw_curves(panel, curves, **options)
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "multimix_jax"}
    settings["font.sans-serif"] = ["DejaVu Sans"]
    file = io.StringIO()
    with matplotlib.rc_context(settings):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def css(curve: Curve) -> str:
    """How a legend beside the chart draws a line."""
    return f"{'dashed' if curve.style == '--' else 'solid'} {matplotlib.colors.to_hex(curve.color)}"


def draw_all(
    groups: Sequence[Group],
    folder: pathlib.Path,
    together: Callable[[Group, Group], bool] = comparable,
) -> None:
    """Writes the figures that set systems beside each other, for each budget and checkpoint.

    A file is named after its figure, size, budget and checkpoint: `dice_64_100_10_last.png`, or
    `..._best_and_last.png` where they hold the same weights. `together` says which systems to set
    beside one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _intensities(groups, folder / "intensities.png")
    for budget, members in by_budget(groups, together).items():
        _learning_curves(members, folder / f"learning_curves_{budget}.png")
        _pseudo_labels(members, folder / f"pseudo_labels_{budget}.png")
        alike = all(len(run.checkpoints) == 1 for group in members for run in group.runs)
        for checkpoint in list(Checkpoint)[:1] if alike else Checkpoint:
            name = f"{budget}_{'_and_'.join(Checkpoint) if alike else checkpoint}.png"
            with_masks = _data_sets(members, checkpoint, "dice")
            for data_set in with_masks:
                key = checkpoint, data_set
                of = pictures.file_name(data_set)
                _boundaries(members, key, folder / f"boundaries_{of}_{name}")
                for group in members:
                    system = pictures.file_name(group.system)
                    _heads(group, key, folder / f"two_tasks_{of}_{system}_{name}")
            _dice(members, checkpoint, with_masks, folder / f"dice_{name}")
            _of_classes(members, checkpoint, folder, name)


def _data_sets(groups: Sequence[Group], checkpoint: str, column: str) -> list[str]:
    """Test sets of which some system has a column that begins so, those trained on first."""
    task = Task.SEG if column == "dice" else Task.CLS
    trained_on = {
        name: run.trained_on(name, task)
        for group in groups
        for run in group.runs
        for (at, name), images in run.images.items()
        if at == checkpoint and any(key.startswith(column) for key in images.columns)
    }
    return sorted(trained_on, key=lambda name: not trained_on[name])


def _title(group: Group, data_set: str, task: Task) -> str:
    return f"{data_set} ({tables.domain(group.runs[0].trained_on(data_set, task))})"


def _boundaries(groups: Sequence[Group], key: tuple[str, str], path: pathlib.Path) -> None:
    """True and predicted outlines by system, Dice in the corner."""
    runs = {group.system: group.runs[0] for group in groups if key in group.runs[0].examples}
    if not runs:
        return
    shown = lambda run: [(one.id, one.slice) for one in run.examples[key]]
    first = next(iter(runs.values()))
    runs = {system: run for system, run in runs.items() if shown(run) == shown(first)}
    rows = list(zip(*(run.examples[key] for run in runs.values())))
    pictures.grid(
        [
            [pictures.overlay(one.image, truth=one.truth, mask=one.masks[Head.MASK]) for one in row]
            for row in rows
        ],
        path,
        columns=list(runs),
        rows=[pictures.name_of(row[0]) for row in rows],
        corners=[[_dice_of(run, key, one) for run, one in zip(runs.values(), r)] for r in rows],
    )


def _heads(group: Group, key: tuple[str, str], path: pathlib.Path) -> None:
    """Of a system that predicts distance maps: image, truth, the mask of each head, the map."""
    run = group.runs[0]
    examples = run.examples.get(key, [])
    if not examples or examples[0].distance is None:
        return
    titles, rows = pictures.table(examples)
    heads = {pictures.title(head): head for head in Head if head.is_mask}
    pictures.grid(
        rows,
        path,
        columns=titles,
        rows=[pictures.name_of(one) for one in examples],
        corners=[
            [_dice_of(run, key, one, heads[name]) if name in heads else "" for name in titles]
            for one in examples
        ],
    )


def _dice_of(
    run: FinishedRun, key: tuple[str, str], picture: Picture, head: Head = Head.MASK
) -> str:
    images = run.images[key]
    return f"{images.columns[head.metric('dice')][images.ids.index(picture.id)]:.3f}"


def _dice(
    groups: Sequence[Group], checkpoint: str, data_sets: Sequence[str], path: pathlib.Path
) -> None:
    """Dice of each image as a box per system, all seeds together, a panel per data set."""
    if not data_sets:
        return
    figure, axes = panels(len(data_sets))
    for panel, data_set in zip(axes, data_sets):
        boxes = {}
        for group in groups:
            tested = [images for _, images in group.tested(checkpoint, data_set)]
            values = [one.columns["dice"] for one in tested if "dice" in one.columns]
            if values:
                pooled = np.concatenate(values)
                boxes[plain(group.system)] = pooled[~np.isnan(pooled)]
        panel.boxplot(list(boxes.values()), showmeans=True)
        panel.set_xticks(
            panel.get_xticks(), list(boxes), rotation=35, ha="right", rotation_mode="anchor"
        )
        title = plain(_title(groups[0], data_set, Task.SEG))
        panel.set(title=title, ylabel="Dice of each image")
        panel.grid(axis="y", alpha=0.3)
    figure.savefig(path)


def _of_classes(groups: Sequence[Group], checkpoint: str, folder: pathlib.Path, name: str) -> None:
    """ROC and calibration: a panel per data set and class, of two the second; a line per system."""
    of_kinds = {
        "roc": (series.roc, series.ROC),
        "calibration": (series.calibration, series.CALIBRATION),
    }
    for kind, (curves_of, (x, y)) in of_kinds.items():
        charts: dict[str, list[Curve]] = {}
        for data_set in _data_sets(groups, checkpoint, "probability_"):
            title = _title(groups[0], data_set, Task.CLS)
            for number, group in enumerate(groups):
                tested = group.tested(checkpoint, data_set)
                names = next((images.class_names for _, images in tested if images.class_names), [])
                of_classes = [one for one in tested if one[1].class_names == names]
                for index in series.shown_classes(names, group.runs[0].labels.multi_label):
                    curves = charts.setdefault(f"{title}\n{names[index]}", [])
                    curves += curves_of(group.system, f"C{number}", of_classes, checkpoint, index)
        _save(folder / f"{kind}_{name}", charts, x=x, y=y, diagonal=True)


def _intensities(groups: Sequence[Group], path: pathlib.Path) -> None:
    """Intensity histograms of the test sets; of volumes there are none."""
    histograms: dict[str, np.ndarray] = {}
    for group in groups:
        histograms = {**group.runs[0].histograms, **histograms}
    middles = np.arange(64) * 4 + 2
    curves = [
        Curve(data_set, middles, counts.reshape(64, 4).sum(1) / counts.sum(), f"C{index}")
        for index, (data_set, counts) in enumerate(histograms.items())
    ]
    x, y = "intensity of a pixel", "share of pixels, in steps of 4"
    # Black borders are many pixels of one intensity.
    _save(path, {"": curves} if curves else {}, x=x, y=y, log=True)


def _learning_curves(groups: Sequence[Group], path: pathlib.Path) -> None:
    """Training loss, and Dice and AUROC of the validation sets, the mean over seeds."""
    names = {
        (line["split"], name)
        for group in groups
        for line in group.runs[0].history
        for name in line
        if (line["split"] == "train" and name == "loss")
        or (line["split"] == "validation" and name.endswith(("/dice", "/auroc")))
    }
    charts = {
        f"{split}: {name}": [
            Curve(group.system, *series.history(group.runs, split, name), f"C{index}")
            for index, group in enumerate(groups)
            if any(name in line for line in group.runs[0].history)
        ]
        for split, name in sorted(names)
    }
    _save(path, charts, x="step")


def _pseudo_labels(groups: Sequence[Group], path: pathlib.Path) -> None:
    """Share of weak views whose pseudo-label is accepted, and how many of those are right."""
    accepted, right = [], []
    for index, group in enumerate(groups):
        if Component.PSEUDO_LABELS in group.runs[0].components:
            all_of, known = series.accepted_curves(
                group.runs, group.system, group.system, smooth=10
            )
            accepted.append(all_of._replace(color=f"C{index}"))
            right += [curve._replace(color=f"C{index}") for curve in known]
    charts = {"share of pseudo-labels accepted": accepted}
    if right:
        charts["share of the accepted that is right"] = right
    _save(path, charts if accepted else {}, x="step", shares=True)
