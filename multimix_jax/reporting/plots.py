"""Figures that set systems beside each other."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from multimix_jax.evaluation.classification import reliability_curve, roc_curve
from multimix_jax.names import Checkpoint, Component, Head, Task
from multimix_jax.reporting import pictures, tables
from multimix_jax.reporting.charts import Curve, add_legend, color_of, draw_curves, panels, save
from multimix_jax.reporting.groups import Group, comparable
from multimix_jax.runs.record import FinishedRun, Images

Tested = tuple[FinishedRun, Images]  # a run, and its figures of each image of a data set
DICE = {head: head.metric("dice") for head in Head if head.is_mask}
# What stands at the axes.
ROC = ("false positive rate", "true positive rate")
CALIBRATION = ("predicted probability of class 1", "share of class 1")
INTENSITIES = ("intensity of a pixel", "share of pixels, in steps of 4")


def draw_all(
    groups: Sequence[Group],
    folder: pathlib.Path,
    together: Callable[[Group, Group], bool] = comparable,
) -> None:
    """Writes the figures that set systems beside each other, for each budget and checkpoint.

    A file is named after its figure, size, budget and checkpoint: `dice_64_100_10_last.png`.
    `together` says which systems to set beside one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _intensities(groups, folder / "intensities.png")
    for budget, members in by_budget(groups, together).items():
        _learning_curves(members, folder / f"learning_curves_{budget}.png")
        _pseudo_labels(members, folder / f"pseudo_labels_{budget}.png")
        for checkpoint in Checkpoint:
            name = f"{budget}_{checkpoint}.png"
            _boundaries(members, checkpoint, folder, name)
            _heads(members, checkpoint, folder, name)
            _dice(members, checkpoint, folder / f"dice_{name}")
            _of_classes(members, checkpoint, folder / f"roc_{name}", _roc, ROC, 1.2)
            path = folder / f"calibration_{name}"
            _of_classes(members, checkpoint, path, _calibration, CALIBRATION)


def by_budget(
    groups: Sequence[Group], together: Callable[[Group, Group], bool]
) -> dict[str, list[Group]]:
    """Groups that go together, by size and budget of those with most tasks: '64_100_10'."""
    tasks = lambda group: sum(part is not None for part in group.budget)
    budgets: dict[str, list[Group]] = {}
    for leader in sorted(groups, key=tasks, reverse=True):
        if any(leader in members for members in budgets.values()):
            continue
        parts = [str(leader.described["size"]), *(part for part in leader.budget if part)]
        name = "_".join(parts)
        while name in budgets:  # of other steps, say
            name += "_other"
        budgets[name] = [group for group in groups if together(leader, group)]
    return budgets


