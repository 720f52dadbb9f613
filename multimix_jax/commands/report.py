"""Results as tables and figures.

    multimix-report runs/a runs/b
    multimix-report runs/grid --out docs/grid

prints finished runs, or those of a grid, as Markdown; runs that differ in their seed alone are
taken together. --out=DIR writes results.md, .csv and .json (a list of rows), LaTeX tables of the
published shape, comparisons.json and figures. Systems that differ in one part are compared, or,
with --against=SYSTEM, that one with every other, and all of a budget are drawn together.

    multimix-report runs/a --html

writes each run as a page to look through, RUN/report.html, or DIR/NAME.html with --out=DIR.
"""

import argparse
import csv
import fnmatch
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from multimix_jax import atomic
from multimix_jax.commands.ends import ends_quietly
from multimix_jax.errors import UsageError
from multimix_jax.names import BASELINE, Checkpoint
from multimix_jax.reporting import compare, page, plots, published
from multimix_jax.runs import record, workdir

Results = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
Row = Mapping[str, Any]

# Columns of the printed table, * for any name; results.json has all metrics.
SEGMENTATION = ("dice", "ssim", "hd", "assd")
CLASSIFICATION = ("accuracy", "auroc", "f1_*", "ece")
OVERVIEW = ("dice", "accuracy", "auroc")
LEGEND = """Mean over seeds, ± standard deviation over seeds where there are several, [95 %
interval over test images]. Intervals and p take the trained weights as they are: they tell of other
test images, not of other seeds.
"""
# The published table's columns: accuracy and F1, Dice, SSIM, average Hausdorff distance, ...
LATEX_COLUMNS = (
    (True, "accuracy", "Acc"),
    (True, "f1_normal", "F1-N"),
    (True, "f1_pneumonia", "F1-P"),
    (True, "dice", "Dice"),
    (True, "ssim", "SSIM"),
    (True, "ahd", "HD"),
    (True, "jaccard", "Jaccard"),
    (True, "precision", "P"),
    (True, "recall", "R"),
    (False, "accuracy", "Acc"),
    (False, "dice", "Dice"),
    (False, "ssim", "SSIM"),
    (False, "ahd", "HD"),
)


