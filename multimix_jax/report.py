"""Results as tables and pictures.

    python -m multimix_jax.report runs/a runs/b

prints the results of finished runs as Markdown; --json=FILE also writes them as a list of rows.
"""

import argparse
import csv
import fnmatch
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from multimix_jax import workdir
from multimix_jax.errors import UsageError

Results = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
Row = Mapping[str, float | int | str]

# Columns of the printed table, * for any name; results.json has all metrics.
SEGMENTATION = ("dice", "ssim", "hd", "assd")
CLASSIFICATION = ("accuracy", "auroc", "f1_*", "ece")
TRUTH_COLOR = (64, 220, 96)
PREDICTION_COLOR = (255, 96, 32)


def table(results: Results) -> str:
    """The main metrics of every checkpoint and data set, as text."""
    lines = []
    for title, columns in (("Segmentation", SEGMENTATION), ("Classification", CLASSIFICATION)):
        rows = [
            (checkpoint, data_set, summary)
            for checkpoint in ("best", "last")
            for data_set, summary in results.get(checkpoint, {}).items()
            if columns[0] in summary
        ]
        if not rows:
            continue
        names = dict.fromkeys(name for *_, summary in rows for name in summary)
        shown = [name for column in columns for name in fnmatch.filter(names, column)]
        text = [[title, "data set", "n", *shown]]
        for checkpoint, data_set, summary in rows:
            cells = [_cell(summary.get(name)) for name in shown]
            text.append([checkpoint, data_set, str(summary[columns[0]]["n"]), *cells])
        widths = [max(map(len, column)) for column in zip(*text)]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in text]
        lines.append("")
    return "\n".join(lines)


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None or math.isnan(entry["mean"]):
        return "-"
    low, high = entry["ci95"]
    return f"{entry['mean']:.3f} [{low:.3f}, {high:.3f}]"


