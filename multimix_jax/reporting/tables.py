"""Results as tables: rows are gathered here, and `tabulate` writes them."""

import fnmatch
import math
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import tabulate

from multimix_jax.names import BASELINE, Checkpoint, Head
from multimix_jax.reporting import published
from multimix_jax.runs import record
from multimix_jax.runs.record import FinishedRun

Results = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
Row = Mapping[str, Any]

# Columns of the table of one run, * for any name; results.json has all metrics.
SEGMENTATION = ("dice", "dice_present", "dice_absent", "ssim", "hd", "assd")
CLASSIFICATION = ("accuracy", "auroc", "f1_*", "ece")
OF_ONE_CLASS = ("f1", "average_precision", "auroc")  # of each class; f1_ill, ...
OVERVIEW = ("dice", "accuracy", "auroc")
# What LaTeX would take for commands.
_LATEX = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\n": " "}
)
_SYSTEM = ("system", "size", "steps", "cls_labels", "seg_labels")  # what a line stands for
_SYSTEM_TITLES = ("system", "size", "steps", "labels/masks", "seeds")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """Cells of text under the titles of their columns; with the `title` as a heading, if any."""
    heading = f"### {escaped(title)}\n\n" if title else ""
    cells, titles = [list(map(escaped, row)) for row in rows], list(map(escaped, columns))
    return heading + tabulate.tabulate(cells, titles, "github", disable_numparse=True)


