"""Tests of multimix_jax.commands.ends, and of what all commands have in common."""

import importlib
import os
import re
import subprocess
import sys
from unittest import mock

import pytest

from multimix_jax.commands.ends import ends_quietly
from tests.finished_runs import write_run
from tests.small_runs import ROOT

OF_ABSL = ("launch", "data_pipelines.audit")
OF_ARGPARSE = tuple(
    f"multimix_jax.commands.{name}" for name in ("convert", "export", "predict", "report")
)


def assert_an_example(name, text):
    words = "python launch.py" if name == "launch" else f"multimix-{name.rpartition('.')[2]}"
    assert re.search(rf"\b{re.escape(words)} \S+", text)


def test_these_are_all_commands():
    modules = re.findall(r'"multimix-\w+ = ([\w.]+):', (ROOT / "setup.py").read_text())
    assert sorted(modules) == sorted([*OF_ABSL, *OF_ARGPARSE])


@pytest.mark.parametrize("name", OF_ARGPARSE)
def test_help_has_an_example(name, capsys):
    with mock.patch.object(sys, "argv", [name, "--help"]), pytest.raises(SystemExit) as stop:
        importlib.import_module(name).main()
    assert stop.value.code == 0
    assert_an_example(name, capsys.readouterr().out)


@pytest.mark.parametrize("name", OF_ABSL)
def test_help_of_absl_has_an_example(name):
    assert_an_example(name, importlib.import_module(name).__doc__)


@pytest.mark.parametrize("name", [*OF_ABSL, "multimix_jax.commands.report"])
def test_where_nobody_reads_the_output(name, tmp_path):
    argument = "--help" if name in OF_ABSL else write_run(tmp_path, "unet", 0)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", name, argument]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.stderr.decode() == ""
    assert done.returncode in (141, -13)  # of which a shell makes 141


def test_other_ends_are_left_alone(capsys):
    with pytest.raises(ValueError), ends_quietly():
        raise ValueError
    with pytest.raises(SystemExit) as stop, ends_quietly():
        sys.exit("error: some")
    assert stop.value.code == "error: some"
