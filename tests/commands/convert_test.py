"""The command line; PyTorch files need PyTorch."""

import json
import pathlib
import pickle
import re
import sys

import numpy as np
import pytest

from multimix_jax.commands import convert
from tests.models.torch_weights_test import FILTERS, authors
from tests.small_runs import launch_main, prepare_phantoms, small_config

torch = pytest.importorskip("torch")
THEIRS = "theirs.pth"


@pytest.fixture
def folder(tmp_path):
    """Holds a PyTorch file, `theirs.pth`."""
    state = {name: torch.tensor(value) for name, value in authors().items()}
    torch.save(state, tmp_path / THEIRS)
    return tmp_path


@pytest.fixture
def run_command(monkeypatch, capsys):
    def run(*arguments):
        """Its one line on stderr, '' where all went well."""
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        try:
            convert.main()
        except SystemExit as stop:
            assert str(stop.code).startswith("error: ")
            return stop.code
        return capsys.readouterr().err

    return run


def test_there_and_back(folder, run_command):
    assert run_command(folder / THEIRS, folder / "out") == ""
    ours = folder / "ours.pth"
    assert run_command(folder / "out", ours, "--last") == ""
    back = torch.load(ours, weights_only=True)
    want = authors()
    assert set(back) == set(want)
    for name, value in want.items():
        np.testing.assert_array_equal(back[name], value)
    assert {path.name for path in folder.iterdir()} == {"theirs.pth", "out", "ours.pth"}


def test_converted_weights_are_evaluated(folder, run_command):
    """By launch.py, with the predictions that the same weights give in PyTorch's format."""
    prepare_phantoms(folder / "prepared")
    out = folder / "out"
    run_command(folder / THEIRS, out)
    config = small_config(folder / "prepared", **{"model.filters": FILTERS})
    launch_main(config, out, "eval")
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {"run", "last", "baseline"}
    assert "dice" in results["last"]["phantom_seg_a"]
    with pytest.raises(SystemExit, match="is not empty and holds no run"):
        launch_main(config, out, "train")


@pytest.mark.parametrize(
    ("strides", "words"),
    [
        ({"a": (0, 0)}, "a claims to be .*, more than the file holds"),
        ({"a": (1, 1), "b": (0, 0)}, "b claims to be .*, more than the file holds"),
    ],
)
def test_tensors_that_claim_more_than_is_there(strides, words, folder, run_command):
    """As expanded ones do: a few bytes would become any number of them."""
    few = torch.zeros(4)
    state = {
        name: torch.as_strided(few, (2**20, 2**20) if not any(s) else (2, 2), s)
        for name, s in strides.items()
    }
    torch.save(state, folder / THEIRS)
    message = run_command(folder / THEIRS, folder / "out")
    assert re.search(words, message)


def test_complex_tensors(folder, run_command):
    torch.save({"a": torch.zeros(2, dtype=torch.complex64)}, folder / THEIRS)
    assert "a holds complex numbers" in run_command(folder / THEIRS, folder / "out")


def test_a_file_of_other_weights_is_named(folder, run_command):
    torch.save({"a\nb": torch.zeros(2)}, folder / THEIRS)
    message = run_command(folder / THEIRS, folder / "out")
    assert re.search(r"theirs.pth holds not the weights .*; name a state dict of the", message)
    assert r"a\nb is surplus" in message


def test_nothing_but_tensors_is_read(folder, run_command):
    with (folder / THEIRS).open("wb") as file:
        pickle.dump({"encoder": pathlib.Path()}, file)
    message = run_command(folder / THEIRS, folder / "out")
    assert f"{folder / THEIRS} holds no PyTorch state dict" in message
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("absent.pth", "out", "absent.pth holds no PyTorch state dict .*No such file"),
        ("theirs.pth", ".", "exists already; name a new folder"),
        (".", "x.pth", "holds no checkpoints; name the folder of a run"),
        (".", "theirs.pth", "theirs.pth exists already, .* name a new file"),
        (".", "no/x.pth", "x.pth exists already, or its folder does not"),
    ],
)
def test_faults(source, target, words, folder, run_command):
    message = run_command(folder / source, folder / target)
    assert re.search(words, message)
    assert [path.name for path in folder.iterdir()] == ["theirs.pth"]


def test_the_best_of_converted_weights_is_not_known(folder, run_command):
    run_command(folder / THEIRS, folder / "out")
    message = run_command(folder / "out", folder / "x.pth")
    assert "holds no 'best' checkpoint; ask for the 'last' one" in message