def history(group: Group, split: str, name: str, smooth: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Steps that all seeds logged, and the mean of a metric there; `smooth` of them together."""
    columns = [
        {line["step"]: line[name] for line in run.history if line["split"] == split}
        for run in group.runs
    ]
    steps = sorted(set.intersection(*map(set, columns)))
    values = np.mean([[column[step] for step in steps] for column in columns], axis=0)
    window = np.ones(min(smooth, len(steps))) / min(smooth, len(steps))
    return np.convolve(steps, window, "valid"), np.convolve(values, window, "valid")


def _data_sets(groups: Sequence[Group], checkpoint: str, column: str) -> list[str]:
    """Test sets of which some system has a column, those trained on first."""
    task = Task.CLS if column == "label" else Task.SEG
    trained_on = {
        name: run.trained_on(name, task)
        for group in groups
        for run in group.runs
        for (at, name), images in run.images.items()
        if at == checkpoint and column in images.columns
    }
    return sorted(trained_on, key=lambda name: not trained_on[name])


def _title(group: Group, data_set: str, task: Task) -> str:
    return f"{data_set} ({tables.domain(group.runs[0].trained_on(data_set, task))})"


def _boundaries(groups: Sequence[Group], checkpoint: str, folder: pathlib.Path, name: str) -> None:
    """True and predicted outlines by system, Dice in the corner; a figure for each data set."""
    for data_set in _data_sets(groups, checkpoint, "dice"):
        key = checkpoint, data_set
        shown = {
            group.system: (group.runs[0].examples[key], group.runs[0].images[key])
            for group in groups
            if key in group.runs[0].examples
        }
        if not shown:
            continue
        ids = lambda examples: [(one.id, one.slice) for one in examples]
        first, _ = next(iter(shown.values()))
        shown = {system: both for system, both in shown.items() if ids(both[0]) == ids(first)}
        pictures.grid(
            [
                [
                    pictures.overlay(
                        one.image,
                        truth=examples[row].truth,
                        mask=examples[row].masks[Head.MASK],
                    )
                    for examples, _ in shown.values()
                ]
                for row, one in enumerate(first)
            ],
            folder / f"boundaries_{data_set}_{name}",
            columns=list(shown),
            rows=[pictures.name_of(one) for one in first],
            corners=[
                [f"{_figure(images, 'dice', one.id):.3f}" for _, images in shown.values()]
                for one in first
            ],
        )


def _figure(images: Images, column: str, id_: str) -> float:
    return images.columns[column][images.ids.index(id_)]


def _heads(groups: Sequence[Group], checkpoint: str, folder: pathlib.Path, name: str) -> None:
    """Of each system that predicts distance maps: image, truth, the mask of each head, the map."""
    for data_set in _data_sets(groups, checkpoint, "dice"):
        for group in groups:
            examples = group.runs[0].examples.get((checkpoint, data_set), [])
            if not examples or examples[0].distance is None:
                continue
            images = group.runs[0].images[checkpoint, data_set]
            titles, rows = pictures.table(examples)
            dice = {pictures.title(head): column for head, column in DICE.items()}
            pictures.grid(
                rows,
                folder / f"two_tasks_{data_set}_{group.system}_{name}",
                columns=titles,
                rows=[pictures.name_of(one) for one in examples],
                corners=[
                    [
                        f"{_figure(images, dice[title], one.id):.3f}" if title in dice else ""
                        for title in titles
                    ]
                    for one in examples
                ],
            )


def _dice(groups: Sequence[Group], checkpoint: str, path: pathlib.Path) -> None:
    """Dice of each image as a box per system, all seeds together, a panel per data set."""
    sets = _data_sets(groups, checkpoint, "dice")
    if not sets:
        return
    figure, axes = panels(len(sets), width=5.0)
    for panel, data_set in zip(axes, sets):
        boxes = {}
        for group in groups:
            tested = [images for _, images in group.tested(checkpoint, data_set)]
            values = [one.columns["dice"] for one in tested if "dice" in one.columns]
            if values:
                pooled = np.concatenate(values)
                boxes[pictures.plain(group.system)] = pooled[~np.isnan(pooled)]
        panel.boxplot(list(boxes.values()), showmeans=True)
        panel.set_xticks(
            panel.get_xticks(), list(boxes), rotation=35, ha="right", rotation_mode="anchor"
        )
        panel.set_title(pictures.plain(_title(groups[0], data_set, Task.SEG)))
        panel.set_ylabel("Dice of each image")
        panel.grid(axis="y", alpha=0.3)
    save(figure, path)


def _of_classes(
    groups: Sequence[Group],
    checkpoint: str,
    path: pathlib.Path,
    curves_of: Callable[[str, Any, Sequence[Tested], str], list[Curve]],
    axis_labels: tuple[str, str],
    width: float | None = None,
) -> None:
    """A panel per data set with two classes, a line per system."""
    sets = _data_sets(groups, checkpoint, "label")
    if not sets:
        return
    figure, axes = panels(len(sets))
    for panel, data_set in zip(axes, sets):
        curves = []
        for index, group in enumerate(groups):
            tested = group.tested(checkpoint, data_set)
            of_two = [(run, images) for run, images in tested if len(images.class_names) == 2]
            if of_two:
                curves += curves_of(group.system, color_of(index), of_two, checkpoint)
        title = _title(groups[0], data_set, Task.CLS)
        x, y = axis_labels
        handles = draw_curves(panel, curves, x=x, y=y, title=title, diagonal=True, width=width)
        add_legend(panel, curves, handles)
    save(figure, path)


def _roc(system: str, color: Any, tested: Sequence[Tested], checkpoint: str) -> list[Curve]:
    """Sensitivity against false alarms, the mean over seeds at each rate of false alarms."""
    at = np.linspace(0, 1, 201)
    of_seeds = [
        np.interp(at, *roc_curve(images.probabilities[:, 1], images.labels > 0))
        for _, images in tested
    ]
    return [Curve(system, at, np.mean(of_seeds, axis=0), color)]


def _calibration(system: str, color: Any, tested: Sequence[Tested], checkpoint: str) -> list[Curve]:
    """How often class 1 is true, against its probability, in ten bins, all seeds together.

    Dashed: after calibration.
    """
    truth = np.concatenate([images.labels > 0 for _, images in tested])
    chosen = [run.calibration(checkpoint) for run, _ in tested]
    shown = [(system, "-", [images.probabilities for _, images in tested])]
    if all(one is not None and one.temperature != 1 for one in chosen):
        calibrated = [
            np.asarray(one(images.probabilities)) for one, (_, images) in zip(chosen, tested) if one
        ]
        shown.append((f"{system}, calibrated", "--", calibrated))
    curves = []
    for label, style, probabilities in shown:
        of_class_1 = np.concatenate([one[:, 1] for one in probabilities])
        points = reliability_curve(of_class_1, truth)
        curves.append(Curve(label, *points, color, style, "o"))
    return curves


def _intensities(groups: Sequence[Group], path: pathlib.Path) -> None:
    """Intensity histograms of the test sets."""
    histograms: dict[str, np.ndarray] = {}
    for group in groups:
        histograms = {**group.runs[0].histograms, **histograms}
    if not histograms:  # of volumes there are none
        return
    figure, (panel,) = panels(1, width=6.0)
    middles = np.arange(64) * 4 + 2
    curves = [
        Curve(data_set, middles, counts.reshape(64, 4).sum(1) / counts.sum(), color_of(index))
        for index, (data_set, counts) in enumerate(histograms.items())
    ]
    x, y = INTENSITIES
    panel.set_yscale("log")  # black borders are many pixels of one intensity
    add_legend(panel, curves, draw_curves(panel, curves, x=x, y=y), size=None)
    save(figure, path)


def _learning_curves(groups: Sequence[Group], path: pathlib.Path) -> None:
    """Training loss, and Dice and AUROC of the validation sets, the mean over seeds."""
    names = {
        (line["split"], name)
        for group in groups
        for line in group.runs[0].history
        for name in line
        if name == "loss" or (line["split"] == "validation" and name.endswith(("/dice", "/auroc")))
    }
    figure, axes = panels(len(names), width=4.8)
    for panel, (split, name) in zip(axes, sorted(names)):
        curves = [
            Curve(group.system, *history(group, split, name), color_of(index))
            for index, group in enumerate(groups)
            if any(name in line for line in group.runs[0].history)
        ]
        _draw_over_steps(panel, curves, f"{split}: {name}")
    save(figure, path)


def _draw_over_steps(panel: Axes, curves: Sequence[Curve], title: str) -> None:
    handles = draw_curves(panel, curves, x="step", title=title, width=1)
    panel.grid(alpha=0.3)
    add_legend(panel, curves, handles)


def _pseudo_labels(groups: Sequence[Group], path: pathlib.Path) -> None:
    """Share of weak views whose pseudo-label is accepted, and how many of those are right."""
    accepted, right = [], []
    for index, group in enumerate(groups):
        if Component.PSEUDO_LABELS in group.runs[0].components:
            steps, of_all = history(group, "train", "cls/accepted", smooth=10)
            _, correct = history(group, "train", "cls/accepted_and_correct", smooth=10)
            accepted.append(Curve(group.system, steps, of_all, color_of(index)))
            share = correct / np.maximum(of_all, 1e-9)
            right.append(Curve(group.system, steps, share, color_of(index)))
    if not accepted:
        return
    figure, axes = panels(2, width=5.5)
    titles = ("share of pseudo-labels accepted", "share of the accepted that is right")
    for panel, title, curves in zip(axes, titles, (accepted, right)):
        _draw_over_steps(panel, curves, title)
        panel.set_ylim(0, 1.02)
    save(figure, path)
