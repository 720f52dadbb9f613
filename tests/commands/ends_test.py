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

OF_ABSL = ("multimix-train", "multimix-audit")


def assert_an_example(name, text):
    command = "python launch.py" if name == "multimix-train" else name
    assert re.search(rf"\b{re.escape(command)} \S+", text)


def entry_points():
    found = re.findall(r'"(multimix-\w+) = ([\w.]+):(\w+)"', (ROOT / "setup.py").read_text())
    assert len(found) >= 6
    return [pytest.param(name, module, function, id=name) for name, module, function in found]


@pytest.mark.parametrize(("name", "module", "function"), entry_points())
def test_help_has_an_example(name, module, function, capsys):
    module = importlib.import_module(module)
    if name in OF_ABSL:  # whose flags are of the process
        assert_an_example(name, module.__doc__)
        return
    with mock.patch.object(sys, "argv", [name, "--help"]), pytest.raises(SystemExit) as stop:
        getattr(module, function)()
    assert stop.value.code == 0
    assert_an_example(name, capsys.readouterr().out)


@pytest.mark.parametrize("name", ["launch", "data_pipelines.audit", "multimix_jax.commands.report"])
def test_where_nobody_reads_the_output(name, tmp_path):
    argument = write_run(tmp_path, "unet", 0) if name.endswith("report") else "--help"
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", name, argument]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.stderr.decode() == ""
    assert done.returncode in (141, -13)  # of which a shell makes 141


def test_a_file_that_the_system_keeps_from_a_command_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: \S+absent: No such file.*; correct") as stop:
        with ends_quietly():
            (tmp_path / "absent").read_text()
    assert "\n" not in stop.value.code


@pytest.mark.parametrize(
    ("name", "arguments", "flag"),
    [
        ("convert", ["{}", "{}/x"], "target"),
        ("export", ["{}", "{}/x"], "out"),
        ("report", ["{}", "--out={}"], "--out"),
        ("report", ["{}", "--json={}/x"], "--json"),
    ],
)
def test_where_nothing_can_be_written_a_command_says_so_at_once(name, arguments, flag, tmp_path):
    file = tmp_path / "file"
    file.touch()
    argv = ["command", *(argument.format(file) for argument in arguments)]
    module = importlib.import_module(f"multimix_jax.commands.{name}")
    expected = rf"^error: {flag}={file}(/x)? cannot be written \(Not a directory: {file}\)"
    with mock.patch.object(sys, "argv", argv), pytest.raises(SystemExit, match=expected):
        module.main()


def test_other_ends_are_left_alone(capsys):
    with pytest.raises(ValueError), ends_quietly():
        raise ValueError
    with pytest.raises(SystemExit) as stop, ends_quietly():
        sys.exit("error: some")
    assert stop.value.code == "error: some"
