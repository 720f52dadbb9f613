"""Plots that set systems beside each other."""

import pathlib
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multimix_jax.evaluation.curves import reliability_curve, roc_curve
from multimix_jax.reporting import figures
from multimix_jax.reporting.compare import Group, comparable
from multimix_jax.runs.record import FinishedRun, Images, image_of

Tested = tuple[FinishedRun, Images]  # what a run says of a data set


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
    for budget, members in _budgets(groups, together).items():
        _learning_curves(members, folder / f"learning_curves_{budget}.png")
        _pseudo_labels(members, folder / f"pseudo_labels_{budget}.png")
        for checkpoint in ("best", "last"):
            name = f"{budget}_{checkpoint}.png"
            _boundaries(members, checkpoint, folder, name)
            _two_tasks(members, checkpoint, folder, name)
            _dice(members, checkpoint, folder / f"dice_{name}")
            _over_class_sets(members, checkpoint, folder / f"roc_{name}", _roc)
            _over_class_sets(members, checkpoint, folder / f"calibration_{name}", _calibration)


def _budgets(
    groups: Sequence[Group], together: Callable[[Group, Group], bool]
) -> dict[str, list[Group]]:
    """Groups that go together, by size and budget of those with most tasks: '64_100_10'."""
    tasks = lambda group: sum(part is not None for part in group.budget)
    found: dict[str, list[Group]] = {}
    for leader in sorted(groups, key=tasks, reverse=True):
        if any(leader in members for members in found.values()):
            continue
        parts = [str(leader.described["size"]), *(part for part in leader.budget if part)]
        name = "_".join(parts)
        while name in found:  # of other steps, say
            name += "_other"
        found[name] = [group for group in groups if together(leader, group)]
    return found


def _data_sets(groups: Sequence[Group], checkpoint: str, column: str) -> list[str]:
    """Test sets of which some system has a column, those trained on first."""
    task = "cls" if column == "label" else "seg"
    found = {
        name: run.trained_on(name, task)
        for group in groups
        for run in group.runs
        for (at, name), images in run.images.items()
        if at == checkpoint and column in images.columns
    }
    return sorted(found, key=lambda name: not found[name])