def escaped(text: str) -> str:
    """A text that Markdown takes as it is, also in the cell of a table, on one line."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def estimate(entry: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """A mean and its 95 % interval as text; None where it is not defined."""
    if entry is None or math.isnan(entry["mean"]):
        return None
    low, high = entry["ci95"]
    return f"{entry['mean']:.3f}", f"[{low:.3f}, {high:.3f}]"


def summaries(results: Results) -> list[tuple[str, str, Head, dict[str, Any]]]:
    """(checkpoint or BASELINE, data set, head, metrics) of a run, in the order to show them."""
    return [
        (checkpoint, data_set, head, part)
        for checkpoint in (*Checkpoint, BASELINE)
        for data_set, summary in results.get(checkpoint, {}).items()
        for head, part in record.by_head(summary).items()
    ]


def with_head(text: str, head: Head) -> str:
    """'last, sdf', and 'last' for the first head."""
    return f"{text}, {head.short}" if head.short else text


def of_run(results: Results) -> str:
    """The main metrics of every checkpoint and data set, and warnings, for a terminal."""
    text = ""
    for title, patterns in (("Segmentation", SEGMENTATION), ("Classification", CLASSIFICATION)):
        leading = patterns[0]
        rows = [row for row in summaries(results) if leading in row[-1]]
        if not rows:
            continue
        names = dict.fromkeys(name for *_, summary in rows for name in summary)
        shown = [name for pattern in patterns for name in fnmatch.filter(names, pattern)]
        cells = [
            [
                *(with_head(checkpoint, head), data_set, str(summary[leading]["n"])),
                *(" ".join(estimate(summary.get(name)) or "-") for name in shown),
            ]
            for checkpoint, data_set, head, summary in rows
        ]
        # Titles are a row like others, since `tabulate` would leave more space beside headers.
        lines = [[title, "data set", "n", *shown], *cells]
        lines = [[" ".join(cell.split()) for cell in line] for line in lines]
        text += tabulate.tabulate(lines, tablefmt="plain", disable_numparse=True) + "\n\n"
    warnings = results.get("run", {}).get("warnings", ())
    return text[:-1] + "".join(f"\nwarning: {warning}" for warning in warnings)


def of_one_class(metrics: Collection[str]) -> dict[str, tuple[str, str]]:
    """Kind and class of the metrics that are of one class alone: of 'f1_ill' ('f1', 'ill')."""
    names = [metric.removeprefix("f1_") for metric in metrics if metric.startswith("f1_")]
    pairs = ((kind, name) for name in dict.fromkeys(names) for kind in OF_ONE_CLASS)
    return {f"{kind}_{name}": (kind, name) for kind, name in pairs if f"{kind}_{name}" in metrics}


def warnings(runs: Sequence[FinishedRun]) -> str:
    """Markdown: what to bear in mind about the figures of some runs, and of which."""
    said: dict[str, list[str]] = {}
    for run in runs:
        for warning in run.results["run"]["warnings"]:
            said.setdefault(warning, []).append(run.label or run.path.name)
    lines = [f"* {escaped(text)} ({escaped(', '.join(of))})\n" for text, of in said.items()]
    return "\n".join(["### Warnings", "", "".join(lines)]) if lines else ""


def by_data_set(rows: Sequence[Row]) -> str:
    """Markdown: a table for each checkpoint and data set, systems down, metrics across.

    `rows`, here and below: of `compare.summarize`.
    """
    rows = [_of_head(row) for row in rows]
    tables = []
    for checkpoint in Checkpoint:
        for data_set in dict.fromkeys(r["data_set"] for r in rows if r["checkpoint"] == checkpoint):
            here = [
                row
                for at in (BASELINE, checkpoint)
                for row in rows
                if (row["checkpoint"], row["data_set"]) == (at, data_set)
            ]
            last, each = here[-1], of_one_class([row["metric"] for row in here])
            if len({name for _, name in each.values()}) == 2:  # as published
                each = {m: of for m, of in each.items() if of[0] != "f1"}
            metrics = list(
                dict.fromkeys(row["metric"] for row in here if row["metric"] not in each)
            )
            lines = []
            columns = [(data_set, metric) for metric in metrics]
            for system, line in _lines(here, columns, _with_interval).items():
                lines += [line, *_published(system, data_set, metrics)]
            place = domain(last["in_domain"])
            title = f"{data_set}, {checkpoint} checkpoint ({_counted(here)}, {place})"
            tables.append(markdown([*_SYSTEM_TITLES, *metrics], lines, title))
            if each:
                kinds = list(dict.fromkeys(kind for kind, _ in each.values()))
                lines = []
                for name in dict.fromkeys(name for _, name in each.values()):
                    own = [
                        row
                        for row in here
                        if row["metric"] in each and each[row["metric"]][1] == name
                    ]
                    columns = [(data_set, f"{kind}_{name}") for kind in kinds]
                    lines += [
                        [name, *line] for line in _lines(own, columns, _with_interval).values()
                    ]
                tables.append(
                    markdown(["class", *_SYSTEM_TITLES, *kinds], lines, f"{title}, by class")
                )
    if any("*published*" in table for table in tables):
        notes = [f"* {note}" for note in published.NOTES]
        tables.append("\n".join(["How to read the published rows:", "", *notes]))
    return _joined(tables)


def _counted(rows: Sequence[Row]) -> str:
    """How many images of a set the figures are of; of masks and classes they may be others."""
    n = {row["metric"]: row["n"] for row in rows}
    masks, classes = n.get("dice"), n.get("accuracy")
    if masks and classes and masks != classes:
        return f"masks of {masks} images, classes of {classes}"
    return f"{rows[-1]['n']} images"


def overview(rows: Sequence[Row]) -> str:
    """Markdown: a table for each checkpoint, systems down, main metrics of every set across."""
    rows = [row for row in map(_of_head, rows) if row["metric"] in OVERVIEW]
    tables = []
    for checkpoint in Checkpoint:
        here = [row for row in rows if row["checkpoint"] in (BASELINE, checkpoint)]
        if not any(row["checkpoint"] == checkpoint for row in here):
            continue
        in_domain = {(row["data_set"], row["metric"]): row["in_domain"] for row in here}
        columns = [
            (data_set, metric)
            for (data_set, metric), _ in sorted(
                in_domain.items(),
                key=lambda item: (item[0][1] != OVERVIEW[0], not item[1], item[0][0]),
            )
        ]
        titles = [*_SYSTEM_TITLES, *(f"{data_set} {metric}" for data_set, metric in columns)]
        lines = list(_lines(here, columns, _with_spread).values())
        tables.append(markdown(titles, lines, f"Overview, {checkpoint} checkpoint"))
    return _joined(tables)


def comparisons(rows: Sequence[Row]) -> str:
    """Markdown of `compare.compare`: what each part adds, or has over another."""
    tables = []
    for checkpoint in Checkpoint:
        here = [row for row in rows if row["checkpoint"] == checkpoint]
        if not here:
            continue
        lines = []
        for row in here:
            low, high = row["ci95"]
            lines.append(
                [
                    *(row["adds"], row["system"], row["to"], str(row["size"]), str(row["steps"])),
                    _budget(row["cls_labels"], row["seg_labels"]),
                    *(row["data_set"], row["metric"], str(row["n"])),
                    f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]",
                    ", ".join(f"{value:+.4f}" for value in row["by_seed"].values()),
                    *("" if row[name] is None else f"{row[name]:.4f}" for name in ("p", "p_holm")),
                ]
            )
        columns = ["adds", "system", "to", "size", "steps", "labels/masks", "data set", "metric"]
        columns += ["n", "difference", "by seed", "p", "p (Holm)"]
        title = "What each part adds"
        if not any(row["adds"] for row in here):  # systems that differ in more than a part
            title, columns, lines = "Differences", columns[1:], [line[1:] for line in lines]
        tables.append(markdown(columns, lines, f"{title}, {checkpoint} checkpoint"))
    return _joined(tables)


def latex(rows: Sequence[Row], checkpoint: str) -> str:
    """The published table's shape: in-domain, then the first external test set of each task."""
    here = [row for row in rows if row["checkpoint"] in (checkpoint, BASELINE)]
    sets: dict[tuple[bool, str], str] = {}
    for row in here:
        if row["checkpoint"] == checkpoint:
            sets.setdefault((row["in_domain"], row["metric"]), row["data_set"])
    columns = [column for column in published.COLUMNS if column[:2] in sets]
    groups = ""
    for in_domain, title in ((True, "in-domain"), (False, "cross-domain")):
        count = sum(column[0] == in_domain for column in columns)
        if count:
            groups += f" & \\multicolumn{{{count}}}{{c}}{{{title}}}"
    sign = r" {\pm} "
    several = len({(row["size"], row["steps"]) for row in here}) > 1
    lines = []
    for (system, size, steps, labels, masks), cells in _by_system(here).items():
        name = system.translate(_LATEX) + (f" ({size}, {steps} steps)" if several else "")
        line = [name, _budget(labels, masks).replace("–", "--")]
        for in_domain, metric, _ in columns:
            key = sets[in_domain, metric], metric
            line.append(f"${_with_spread(cells[key], sign)}$" if key in cells else "")
        lines.append(line)
    titles = ["System", "Labels", *(title for *_, title in columns)]
    alignment = ["left", "left", *["center"] * len(columns)] if lines else None
    table = tabulate.tabulate(lines, titles, "latex_raw", colalign=alignment, disable_numparse=True)
    first, rule, *rest = table.splitlines()
    return "\n".join([first, rule, f" & {groups} \\\\", *rest]) + "\n"


