"""Holds the arrows: which room may import which."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import multimix_jax

ROOT = pathlib.Path(multimix_jax.__file__).parents[1]
# Each room may import itself and those before it; what lies beside them is the ground floor.
ROOMS = (
    *("ops", "augment", "models", "objectives", "training"),
    *("evaluation", "inference", "runs", "reporting", "commands"),
)
WORDS = ("atomic", "errors", "labels", "names")  # of the ground floor, free of JAX
OURS = {"configs", "data_pipelines", "multimix_jax", "launch", "tests", "benchmarks"}


def files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def imported(file):
    """Every module that a file imports, wherever in it the statement stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(file):
    return {name.partition(".")[0] for name in imported(file)}


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("multimix_jax", {"tensorflow", "tensorflow_datasets", *OURS} - {"multimix_jax"}),
        (
            "data_pipelines",
            {"jax", "flax", "optax", "dm_pix", *OURS} - {"data_pipelines", "multimix_jax"},
        ),
    ],
)
def test_never_imports(folder, forbidden):
    assert files(folder)
    assert [(file, found) for file in files(folder) if (found := forbidden & packages(file))] == []


def test_data_pipelines_take_words_alone():
    rooms = {
        name.split(".")[1]
        for file in files("data_pipelines")
        for name in imported(file)
        if name.startswith("multimix_jax.")
    }
    assert rooms <= set(WORDS)


def test_rooms_import_one_way():
    faults = []
    for file in files("multimix_jax"):
        room = file.relative_to(ROOT).parts[1]
        allowed = ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else ()
        for name in imported(file):
            _, _, rest = name.partition("multimix_jax.")
            if rest.partition(".")[0] in set(ROOMS) - set(allowed):
                faults.append(f"{file.relative_to(ROOT)} imports {name}")
    assert faults == []


def test_configs_are_values():
    for file in files("configs"):
        assert packages(file) - set(sys.stdlib_module_names) <= {"ml_collections", "configs"}, file


@pytest.mark.parametrize(
    ("package", "owners"),
    [
        ("orbax", {"checkpoint.py", "parallel.py"}),
        ("matplotlib", {"pictures.py", "plots.py"}),
        ("torch", {"convert.py"}),
        ("nibabel", {"run.py"}),
    ],
)
def test_few_files_import(package, owners):
    assert {f.name for f in files("multimix_jax") if package in packages(f)} == owners


def test_one_file_knows_devices():
    word = re.compile(r"\b(pmap|shard_map|NamedSharding|make_mesh)\b\(")
    users = [f.name for f in files("multimix_jax") if word.search(f.read_text(encoding="utf-8"))]
    assert users == ["parallel.py"]


def test_one_file_looks_the_pipelines_up():
    """By name, when images are to be read: whoever predicts needs them, and nobody else."""
    users = [
        f.name for f in files("multimix_jax") if '"data_pipelines' in f.read_text(encoding="utf-8")
    ]
    assert users == ["image_predictor.py"]


def test_public_names_are_there():
    for name in multimix_jax.__all__:
        assert hasattr(multimix_jax, name), name


def run(program):
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_imports_without_tensorflow():
    """None makes an import fail."""
    run("""
import sys
for name in ("tensorflow", "tensorflow_datasets", "data_pipelines", "configs"):
    sys.modules[name] = None
import multimix_jax.commands.export, multimix_jax.commands.predict
from multimix_jax import *
""")


def test_a_bare_import_loads_little():
    loaded = run("import sys, multimix_jax; print(*sys.modules)").split()
    assert not {"jax", "tensorflow", "matplotlib", "scipy", "numpy"} & set(loaded)