def _panels(count: int, *, width: float = 4.2, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * count, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _color(index: int) -> tuple[float, ...]:
    return matplotlib.colormaps["tab10"](index % 10)


def _where(group: Group, data_set: str, task: str) -> str:
    place = "trained on" if group.runs[0].trained_on(data_set, task) else "another hospital"
    return f"{data_set} ({place})"


def _boundaries(groups: Sequence[Group], checkpoint: str, folder: pathlib.Path, name: str) -> None:
    """True and predicted outlines by system, Dice in the corner; a figure for each data set."""
    for data_set in _data_sets(groups, checkpoint, "dice"):
        shown = {
            group.system: (example, run.images[checkpoint, data_set])
            for group in groups
            for run in group.runs[:1]
            if (example := run.examples.get(data_set)) and checkpoint in example.found
        }
        if not shown:
            continue
        first, _ = next(iter(shown.values()))
        shown = {system: both for system, both in shown.items() if both[0].ids == first.ids}
        figures.grid(
            [
                [
                    figures.overlay(
                        image, truth=example.truths[row], mask=example.found[checkpoint][row]
                    )
                    for example, _ in shown.values()
                ]
                for row, image in enumerate(first.images)
            ],
            folder / f"boundaries_{data_set}_{name}",
            columns=list(shown),
            rows=[id_.rpartition("/")[2] for id_ in first.ids],
            corners=[
                [
                    f"{images.columns['dice'][images.ids.index(image_of(id_))]:.3f}"
                    for _, images in shown.values()
                ]
                for id_ in first.ids
            ],
        )


def _two_tasks(groups: Sequence[Group], checkpoint: str, folder: pathlib.Path, name: str) -> None:
    """Of each system that finds distance maps: image, truth, the mask by each way, the map."""
    for data_set in _data_sets(groups, checkpoint, "dice"):
        for group in groups:
            example = group.runs[0].examples.get(data_set)
            if example is None or f"{checkpoint}_distance" not in example.found:
                continue
            images = group.runs[0].images[checkpoint, data_set]
            ways = {"by seg": ("", "dice"), "by sdf": ("_sdf", "sdf/dice")}
            ways["by their average"] = ("_average", "average/dice")
            pictures, corners = [], []
            for row, image in enumerate(example.images):
                truth = example.truths[row]
                index = images.ids.index(image_of(example.ids[row]))
                masks = [example.found[f"{checkpoint}{way}"][row] for way, _ in ways.values()]
                pictures.append(
                    [
                        figures.overlay(image),
                        figures.overlay(image, truth=truth),
                        *(figures.overlay(image, truth=truth, mask=mask) for mask in masks),
                        figures.signed(example.found[f"{checkpoint}_distance"][row]),
                    ]
                )
                scores = [f"{images.columns[column][index]:.3f}" for _, column in ways.values()]
                corners.append(["", "", *scores, ""])
            figures.grid(
                pictures,
                folder / f"two_tasks_{data_set}_{group.system}_{name}",
                columns=["image", "truth", *ways, "distance map"],
                rows=[id_.rpartition("/")[2] for id_ in example.ids],
                corners=corners,
            )


def _dice(groups: Sequence[Group], checkpoint: str, path: pathlib.Path) -> None:
    """Dice of each image as a box per system, all seeds together, a panel per data set."""
    sets = _data_sets(groups, checkpoint, "dice")
    if not sets:
        return
    figure, panels = _panels(len(sets), width=5.0)
    for panel, data_set in zip(panels, sets):
        boxes = {}
        for group in groups:
            tested = [images for _, images in group.tested(checkpoint, data_set)]
            values = [one.columns["dice"] for one in tested if "dice" in one.columns]
            if values:
                pooled = np.concatenate(values)
                boxes[group.system] = pooled[~np.isnan(pooled)]
        panel.boxplot(list(boxes.values()), showmeans=True)
        panel.set_xticks(
            panel.get_xticks(), list(boxes), rotation=35, ha="right", rotation_mode="anchor"
        )
        panel.set_title(_where(groups[0], data_set, "seg"))
        panel.set_ylabel("Dice of each image")
        panel.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)


def _over_class_sets(
    groups: Sequence[Group],
    checkpoint: str,
    path: pathlib.Path,
    draw: Callable[[Axes, Sequence[Tested], str, tuple[float, ...], str], None],
) -> None:
    """A panel per data set with two classes, a line per system."""
    sets = _data_sets(groups, checkpoint, "label")
    if not sets:
        return
    figure, panels = _panels(len(sets))
    for panel, data_set in zip(panels, sets):
        for index, group in enumerate(groups):
            tested = group.tested(checkpoint, data_set)
            known = [(run, images) for run, images in tested if len(images.class_names) == 2]
            if known:
                draw(panel, known, group.system, _color(index), checkpoint)
        panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
        panel.set_title(_where(groups[0], data_set, "cls"))
        panel.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def _roc(
    panel: Axes, tested: Sequence[Tested], system: str, color: tuple[float, ...], checkpoint: str
) -> None:
    """Sensitivity against false alarms, the mean over seeds at each rate of false alarms."""
    at = np.linspace(0, 1, 201)
    curves = []
    for _, one in tested:
        curves.append(np.interp(at, *roc_curve(one.probabilities[:, 1], one.labels > 0)))
    panel.plot(at, np.mean(curves, axis=0), color=color, label=system, linewidth=1.2)
    panel.set_xlabel("false positive rate")
    panel.set_ylabel("true positive rate")