def write_csv(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """The rows as a table, lists with semicolons, whole or not at all."""
    flat = [
        {k: ";".join(map(str, v)) if isinstance(v, list | tuple) else v for k, v in row.items()}
        for row in rows
    ]
    record.write_csv(path, flat)


def domain(in_domain: bool) -> str:
    """What a test set is to the systems that are tested on it."""
    return "internal test set" if in_domain else "external test set"


def _joined(tables: Iterable[str]) -> str:
    return "".join(f"{table}\n\n" for table in tables)[:-1]


def _of_head(row: Row) -> Row:
    """The row, with another head than the first beside the system: it has a line of its own."""
    ((head, named),) = record.by_head({row["metric"]: None}).items()
    system = f"{row['system']} ({head.short})" if head.short else row["system"]
    return {**row, "system": system, "metric": next(iter(named))}


def _by_system(rows: Sequence[Row]) -> dict[tuple[Any, ...], dict[tuple[str, str], Row]]:
    """Rows by (data set, metric), for each (system, size, steps, labels, masks)."""
    systems: dict[tuple[Any, ...], dict[tuple[str, str], Row]] = {}
    for row in rows:
        cells = systems.setdefault(tuple(row[name] for name in _SYSTEM), {})
        cells[row["data_set"], row["metric"]] = row
    return systems


def _lines(
    rows: Sequence[Row], columns: Iterable[tuple[str, str]], text: Callable[[Row], str]
) -> dict[tuple[Any, ...], list[str]]:
    """By system, the cells under _SYSTEM_TITLES and those of each (data set, metric)."""
    lines = {}
    for system, cells in _by_system(rows).items():
        name, size, steps, labels, masks = system
        seeds = ", ".join(map(str, next(iter(cells.values()))["seeds"]))
        shown = [text(cells[key]) if key in cells else "" for key in columns]
        lines[system] = [name, str(size), str(steps), _budget(labels, masks), seeds, *shown]
    return lines


def _published(system: tuple[Any, ...], data_set: str, metrics: Sequence[str]) -> list[list[str]]:
    """The line of the published figures of a system, if there are any."""
    name, _, _, labels, masks = system
    known = published.figures(name, labels, masks, data_set)
    if not set(known) & set(metrics):
        return []
    shown = [f"*{known[metric]:.3f}*" if metric in known else "" for metric in metrics]
    if "jaccard" in known and "dice" in metrics:
        by_jaccard = 2 * known["jaccard"] / (1 + known["jaccard"])
        shown[metrics.index("dice")] += f" *({by_jaccard:.3f})*"
    return [["*published*", "*256*", "", _budget(labels, masks), "", *shown]]


def _budget(cls_labels: str | None, seg_labels: str | None) -> str:
    """'100/10' for class labels and masks, a dash for a task that the system lacks."""
    return f"{cls_labels or '–'}/{seg_labels or '–'}"


def _with_interval(row: Row) -> str:
    low, high = row["ci95"]
    return f"{_with_spread(row)} [{low:.3f}, {high:.3f}]"


def _with_spread(row: Row, sign: str = " ± ") -> str:
    spread = "" if row["std"] is None else f"{sign}{row['std']:.3f}"
    return f"{row['mean']:.3f}{spread}"
