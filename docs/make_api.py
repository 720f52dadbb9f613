"""Writes docs/api.md from the docstrings of the public names of multimix_jax.

    python docs/make_api.py          # writes the page
    python docs/make_api.py --check  # exits with 1 if the page is stale

Signatures are read from the source, as they are written there, so that the page does not depend on
the versions of Python and of the libraries.
"""

import argparse
import ast
import dataclasses
import enum
import importlib
import inspect
import pathlib
import re
import sys
import textwrap
import types

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
PACKAGE = "multimix_jax"
COMMAND = "python docs/make_api.py"
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
WIDTH = 88  # of a signature in one line


@dataclasses.dataclass(frozen=True)
class Entry:
    """A public class or function under the shortest name that it is imported by."""

    name: str
    value: type | types.FunctionType


def public_entries() -> dict[str, list[Entry]]:
    """The public classes and functions by module, each once, the package itself first."""
    package = importlib.import_module(PACKAGE)
    pages: dict[str, list[Entry]] = {}
    documented: set[int] = set()
    modules = [package]
    for module in modules:  # grows while it is read
        entries = []
        for name in member_names(module):
            value = getattr(module, name)
            if inspect.ismodule(value):
                modules.append(value)
            elif is_documented(value) and id(value) not in documented:
                documented.add(id(value))
                entries.append(Entry(f"{module.__name__}.{name}", value))
        pages[module.__name__] = entries
    return {name: pages[name] for name in sorted(pages)}


