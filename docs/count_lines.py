"""Counts the lines of the product by kind, for docs/lab/size.md.

python docs/count_lines.py > docs/lab/size.csv
"""

import ast
import collections
import csv
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
KINDS = ("code", "imports", "comments", "docstrings", "blank")


def kinds_of(text: str) -> list[str]:
    """The kind of each line; a blank one in a docstring is of the docstring."""
    kinds = []
    for line in text.splitlines():
        stripped = line.strip()
        kinds.append("blank" if not stripped else "comments" if stripped[0] == "#" else "code")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            kind = "imports"
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            kind, node = "docstrings", node.body[0]
        else:
            continue
        for line in range(node.lineno - 1, node.end_lineno):
            kinds[line] = kind
    return kinds


def main() -> None:
    rooms: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    folders = ("multimix_jax", "data_pipelines", "configs")
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    for file in [*files, ROOT / "launch.py"]:
        counts = collections.Counter(kinds_of(file.read_text(encoding="utf-8")))
        room = file.relative_to(ROOT)
        rooms[str(room if room.parent == pathlib.Path() else room.parent)] += counts
        rooms["all"] += counts
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["room", "lines", *KINDS])
    for room, counts in sorted(rooms.items()):
        writer.writerow([room, counts.total(), *(counts[kind] for kind in KINDS)])


if __name__ == "__main__":
    main()
