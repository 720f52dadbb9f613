"""The documentation: its code runs, its links lead somewhere, its API page is fresh."""

import functools
import importlib
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]
STARTS = ("README.md", "docs/index.md")  # what a reader opens first
# Of `[text](target)` and `![text](target)`, the text perhaps over several lines.
LINK = re.compile(r"\]\(([^()\s]+)\)")
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MODULE = re.compile(r"\b(?:multimix_jax|data_pipelines)(?:\.\w+)+")
LAUNCH = re.compile(r"(?:python launch\.py|multimix-(?:train|audit)) .*")
CONFIG = re.compile(r"--config=(configs/\w+)\.py(?::(\S+))?")
SOURCE_FILE = re.compile(
    r"\b(?:multimix_jax|data_pipelines|configs|benchmarks|tests)/[a-z0-9_/]+\.py\b"
)


def relative(path):
    return str(path.relative_to(ROOT))


def is_cache(path):
    return any(part.startswith((".", "__")) for part in path.relative_to(ROOT).parts)


def prose(page):
    return CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def link_targets(page):
    """(link as written, file, heading or '') of each link of a page to a file of ours."""
    targets = []
    for link in LINK.findall(prose(page)):
        if re.match(r"\w+:", link):
            continue
        name, _, heading = link.partition("#")
        targets.append((link, (page.parent / name).resolve() if name else page, heading))
    return targets


def anchors(page):
    """The headings of a page as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["reuse.md"])
def test_python_blocks_run(page, capsys):
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": "__main__"})
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page):
    broken = [
        link
        for link, target, heading in link_targets(page)
        if not target.exists()
        or heading
        and target.suffix == ".md"
        and heading not in anchors(target)
    ]
    assert not broken, f"{relative(page)}: nothing is where these links lead"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_tables_are_whole(page):
    """Each block of rows has a heading, the line below it, and as many cells in every row; a blank
    line would make text of the rows after it."""
    blocks = re.findall(r"(?:^ *\|.*\n?)+", prose(page), re.MULTILINE)
    count = lambda row: len(re.findall(r"(?<!\\)\|", row))  # so in code, too
    for block in blocks:
        rows = block.splitlines()
        assert re.fullmatch(r" *\|(?: *:?-+:? *\|)+ *", rows[1] if len(rows) > 1 else ""), rows[0]
        assert {count(row) for row in rows} == {count(rows[1])}, rows[0]


def test_every_file_of_the_documentation_is_linked():
    reached = set()
    waiting = [ROOT / start for start in STARTS]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        if path.suffix == ".md" and path.is_file():
            waiting += [target for _, target, _ in link_targets(path)]
    files = {path for path in DOCS.rglob("*") if path.is_file() and not is_cache(path)}
    unlinked = sorted(map(relative, files - reached))
    assert not unlinked, "no page links to these files: link or remove them"


def importable(name):
    """Whether `name` is a module, or a public name of one."""
    module = importlib.import_module(name.split(".")[0])
    for part in name.split(".")[1:]:
        if not hasattr(module, part):
            if not hasattr(module, "__path__"):
                return False
            if importlib.util.find_spec(f"{module.__name__}.{part}") is None:
                return False
            importlib.import_module(f"{module.__name__}.{part}")
        module = getattr(module, part)
    return True


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=relative)
def test_modules_and_source_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    modules = {name for name in MODULE.findall(text) if not importable(name)}
    files = {name for name in SOURCE_FILE.findall(text) if not (ROOT / name).is_file()}
    assert not modules | files, f"{relative(page)}: these do not exist"


def commands(page):
    """The commands of a page that may take a config, in code blocks or in the text."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for block in CODE_BLOCK.findall(text) for line in block.splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]
    return [command for line in lines for command in LAUNCH.findall(line)]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_name_configs_with_their_arguments_and_fields(page):
    for command in commands(page):
        named = CONFIG.search(command)
        if named is None or "..." in (named[2] or ""):
            continue
        module = importlib.import_module(named[1].replace("/", "."))
        arguments = re.sub(r",\w+=(STEPS|METHOD)\b", "", named[2] or "")
        config = module.get_config(arguments) if named[2] else module.get_config()
        for field in re.findall(r"--config\.([\w.]+)=", command):
            assert functools.reduce(lambda c, part: c[part], field.split("."), config) is not None


def test_commands_are_found():
    assert len([c for page in PAGES for c in commands(page)]) > 20


@pytest.fixture(scope="module")
def make_api():
    """The module docs/make_api.py."""
    spec = importlib.util.spec_from_file_location("make_api", DOCS / "make_api.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_api"] = module  # which dataclasses look their module up in
    spec.loader.exec_module(module)
    return module


def test_api_page_is_fresh():
    command = [sys.executable, DOCS / "make_api.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_public_name_has_a_docstring(make_api):
    entries = [entry for group in make_api.public_entries().values() for entry in group]
    assert len(entries) > 20
    assert not [entry.name for entry in entries if not make_api.own_docstring(entry.value)]


def test_api_page_lists_arguments_and_errors(make_api):
    docstring = """Adds.

        What is not a number
        is left out.

        L_a = 1
        L_b = 2

        Args:
          a, b: numbers,
            of one shape.
          *rest: others; see `add`.

        Returns:
          The sum: a * 1 + b.

        Raises:
          ValueError: they differ.
        """
    text = make_api.described(make_api.inspect.cleandoc(docstring))
    assert text == "\n".join(
        [
            "Adds.",
            "",
            "What is not a number is left out.",
            "",
            *("```", "L_a = 1", "L_b = 2", "```"),
            "",
            "Args:",
            "",
            "* `a, b`: numbers, of one shape.",
            "* `*rest`: others; see `add`.",
            "",
            "Returns:",
            "",
            r"* The sum: a \* 1 + b.",
            "",
            "Raises:",
            "",
            "* `ValueError`: they differ.",
        ]
    )