def table(results: Results) -> str:
    """The main metrics of every checkpoint and data set, as text."""
    lines = []
    for title, columns in (("Segmentation", SEGMENTATION), ("Classification", CLASSIFICATION)):
        rows = [
            (f"{checkpoint}, {way}" if way else checkpoint, data_set, part)
            for checkpoint in (Checkpoint.BEST, Checkpoint.LAST, BASELINE)
            for data_set, summary in results.get(checkpoint, {}).items()
            for way, part in record.by_way(summary).items()
            if columns[0] in part
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
    _write_table(path, rows)


def _write_table(path: pathlib.Path, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (
        atomic.replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def markdown(rows: Sequence[Row]) -> str:
    """A table for each checkpoint and data set: systems down, metrics across.

    Args:
      rows: of `compare.summarize`.
    """
    lines = []
    rows = [_of_way(row) for row in rows]
    for checkpoint in (Checkpoint.BEST, Checkpoint.LAST):
        for data_set in dict.fromkeys(r["data_set"] for r in rows if r["checkpoint"] == checkpoint):
            here = [
                row
                for at in (BASELINE, checkpoint)
                for row in rows
                if (row["checkpoint"], row["data_set"]) == (at, data_set)
            ]
            last, names = here[-1], list(dict.fromkeys(row["metric"] for row in here))
            where = "trained on" if last["in_domain"] else "another hospital"
            lines += [
                f"### {data_set}, {checkpoint} checkpoint ({last['n']} images, {where})",
                "",
                _line("system", "size", "steps", "labels/masks", "seeds", *names),
                "|---" * (5 + len(names)) + "|",
            ]
            for (system, size, steps, labels, masks), cells in _by_system(here, "metric").items():
                seeds = ", ".join(map(str, next(iter(cells.values()))["seeds"]))
                shown = [_markdown_cell(cells.get(name)) for name in names]
                budget = _budget(labels, masks)
                lines.append(_line(system, size, steps, budget, seeds, *shown))
                known = published.find(system, labels, masks, data_set)
                if set(known) & set(names):
                    shown = [f"*{known[n]:.3f}*" if n in known else "" for n in names]
                    if "jaccard" in known and "dice" in names:
                        by_jaccard = published.dice_by_jaccard(known["jaccard"])
                        shown[names.index("dice")] += f" *({by_jaccard:.3f})*"
                    lines.append(_line("*published*", "*256*", "", budget, "", *shown))
            lines.append("")
    if any("*published*" in line for line in lines):
        lines += ["How to read the published rows:", "", *(f"* {n}" for n in published.NOTES), ""]
    return "\n".join(lines)


def overview(rows: Sequence[Row]) -> str:
    """One table for each checkpoint: systems down, the main metrics of every data set across.

    Args:
      rows: of `compare.summarize`.
    """
    lines = []
    rows = [row for row in map(_of_way, rows) if row["metric"] in OVERVIEW]
    for checkpoint in (Checkpoint.BEST, Checkpoint.LAST):
        here = [row for row in rows if row["checkpoint"] in (BASELINE, checkpoint)]
        if not any(row["checkpoint"] == checkpoint for row in here):
            continue
        columns = sorted(
            {(row["data_set"], row["metric"]): row["in_domain"] for row in here}.items(),
            key=lambda item: (OVERVIEW.index(item[0][1]) > 0, not item[1], item[0][0]),
        )
        titles = [f"{data_set} {metric}" for (data_set, metric), _ in columns]
        lines += [
            f"### Overview, {checkpoint} checkpoint",
            "",
            _line("system", "size", "steps", "labels/masks", "seeds", *titles),
            "|---" * (5 + len(titles)) + "|",
        ]
        for (system, size, steps, labels, masks), cells in _by_system(
            here, "data_set", "metric"
        ).items():
            seeds = ", ".join(map(str, next(iter(cells.values()))["seeds"]))
            shown = [_mean(cells[key], " ± ") if key in cells else "" for key, _ in columns]
            lines.append(_line(system, size, steps, _budget(labels, masks), seeds, *shown))
        lines.append("")
    return "\n".join(lines)


def _of_way(row: Row) -> Row:
    """Another way to the mask has a line of its own."""
    way, _, metric = row["metric"].rpartition("/")
    return {**row, "system": f"{row['system']} ({way})", "metric": metric} if way else row


def _by_system(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], dict[Any, Row]]:
    """Rows by their value or values of `keys`, for each (system, size, steps, labels, masks)."""
    found: dict[tuple[Any, ...], dict[Any, Row]] = {}
    for row in rows:
        system = tuple(row[name] for name in "system size steps cls_labels seg_labels".split())
        key = tuple(row[name] for name in keys)
        found.setdefault(system, {})[key if len(keys) > 1 else key[0]] = row
    return found


def _budget(cls_labels: str | None, seg_labels: str | None) -> str:
    """'100/10' for class labels and masks, a dash for a task that the system lacks."""
    return f"{cls_labels or '–'}/{seg_labels or '–'}"


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _markdown_cell(row: Row | None) -> str:
    if row is None:
        return ""
    low, high = row["ci95"]
    return f"{_mean(row, ' ± ')} [{low:.3f}, {high:.3f}]"


def _mean(row: Row, sign: str) -> str:
    spread = "" if row["std"] is None else f"{sign}{row['std']:.3f}"
    return f"{row['mean']:.3f}{spread}"


def markdown_of_comparisons(rows: Sequence[Row]) -> str:
    """What each part adds, or has over another, by pair of systems, data set and metric.

    Args:
      rows: of `compare.compare`.
    """
    lines = []
    for checkpoint in (Checkpoint.BEST, Checkpoint.LAST):
        here = [row for row in rows if row["checkpoint"] == checkpoint]
        if not here:
            continue
        parts = bool(here[0]["adds"])
        columns = ["adds"] if parts else []
        columns += ["system", "to", "size", "steps", "labels/masks", "data set", "metric"]
        columns += ["difference", "by seed", "p", "p (Holm)"]
        lines += [
            f"### {'What each part adds' if parts else 'Differences'}, {checkpoint} checkpoint",
            "",
            _line(*columns),
            "|---" * len(columns) + "|",
        ]
        for row in here:
            low, high = row["ci95"]
            cells = [
                *((row["adds"],) if parts else ()),
                *(row["system"], row["to"], row["size"], row["steps"]),
                _budget(row["cls_labels"], row["seg_labels"]),
                *(row["data_set"], row["metric"]),
                f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]",
                ", ".join(f"{value:+.4f}" for value in row["by_seed"].values()),
                *("" if row[name] is None else f"{row[name]:.4f}" for name in ("p", "p_holm")),
            ]
            lines.append(_line(*cells))
        lines.append("")
    return "\n".join(lines)


def latex(rows: Sequence[Row], checkpoint: str) -> str:
    """The published table's shape: in-domain, then the first other hospital of each task.

    Args:
      rows: of `compare.summarize`.
      checkpoint: 'best' or 'last'.
    """
    held = [row for row in rows if row["checkpoint"] in (checkpoint, BASELINE)]
    sets: dict[tuple[bool, str], str] = {}
    for row in held:
        if row["checkpoint"] == checkpoint:
            sets.setdefault((row["in_domain"], row["metric"]), row["data_set"])
    columns = [column for column in LATEX_COLUMNS if column[:2] in sets]
    ours, others = (sum(inside == c[0] for c in columns) for inside in (True, False))
    lines = [
        f"\\begin{{tabular}}{{ll{'c' * len(columns)}}}",
        "\\hline",
        " & "
        + "".join(
            f" & \\multicolumn{{{count}}}{{c}}{{{title}}}"
            for count, title in ((ours, "in-domain"), (others, "cross-domain"))
            if count
        )
        + r" \\",
        " & ".join(["System", "Labels", *(title for *_, title in columns)]) + r" \\",
        "\\hline",
    ]
    kinds = {(row["size"], row["steps"]) for row in held}
    pm = r" {\pm} "
    for (system, size, steps, labels, masks), by_metric in _by_system(
        held, "data_set", "metric"
    ).items():
        texts = []
        for inside, metric, _ in columns:
            found = by_metric.get((sets[inside, metric], metric))
            texts.append("" if found is None else f"${_mean(found, pm)}$")
        name = system.replace("_", r"\_") + (f" ({size}, {steps} steps)" if len(kinds) > 1 else "")
        lines.append(" & ".join([name, _budget(labels, masks).replace("–", "--"), *texts]) + r" \\")
    return "\n".join([*lines, "\\hline", "\\end{tabular}", ""])


def write_csv(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """The rows as a table, lists with semicolons, whole or not at all."""
    flat = [
        {k: ";".join(map(str, v)) if isinstance(v, list | tuple) else v for k, v in row.items()}
        for row in rows
    ]
    _write_table(path, flat)


def write_pages(runs: Sequence[record.FinishedRun], out: str | None) -> None:
    """A page of each run: in its folder, or below `out`; of one run, `out` may be the file.

    Raises:
      UsageError: two would have one name, or what a run left behind is damaged.
    """
    if out is None:
        paths = [run.path / workdir.PAGE for run in runs]
    elif out.endswith(".html"):
        paths = [pathlib.Path(out)] * len(runs)
    else:
        paths = [pathlib.Path(out) / f"{run.path.resolve().name}.html" for run in runs]
    if len(set(paths)) < len(paths):
        raise UsageError(f"--out={out}: several runs would be one file; use a folder for each run")
    for run, path in zip(runs, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        page.write(run, path)
        print(path)


@ends_quietly()
def main() -> None:
    """Command line, see the top of the file."""
    parser = argparse.ArgumentParser(
        prog="multimix-report",
        description="Results as tables and figures.",
        epilog="example: multimix-report runs/grid --out tables",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or of a grid")
    parser.add_argument("--out", metavar="DIR", help="write all tables and figures there")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as a JSON list")
    parser.add_argument("--against", metavar="SYSTEM", help="compare this one with every other")
    parser.add_argument("--html", action="store_true", help="write a page of each run instead")
    arguments = parser.parse_args()
    try:
        if arguments.html:
            write_pages(record.find_runs(arguments.runs), arguments.out)
            return
        groups = compare.group_runs(record.find_runs(arguments.runs))
        rows, compared = compare.summarize(groups), compare.compare(groups, arguments.against)
        tables = [overview(rows), markdown(rows), markdown_of_comparisons(compared)]
        text = "\n".join([LEGEND, *tables])
        print(text)
        if arguments.json:
            atomic.write_json(pathlib.Path(arguments.json), rows)
        if arguments.out:
            out = pathlib.Path(arguments.out)
            out.mkdir(parents=True, exist_ok=True)
            atomic.write_json(out / "results.json", rows)
            atomic.write_json(out / "comparisons.json", compared)
            write_csv(out / "results.csv", rows)
            for checkpoint in (Checkpoint.BEST, Checkpoint.LAST):
                atomic.write_text(out / f"results_{checkpoint}.tex", latex(rows, checkpoint))
            atomic.write_text(out / "results.md", text)
            together = compare.alike if arguments.against else compare.comparable
            plots.draw_all(groups, out / "figures", together)
    except BrokenPipeError:
        raise
    except (UsageError, OSError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
