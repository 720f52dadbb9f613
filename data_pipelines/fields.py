"""The fields of a config: their names, and what the comments in its file say of them."""

import ast
import difflib
import runpy
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_WORDS = {bool: "True or False", int: "a whole number", float: "a number", tuple: "a list"}


def load(config: str) -> Any:
    """The config that 'FILE:arguments' stands for, before fields are set on the command line."""
    file, colon, arguments = config.partition(":")
    get_config = runpy.run_path(file)["get_config"]
    return get_config(arguments) if colon else get_config()


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields and their values, those of sections with dots."""
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def describe(config: Mapping[str, Any], file: Path) -> str:
    """A line for each field of a config from `file`: value and comment."""
    said = comments(file)
    assigned = {name: f"{name} = {value!r}" for name, value in flatten(config)}
    width = min(max(map(len, assigned.values())), 48)
    return "\n".join(
        f"{text:{width}}  # {said.get(name, '')}".rstrip(" #") for name, text in assigned.items()
    )


def fault(name: str, text: str, config: Mapping[str, Any]) -> str:
    """What is wrong with --config.NAME=TEXT, with the remedy; '' if nothing is seen."""
    values = dict(flatten(config))
    if name not in values and not any(known.startswith(f"{name}.") for known in values):
        last = {known: known.rpartition(".")[2] for known in values}
        near = [known for known in values if last[known] == name.rpartition(".")[2]]
        near += difflib.get_close_matches(name, values, 2)
        near += [k for k in values if last[k] in difflib.get_close_matches(name, last.values(), 1)]
        meant = " or ".join(f"--config.{known}" for known in dict.fromkeys(near[:3]))
        meant = f"did you mean {meant}? " if near else ""
        return f"--config.{name} is unknown; {meant}--print_config lists all fields"
    if name not in values:
        inner = ", ".join(f"--config.{k}" for k in values if k.startswith(f"{name}."))
        return f"--config.{name} is a group of fields; set one of them: {inner}"
    kind = _WORDS.get(type(values.get(name)))
    return f"--config.{name}={text!r} is not {kind}; it is {values[name]!r} here" if kind else ""


def comments(file: Path) -> dict[str, str]:
    """Of the fields that a config's file sets, and of those beside it that it imports: what a field
    is, these say; of a section that it writes anew, it does."""
    source = file.read_text(encoding="utf-8")
    said: dict[str, str] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == file.parent.name:
            for alias in node.names:
                said = comments(file.with_name(f"{alias.name}.py")) | said
    lines = _comments_by_line(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            names = [ast.unparse(target) for target in node.targets]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            names = [ast.unparse(node.value.func).removesuffix(".update")]
        else:
            continue
        for name in (name.removeprefix("c.") for name in names if name.startswith("c.")):
            if node.lineno in lines:
                said.setdefault(name, lines[node.lineno])
            for inner in ast.walk(node.value):
                if isinstance(inner, ast.keyword) and inner.lineno in lines:
                    said[f"{name}.{inner.arg}"] = lines[inner.lineno]
    return said


def _comments_by_line(source: str) -> dict[int, str]:
    """Of each line of code its comment: behind it, or on the lines before it."""
    said: dict[int, str] = {}
    before: list[str] = []
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            if token.line.lstrip().startswith("#"):
                before.append(text)
            else:
                said[line] = text
        elif token.type == tokenize.NL and not token.line.strip():
            before = []  # of the lines that follow an empty one no heading is the comment
        elif before and token.line.strip() and not token.line.lstrip().startswith("#"):
            said.setdefault(line, " ".join(before))
            before = []
    return said