def write_per_image(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """One line per image and checkpoint, whole or not at all."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def instructive(rows: Sequence[Row], count: int) -> np.ndarray:
    """Which images to show: evenly from the worst to the best Dice, else over the probabilities."""
    scored = next((n for row in rows for n in row if n == "dice"), None)
    if scored is None:
        scored = [n for row in rows for n in row if n.startswith("probability_")][-1]
    known = [(float(row[scored]), index) for index, row in enumerate(rows) if scored in row]
    order = np.array([index for _, index in sorted(known)])
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return order[places]


def caption(row: Row) -> str:
    """Name and main figures of an image."""
    lines = [str(row["id"]).rpartition("/")[2]]
    if "dice" in row:
        lines.append(f"Dice {float(row['dice']):.3f}")
    classes = [name for name in row if name.startswith("probability_")]
    if classes:
        truth = classes[int(row["label"])]
        lines.append(f"is {truth.removeprefix('probability_')}: {float(row[truth]):.2f}")
    return "\n".join(lines)


def mosaic(pictures: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of uint8 pictures [H,W,3] of one size, as one picture."""
    return np.concatenate([np.concatenate(row, axis=1) for row in pictures], axis=0)


def overlay(
    image: np.ndarray, *, truth: np.ndarray | None = None, mask: np.ndarray | None = None
) -> np.ndarray:
    """A grey image with the outlines of the true (green) and the predicted mask (orange).

    Args:
      image: uint8 [H,W,C].
      truth, mask: bool [H,W,C'], or None.

    Returns:
      uint8 [H,W,3].
    """
    picture = np.repeat(image[..., :1], 3, axis=-1).copy()
    for outlined, color in ((truth, TRUTH_COLOR), (mask, PREDICTION_COLOR)):
        if outlined is not None:
            picture[_outline(np.asarray(outlined.any(axis=-1)))] = color
    return picture


def _outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask with a neighbour outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def heat(saliency: np.ndarray) -> np.ndarray:
    """Saliency [H,W,1] -> uint8 [H,W,3], from its least to its 99th percentile, dark to bright."""
    low, high = saliency.min(), np.percentile(saliency, 99)
    scaled = np.clip((saliency[..., 0] - low) / max(high - low, 1e-12), 0.0, 1.0)
    return (matplotlib.colormaps["inferno"](scaled)[..., :3] * 255).astype(np.uint8)


def grid(
    pictures: Sequence[Sequence[np.ndarray]],
    path: pathlib.Path,
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> None:
    """Writes a PNG of pictures side by side.

    Args:
      pictures: rows of uint8 pictures [H,W], [H,W,1] or [H,W,3].
      path: of the PNG; its folder is created.
      columns, rows: titles.
    """
    width = max(len(row) for row in pictures)
    figure = Figure(figsize=(1.9 * width + 1.2, 2.0 * len(pictures) + 0.4), layout="constrained")
    axes = figure.subplots(len(pictures), width, squeeze=False)
    for i, row in enumerate(pictures):
        for j, axis in enumerate(axes[i]):
            axis.set_xticks([])
            axis.set_yticks([])
            if j >= len(row):
                axis.set_axis_off()
                continue
            picture = row[j][..., 0] if row[j].ndim == 3 and row[j].shape[-1] == 1 else row[j]
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            if i == 0 and j < len(columns):
                axis.set_title(columns[j], fontsize=9)
            if j == 0 and i < len(rows):
                axis.set_ylabel(rows[i], fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def result_rows(paths: Sequence[str | pathlib.Path]) -> list[dict[str, Any]]:
    """One row per system, checkpoint, data set and metric of the runs in some folders.

    Raises:
      UsageError: a folder holds no results.
    """
    rows = []
    for path in map(pathlib.Path, paths):
        try:
            config = json.loads((path / workdir.CONFIG).read_text(encoding="utf-8"))
            results = json.loads((path / workdir.RESULTS).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(
                f"{path} holds no results ({error.filename} is missing); finish the run with "
                "launch.py first"
            ) from error
        run = {key: config[key] for key in ("system", "size", "seg_labels", "cls_labels", "steps")}
        run |= {"seeds": [config["seed"]], "seconds": round(results["run"]["seconds"])}
        for checkpoint in ("best", "last"):
            at = {"checkpoint": checkpoint, "step": results["run"][checkpoint]["step"]}
            for data_set, summary in results[checkpoint].items():
                rows += [
                    {**run, **at, "data_set": data_set, "metric": metric, **entry}
                    for metric, entry in summary.items()
                ]
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table for each data set: a line per metric, a column per run and checkpoint."""
    lines = []
    for data_set in dict.fromkeys(row["data_set"] for row in rows):
        here = [row for row in rows if row["data_set"] == data_set]
        columns = list(dict.fromkeys(_column(row) for row in here))
        cells = {(row["metric"], _column(row)): _markdown_cell(row) for row in here}
        lines += [f"### {data_set} ({here[0]['n']} images)", ""]
        lines += ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
        for metric in dict.fromkeys(row["metric"] for row in here):
            values = [cells.get((metric, column), "") for column in columns]
            lines.append(f"| {metric} | " + " | ".join(values) + " |")
        lines.append("")
    return "\n".join(lines)


def _column(row: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, row["seeds"]))
    return f"{row['system']}, seed {seeds}, {row['checkpoint']} (step {row['step']})"


def _markdown_cell(row: Mapping[str, Any]) -> str:
    spread = f" ± {row['std']:.3f}" if "std" in row else ""
    low, high = row["ci95"]
    return f"{row['mean']:.3f}{spread} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Command line, see the top of the file."""
    parser = argparse.ArgumentParser(
        prog="python -m multimix_jax.report", description="Results of finished runs as Markdown."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as a JSON list")
    arguments = parser.parse_args()
    try:
        rows = result_rows(arguments.runs)
    except UsageError as error:
        parser.exit(1, f"error: {error}\n")
    if arguments.json:
        workdir.write_json(pathlib.Path(arguments.json), rows)
    print(markdown(rows))


if __name__ == "__main__":
    main()