def member_names(module: types.ModuleType) -> list[str]:
    """What `__all__` lists; without it, what the module itself defines."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def is_documented(value: object) -> bool:
    """Whether it is a class or a function, a decorated one too; neither a constant nor an alias."""
    return inspect.isclass(value) or inspect.isroutine(value) or hasattr(value, "__wrapped__")


def definition(value: object) -> ast.ClassDef | ast.FunctionDef | None:
    """The syntax tree of a class or a function, None where there is no source of its own."""
    try:
        source = inspect.getsource(inspect.unwrap(value))  # type: ignore[arg-type]
    except (OSError, TypeError):
        return None
    node = ast.parse(textwrap.dedent(source)).body[0]
    return node if isinstance(node, ast.ClassDef | ast.FunctionDef) else None


def signature(name: str, value: object) -> str:
    """`name` with parameters, defaults and result, as the source spells them."""
    if inspect.isclass(value):
        return call(name, class_parameters(value), "")
    node = definition(value)
    if not isinstance(node, ast.FunctionDef):
        return f"{name}(...)"
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return call(name, function_parameters(node.args), result)


def call(name: str, parameters: list[str], result: str) -> str:
    line = f"{name}({', '.join(parameters)}){result}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {p},\n" for p in parameters) + f"){result}"


def function_parameters(arguments: ast.arguments) -> list[str]:
    """Each parameter as text, without `self`."""
    positional = arguments.posonlyargs + arguments.args
    required = len(positional) - len(arguments.defaults)
    defaults: list[ast.expr | None] = [None] * required + list(arguments.defaults)
    parameters = [
        parameter(arg, default)
        for arg, default in zip(positional, defaults, strict=True)
        if arg.arg != "self"
    ]
    if arguments.vararg:
        parameters.append("*" + parameter(arguments.vararg, None))
    elif arguments.kwonlyargs:
        parameters.append("*")
    for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(parameter(arg, default))
    if arguments.kwarg:
        parameters.append("**" + parameter(arguments.kwarg, None))
    return parameters


def parameter(arg: ast.arg, default: ast.expr | None) -> str:
    text = f"{arg.arg}: {ast.unparse(arg.annotation)}" if arg.annotation else arg.arg
    if default is None:
        return text
    return text + (" = " if arg.annotation else "=") + ast.unparse(default)


def class_parameters(value: type) -> list[str]:
    """Of its `__init__`, or the fields of a dataclass, those of its bases first."""
    if issubclass(value, enum.Enum):
        return []
    fields: dict[str, str] = {}
    for base in reversed(value.__mro__):
        node = definition(base) if base.__module__.startswith(PACKAGE) else None
        if not isinstance(node, ast.ClassDef):
            continue
        for line in node.body:
            if isinstance(line, ast.FunctionDef) and line.name == "__init__":
                return function_parameters(line.args)
            if isinstance(line, ast.AnnAssign) and "ClassVar" not in ast.unparse(line.annotation):
                fields[ast.unparse(line.target)] = field_text(line)
    return [text for name, text in fields.items() if not name.startswith("_")]


def field_text(line: ast.AnnAssign) -> str:
    text = ast.unparse(line.target) + ": " + ast.unparse(line.annotation)
    if line.value is None or "field(" in ast.unparse(line.value):
        return text
    return f"{text} = {ast.unparse(line.value)}"


def field_comments(value: type) -> list[str]:
    """What the comments behind the fields of a class, and of its bases, say of them."""
    comments = {}
    for base in reversed(value.__mro__):
        node = definition(base) if base.__module__.startswith(PACKAGE) else None
        if not isinstance(node, ast.ClassDef):
            continue
        lines = textwrap.dedent(inspect.getsource(base)).splitlines()
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and "ClassVar" not in ast.unparse(line.annotation):
                _, _, comment = lines[line.lineno - 1].partition("  # ")
                if comment:
                    comments[ast.unparse(line.target)] = paragraph(comment)
    return [f"* `{name}`: {comment}" for name, comment in comments.items()]


def own_docstring(value: object) -> str:
    """The docstring that the source has; one that `dataclass` made counts as none."""
    node = definition(value)
    if node is None:
        return inspect.cleandoc(getattr(value, "__doc__", None) or "")
    return ast.get_docstring(node) or ""


def described(docstring: str) -> str:
    """The paragraphs, then arguments, attributes, result and errors, as Markdown."""
    headings = "|".join(SECTIONS)
    pieces = re.split(rf"^({headings}):\n", docstring, flags=re.MULTILINE)
    texts = [text for text in pieces[0].split("\n\n") if text.strip()]
    equations = re.compile(r"L_\w+ = ")  # whose lines say where each begins
    blocks = [f"```\n{t.rstrip()}\n```" if equations.match(t) else paragraph(t) for t in texts]
    for heading, body in zip(pieces[1::2], pieces[2::2], strict=True):
        blocks.append(f"{heading}:\n\n" + "\n".join(items(heading, body)))
    return "\n\n".join(blocks)


def items(heading: str, body: str) -> list[str]:
    """The entries of a section as a list; what is returned is one entry."""
    indented = [line for line in body.splitlines() if not line or line.startswith(" ")]
    lines = textwrap.dedent("\n".join(indented)).strip().splitlines()
    if heading in ("Returns", "Yields"):
        return ["* " + paragraph(" ".join(lines))]
    entries: list[str] = []
    for line in lines:
        if entries and line.startswith(" "):
            entries[-1] += " " + line.strip()
        else:
            entries.append(line)
    return ["* " + paragraph(re.sub(r"^([*\w, .]+): ", r"`\1`: ", entry)) for entry in entries]


def paragraph(text: str) -> str:
    """One line, with what Markdown would take for markup escaped outside of code."""
    pieces = " ".join(text.split()).split("`")
    pieces[::2] = [re.sub(r"([*<|])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def methods(value: type) -> list[Entry]:
    """Public methods that the class itself defines and describes, and its call."""
    return [
        Entry(name, method)
        for name, method in vars(value).items()
        if (name == "__call__" or not name.startswith("_"))
        and inspect.isfunction(method)
        and method.__module__.startswith(PACKAGE)
        and own_docstring(method)
    ]


def entry_text(entry: Entry) -> str:
    short = entry.name.rsplit(".", 1)[1]
    blocks = [f"### `{entry.name.removeprefix(PACKAGE + '.')}`"]
    if inspect.isclass(entry.value) and issubclass(entry.value, enum.Enum):
        blocks.append(described(own_docstring(entry.value)))
        blocks.append("\n".join(f"* `{m.name}` = `{m.value!r}`" for m in entry.value))
        return "\n\n".join(blocks)
    blocks.append(f"```python\n{signature(short, entry.value)}\n```")
    blocks.append(described(own_docstring(entry.value)))
    if inspect.isclass(entry.value):
        blocks.append("\n".join(field_comments(entry.value)))
        for method in methods(entry.value):
            text = signature(method.name, method.value)
            blocks.append(f"Method of `{short}`:\n\n```python\n{text}\n```")
            blocks.append(described(own_docstring(method.value)))
    return "\n\n".join(blocks)


def page() -> str:
    """The whole page."""
    blocks = [
        "# The public names",
        f"Written by [`{COMMAND}`](make_api.py) from the docstrings; do not edit. Names are those "
        f"of `import {PACKAGE} as mm`, so `losses.dice_loss` is `mm.losses.dice_loss`. How they "
        "work together: [reuse.md](reuse.md).",
    ]
    for name, entries in public_entries().items():
        if not entries:
            continue
        module = importlib.import_module(name)
        blocks.append(f"## `{name}`")
        blocks.append(described(inspect.cleandoc(module.__doc__ or "")))
        blocks += [entry_text(entry) for entry in entries]
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(blocks)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes docs/api.md from the docstrings.")
    parser.add_argument("--check", action="store_true", help="only say whether it is stale")
    args = parser.parse_args()
    text = page()
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"docs/api.md does not match the docstrings; run: {COMMAND}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout rather than an installed copy
    main()
