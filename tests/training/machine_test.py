"""Tests of multimix_jax.training.machine."""

import os
import subprocess
import sys
from unittest import mock

import jax
import pytest

from multimix_jax.training import machine


def flags_after(before, version):
    with (
        mock.patch.dict(os.environ, {"XLA_FLAGS": before}),
        mock.patch.object(jax.lib, "__version__", version),
    ):
        machine.set_xla_flags()
        return os.environ["XLA_FLAGS"]


@pytest.mark.parametrize("version", ["0.10.0", "0.12.0.1"])
def test_added_to_those_of_the_user(version):
    flags = flags_after("--xla_a=1", version)
    assert flags.split()[0] == "--xla_a=1"
    assert flags.split()[1].partition("=")[2] == "LIBRARY_FUSION_TYPE_REDUCE"


@pytest.mark.parametrize("version", ["0.9.2", "0.13.0", "1.0.0"])
def test_versions_that_may_not_know_the_flag(version):
    assert flags_after("--xla_a=1", version) == "--xla_a=1"


def test_the_user_decides():
    flags = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
    assert flags_after(flags, "0.10.2") == flags


def test_without_a_home_nothing_is_kept(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    config = mock.Mock(jax_compilation_cache_dir=None)
    with mock.patch.object(machine.jax, "config", config):
        machine.keep_compiled()
    config.update.assert_not_called()
    said = capsys.readouterr().err
    assert said.startswith(f"compiled programs are not kept: XDG_CACHE_HOME={tmp_path}/file/")
    assert said.count("\n") == 1


def test_this_jaxlib_takes_it():
    code = (
        "from multimix_jax.training import machine; machine.set_xla_flags(); import jax; "
        "print(jax.numpy.ones(()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "1.0", run.stderr
