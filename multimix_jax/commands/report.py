"""Results as tables and figures.

    multimix-report runs/a runs/b
    multimix-report runs/grid --out docs/grid

prints finished runs, or those of a grid, as Markdown; runs that differ in their seed alone are
taken together. --out=DIR writes results.md, .csv and .json (a list of rows), LaTeX tables of the
published shape, comparisons.json and figures. Systems that differ in one part are compared, or,
with --against=SYSTEM, that one with every other, and all of a budget are drawn together. What is
not compared is listed, with the reason.

    multimix-report short=runs/a long=runs/b

gives runs labels, and compares them whatever they differ in, on the test images that both have.

    multimix-report runs/a --html

writes each run as a page to look through, RUN/report.html, or DIR/NAME.html with --out=DIR.
"""

import argparse
import contextlib
import pathlib
from collections.abc import Sequence

from multimix_jax import atomic
from multimix_jax.commands.ends import ends_quietly, make_parser
from multimix_jax.errors import UsageError
from multimix_jax.names import Checkpoint
from multimix_jax.reporting import compare, groups, page, pairs, pictures, plots, tables
from multimix_jax.runs import record, workdir

LEGEND = """Mean over seeds, ± standard deviation over seeds where there are several, [95 %
interval over test images]. Intervals and p take the trained weights as they are: they tell of other
test images, not of other seeds.
"""


def write_pages(runs: Sequence[record.FinishedRun], out: str | None) -> None:
    """A page of each run: in its folder, or below `out`; of one run, `out` may be the file."""
    if out is None:
        paths = [run.path / workdir.PAGE for run in runs]
    elif out.endswith(".html"):
        paths = [pathlib.Path(out)] * len(runs)
    else:
        names = [pictures.file_name(run.label) or run.path.resolve().name for run in runs]
        paths = [pathlib.Path(out) / f"{name}.html" for name in names]
    if len(set(paths)) < len(paths):
        raise UsageError(f"--out={out}: several runs would be one file; give each a label")
    for run, path in zip(runs, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        page.write(run, path)
        print(path)


@ends_quietly()
def main() -> None:
    """Command line, see the top of the file."""
    parser = make_parser("multimix-report", __doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="[LABEL=]RUN", help="folder of a run, or of a grid"
    )
    parser.add_argument("--out", metavar="DIR", help="write all tables and figures there")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as a JSON list")
    parser.add_argument("--against", metavar="SYSTEM", help="compare this one with every other")
    parser.add_argument("--html", action="store_true", help="write a page of each run instead")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        for flag, name in (("--out", arguments.out), ("--json", arguments.json)):
            if name:
                is_file = flag == "--json" or (arguments.html and name.endswith(".html"))
                folder = pathlib.Path(name).parent if is_file else name
                stack.enter_context(atomic.writing(flag, folder))
        report(arguments)


def report(arguments: argparse.Namespace) -> None:
    """Does what the command asks for."""
    runs = record.find_runs(arguments.runs)
    if arguments.html:
        write_pages(runs, arguments.out)
        return
    grouped = groups.group_runs(runs)
    rows, compared = compare.summarize(grouped), compare.compare(grouped, arguments.against)
    if not rows:
        raise UsageError(
            "nothing to report: of no test image of these runs is a mask or a class known; "
            "name test sets that have them (config.test_data), and evaluate again with --mode=eval"
        )
    written = [tables.overview(rows), tables.by_data_set(rows), tables.comparisons(compared)]
    written += [pairs.in_words(grouped, arguments.against), tables.warnings(runs)]
    text = "\n".join([LEGEND, *filter(None, written)])
    print(text)
    if arguments.json:
        atomic.write_json(pathlib.Path(arguments.json), rows)
    if arguments.out:
        out = pathlib.Path(arguments.out)
        out.mkdir(parents=True, exist_ok=True)
        atomic.write_json(out / "results.json", rows)
        atomic.write_json(out / "comparisons.json", compared)
        tables.write_csv(out / "results.csv", rows)
        for checkpoint in Checkpoint:
            latex = tables.latex(rows, checkpoint)
            atomic.write_text(out / f"results_{checkpoint}.tex", latex)
        atomic.write_text(out / "results.md", text)
        together = groups.alike if arguments.against else groups.comparable
        plots.draw_all(grouped, out / "figures", together)


if __name__ == "__main__":
    main()
