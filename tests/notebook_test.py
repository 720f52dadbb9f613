"""The learning notebook runs, and its outputs are those of a run.

python -m tests.notebook_test

runs it at its full length, in a minute or two, and keeps the outputs.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "learn.ipynb"
LIMIT = 400_000  # bytes, of a file that every clone has
# A third of the images, since drawing them takes long.
FEWER = {
    ("seg", "a"): dict(train=60, val=10, test=20),
    ("seg", "b"): dict(train=0, val=0, test=20),
    ("cls", "a"): dict(train=150, val=20, test=60),
    ("cls", "b"): dict(train=0, val=0, test=40),
}
# Fewer steps of a smaller network, since compiling takes most of the time.
SHORTER = {
    "STEPS = 150": "STEPS = 100",
    "SIZE = 48": "SIZE = 32",
    "FILTERS = (16, 32, 64, 128, 256)": "FILTERS = (8, 16)",
}


def read(file: pathlib.Path = NOTEBOOK) -> nbformat.NotebookNode:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: pathlib.Path) -> None:
    """Runs all cells in this interpreter's own kernel; one that raises raises here."""
    # No folder to look for kernels in leaves that of the running interpreter.
    manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=900,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    own = {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT)}
    client.execute(env={**os.environ, **own})


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in code(notebook) for output in cell.outputs]


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def results(notebook: nbformat.NotebookNode) -> dict[tuple[str, str], Mapping[str, float]]:
    """The table of the last code cell, by test set and metric."""
    (output,) = code(notebook)[-1].outputs
    lines = output.data["text/markdown"].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert table[0] == ["test set", "metric", "baseline", "MultiMix", "95 % interval"]
    return {
        (row[0], row[1]): {"baseline": float(row[2]), "MultiMix": float(row[3])}
        for row in table[2:]
    }


def check_results(notebook: nbformat.NotebookNode) -> None:
    found = results(notebook)
    sets = {"seg": ("dice",), "cls": ("accuracy", "auroc")}
    assert set(found) == {
        (f"phantom_{task}_{hospital}", metric)
        for task, metrics in sets.items()
        for metric in metrics
        for hospital in "ab"
    }
    for row, gain in ((("phantom_seg_a", "dice"), 0.0), (("phantom_cls_a", "auroc"), 0.05)):
        assert found[row]["MultiMix"] > found[row]["baseline"] + gain, row


def test_runs(tmp_path):
    from tests.small_runs import prepare_phantoms  # not for the process that only runs the notebook

    notebook = read()
    (parameters,) = [cell for cell in code(notebook) if cell.source.startswith("STEPS")]
    for old, new in SHORTER.items():
        assert parameters.source.count(old) == 1
        parameters.source = parameters.source.replace(old, new)
    prepare_phantoms(tmp_path / "prepared", FEWER)
    prepared = 0
    for cell in code(notebook):
        there = repr(str(tmp_path / "prepared"))
        cell.source, count = re.subn(r"folder / .prepared.", there, cell.source)
        prepared += count
        cell.outputs = []
    assert prepared == 2
    file = tmp_path / NOTEBOOK.name
    nbformat.write(notebook, file)
    # With one device, as a user starts it, but compiled in a hurry.
    env = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_backend_optimization_level=1"}
    # In a process of its own, since nbclient leaves sockets to the garbage collection.
    command = [sys.executable, "-m", "tests.notebook_test", str(file)]
    ran = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    notebook = read(file)
    check_results(notebook)
    pictured = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert len(pictured) == 6
    assert not [output for output in outputs(notebook) if output.get("name") == "stderr"]


def test_committed_outputs_are_of_a_whole_run():
    notebook = read()
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert all(
        output.output_type in ("display_data", "stream", "execute_result")
        for output in outputs(notebook)
    )
    check_results(notebook)
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) == 6


def test_committed_file_is_small_and_tells_nothing_of_where_it_ran():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text.encode()) < LIMIT
    notebook = read()
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}
    assert not any(cell.metadata for cell in notebook.cells)
    said = [
        output.get("text", "")
        + "".join(str(v) for k, v in output.get("data", {}).items() if not k.startswith("image/"))
        for output in outputs(notebook)
    ]
    for line in "\n".join(said).splitlines():
        assert not re.search(r"(?<![\w.])(/\w+/|[A-Za-z]:\\|~/)", line), line


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)", NOTEBOOK.read_text(encoding="utf-8")))
def test_links_lead_somewhere(link):
    assert (NOTEBOOK.parent / link).exists()


def main(file: pathlib.Path) -> None:
    notebook = read(file)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, pathlib.Path(folder))
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, file)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK)
