"""Holds the arrows: which package may import which."""

import ast
import pathlib
import re
import subprocess
import sys

from absl.testing import absltest, parameterized

import multimix_jax

ROOT = pathlib.Path(multimix_jax.__file__).parents[1]
OURS = ("configs", "data_pipelines", "multimix_jax", "launch", "tests", "benchmarks")


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


def imported(file):
    """Top-level packages of every import statement of a file, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Relative ones stay within the package.
            yield file.relative_to(ROOT).parts[0] if node.level else node.module.split(".")[0]


class ArrowsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("multimix_jax", {"tensorflow", "tensorflow_datasets", *OURS} - {"multimix_jax"}),
        ("data_pipelines", {"jax", "flax", "optax", "dm_pix", *OURS} - {"data_pipelines"}),
    )
    def test_never_imports(self, package, forbidden):
        self.assertNotEmpty(files(package))
        for file in files(package):
            # Its command reads image files as data preparation does; its functions take arrays.
            allowed = {"data_pipelines"} if file.name == "predict.py" else set()
            self.assertEmpty((forbidden & set(imported(file))) - allowed, file)

    def test_configs_are_values(self):
        for file in files("configs"):
            others = set(imported(file)) - sys.stdlib_module_names
            self.assertLessEqual(others, {"ml_collections", "configs"}, file)

    @parameterized.parameters(
        ("orbax", "checkpoint.py", "parallel.py"),
        ("matplotlib", "figures.py", "plots.py"),
        ("torch", "convert.py"),
        ("nibabel", "nifti.py"),
    )
    def test_few_files_import(self, package, *owners):
        users = [file.name for file in files("multimix_jax") if package in imported(file)]
        self.assertEqual(users, [*owners])

    def test_one_file_knows_devices(self):
        word = re.compile(r"\b(pmap|shard_map|NamedSharding|make_mesh)\b\(")
        users = [
            f.name for f in files("multimix_jax") if word.search(f.read_text(encoding="utf-8"))
        ]
        self.assertEqual(users, ["parallel.py"])


class PublicNamesTest(absltest.TestCase):
    def test_all_is_what_it_says(self):
        self.assertEqual(multimix_jax.__all__, sorted(multimix_jax.__all__))
        for name in multimix_jax.__all__:
            self.assertTrue(hasattr(multimix_jax, name), name)

    def test_imports_without_tensorflow(self):
        """In a process of its own; None makes an import fail."""
        program = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "data_pipelines", "configs"):
    sys.modules[name] = None
import multimix_jax, multimix_jax.export, multimix_jax.predict
from multimix_jax import *
"""
        result = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
        )
        self.assertEqual(result.returncode, 0, result.stderr)


if __name__ == "__main__":
    absltest.main()