def _calibration(
    panel: Axes,
    tested: Sequence[Tested],
    system: str,
    color: tuple[float, ...],
    checkpoint: str,
) -> None:
    """How often class 1 is true, against its probability, in ten bins, all seeds together.

    Dashed: after calibration.
    """
    truth = np.concatenate([images.labels > 0 for _, images in tested])
    chosen = [run.calibration(checkpoint) for run, _ in tested]
    ways = [("-", system, [images.probabilities for _, images in tested])]
    if all(one is not None and one.temperature != 1 for one in chosen):
        calibrated = [
            np.asarray(one(images.probabilities)) for one, (_, images) in zip(chosen, tested) if one
        ]
        ways.append(("--", f"{system}, calibrated", calibrated))
    for style, label, found in ways:
        probability = np.concatenate([one[:, 1] for one in found])
        curve = reliability_curve(probability, truth)
        panel.plot(*curve, style, color=color, label=label, marker="o", markersize=3)
    panel.set_xlabel("predicted probability of class 1")
    panel.set_ylabel("share of class 1")


def _intensities(groups: Sequence[Group], path: pathlib.Path) -> None:
    """Intensity histograms of the test sets."""
    histograms: dict[str, np.ndarray] = {}
    for group in groups:
        histograms = {**group.runs[0].histograms, **histograms}
    if not histograms:  # of volumes there are none
        return
    figure, (panel,) = _panels(1, width=6.0)
    for index, (data_set, counts) in enumerate(histograms.items()):
        share = counts.reshape(64, 4).sum(1) / counts.sum()
        panel.plot(np.arange(64) * 4 + 2, share, color=_color(index), label=data_set)
    panel.set_yscale("log")  # black borders are many pixels of one intensity
    panel.set_xlabel("intensity of a pixel")
    panel.set_ylabel("share of pixels, in steps of 4")
    panel.legend()
    figure.savefig(path, dpi=110)


def _learning_curves(groups: Sequence[Group], path: pathlib.Path) -> None:
    """Training loss, and Dice and AUROC of the validation sets, the mean over seeds."""
    names = {
        (line["split"], name)
        for group in groups
        for line in group.runs[0].history
        for name in line
        if name == "loss" or (line["split"] == "validation" and name.endswith(("/dice", "/auroc")))
    }
    figure, panels = _panels(len(names), width=4.8)
    for panel, (split, name) in zip(panels, sorted(names)):
        for index, group in enumerate(groups):
            if any(name in line for line in group.runs[0].history):
                steps, values = _history(group, split, name)
                panel.plot(steps, values, color=_color(index), label=group.system, linewidth=1)
        panel.set_xlabel("step")
        panel.set_title(f"{split}: {name}")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def _pseudo_labels(groups: Sequence[Group], path: pathlib.Path) -> None:
    """Share of weak views whose pseudo-label is accepted, and how many of those are right."""
    using = {i: group for i, group in enumerate(groups) if "pseudo-labels" in group.runs[0].parts}
    if not using:
        return
    figure, panels = _panels(2, width=5.5)
    titles = ("share of pseudo-labels accepted", "share of the accepted that is right")
    for index, group in using.items():
        steps, accepted = _history(group, "train", "cls/accepted", smooth=10)
        _, correct = _history(group, "train", "cls/accepted_and_correct", smooth=10)
        for panel, values in zip(panels, (accepted, correct / np.maximum(accepted, 1e-9))):
            panel.plot(steps, values, color=_color(index), label=group.system, linewidth=1)
    for panel, title in zip(panels, titles):
        panel.set_ylim(0, 1.02)
        panel.set_xlabel("step")
        panel.set_title(title)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def _history(group: Group, split: str, name: str, smooth: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Steps that all seeds logged, and the mean of a metric there; `smooth` of them together."""
    columns = [
        {line["step"]: line[name] for line in run.history if line["split"] == split}
        for run in group.runs
    ]
    steps = sorted(set.intersection(*map(set, columns)))
    values = np.mean([[column[step] for step in steps] for column in columns], axis=0)
    window = np.ones(min(smooth, len(steps))) / min(smooth, len(steps))
    return np.convolve(steps, window, "valid"), np.convolve(values, window, "valid")
