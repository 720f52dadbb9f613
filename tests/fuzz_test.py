"""Damaged files of every kind: each is refused in one clear message, or read rightly."""

import importlib.util

import pytest

from tests import fuzz_targets, fuzzing

NAMES = [name for name in fuzz_targets.TARGETS if name != "faulty"]
FEW = dict.fromkeys(NAMES, 100)


def check(name, report):
    """No input of a target was found to be read wrongly, and some were read at all."""
    lines = [line for line in report if line["target"] == name]
    findings = [f"{line['input']}: {line['failure']}" for line in lines if "failure" in line]
    assert not findings, "\n".join(findings[:20])
    (sums,) = lines
    assert sums["read"] > 0


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """One process for all, since beginning takes it longest."""
    has_torch = importlib.util.find_spec("torch") is not None
    counts = {name: few for name, few in FEW.items() if name != "torch" or has_torch}
    return fuzzing.watch(tmp_path_factory.mktemp("fuzz"), counts)


@pytest.mark.parametrize("name", NAMES)
def test_some_inputs(short, name):
    if name == "torch":
        pytest.importorskip("torch")
    check(name, short)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_inputs(tmp_path, name):
    if name == "torch":
        pytest.importorskip("torch")
    check(name, fuzzing.watch(tmp_path, {name: 10_000}))


def test_whatever_goes_wrong_is_found(tmp_path):
    *findings, sums = fuzzing.watch(tmp_path, {"faulty": len(fuzz_targets.FAULTS)}, hang=8)
    found = {fuzz_targets.FAULTS[line["number"]]: line["failure"] for line in findings}
    expected = {
        "crash": "crashed with status -6",
        "hang": "hung for 8 s",
        "warn": "UserWarning: odd",
        "leave": "left behind",
        "memory": "MiB of memory",
        "vague": "a sound file is refused: no",
        "refuse": "a sound file is refused",
        "other": "KeyError",
    }
    assert set(found) == set(expected)
    for fault, words in expected.items():
        assert words in found[fault]
    for line in findings:
        with open(line["input"], "rb") as file:
            assert file.read() == fuzz_targets.FAULTS[line["number"]].encode()
    assert sums["read"] > 0
