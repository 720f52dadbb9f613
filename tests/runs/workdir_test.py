"""Tests of multimix_jax.runs.workdir."""

import json
import os
from types import SimpleNamespace

import pytest

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.labels import LabelSpec
from multimix_jax.runs import workdir
from multimix_jax.runs.spec import free_fields
from multimix_jax.runs.trained_model import read_labels

CONFIG = {
    "steps": 10,
    "seg_labels": "10",
    "data_dir": "a",
    "model": {"filters": (4, 8), "rate": 0.1},
    "objective": {"threshold": 0.7},
}
DATA = SimpleNamespace(
    ids={"train": {"seg/labeled": ["i0"]}},
    label_spec=LabelSpec(("well", "ill")),
    contents={"images": "abc", "masks": "def"},
)


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has begun."""
    path = workdir.check(tmp_path / "runs" / "one", CONFIG, DATA.contents)
    workdir.claim(path, CONFIG, DATA)
    return path


def test_a_claimed_folder_says_whose_it_is(run):
    assert json.loads((run / "config.json").read_text())["steps"] == 10
    assert json.loads((run / "ids.json").read_text()) == DATA.ids
    assert read_labels(run) == DATA.label_spec
    names = ["config.json", "contents.json", "ids.json", "labels.json"]
    assert sorted(os.listdir(run)) == names


def test_checking_writes_nothing(tmp_path):
    assert workdir.check(str(tmp_path / "new"), CONFIG, DATA.contents) == tmp_path / "new"
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_may_be_used(tmp_path):
    assert workdir.check(tmp_path, CONFIG, DATA.contents) == tmp_path


def test_the_same_config_goes_on(run):
    assert workdir.check(run, CONFIG, DATA.contents) == run
    assert workdir.check(run, CONFIG, DATA.contents, begin=False) == run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 20}, r"another config: steps \(10 there, 20 here\); use another --workdir"),
        ({"model": {"filters": (4, 8), "rate": 0.2}}, r": model\.rate \(0\.1 there, 0\.2 here\)"),
        (
            {"model": {"filters": (4,), "rate": 0.1}},
            r": model\.filters \(\[4, 8\] there, \[4\] her",
        ),
        ({"extra": 1}, r": extra \(None there, 1 here\)"),
        ({"seg_labels": 10}, r": seg_labels \('10' there, 10 here\)"),
    ],
)
def test_another_config_is_refused(run, change, message):
    with pytest.raises(UsageError, match=message) as error:
        workdir.check(run, CONFIG | change, DATA.contents)
    assert str(error.value).startswith(f"--workdir={run} holds the run of another config: ")


@pytest.mark.parametrize("key", list(free_fields()))
def test_what_does_not_change_the_run_may_differ(run, key):
    assert workdir.check(run, CONFIG | {key: "other"}, DATA.contents) == run
    assert workdir.check(run, CONFIG | {key: {"nested": "other"}}, DATA.contents) == run


def test_other_own_files_are_refused_wherever_they_lie(run):
    with pytest.raises(UsageError, match="of other files than .*: masks; use another --workdir"):
        workdir.check(run, CONFIG, DATA.contents | {"masks": "ghi"})


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(UsageError, match=r"is not empty and holds no run .*another --workdir"):
        workdir.check(tmp_path, CONFIG, DATA.contents)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for begin, message in ((True, r"file is a file; use the path of a folder"), (False, "no run")):
        with pytest.raises(UsageError, match=message):
            workdir.check(tmp_path / "file", CONFIG, DATA.contents, begin=begin)


@pytest.mark.parametrize("exists", [True, False])
def test_where_no_run_may_begin_there_must_be_one(tmp_path, exists):
    path = tmp_path if exists else tmp_path / "absent"
    with pytest.raises(UsageError, match=rf"--workdir={path} holds no run; train one with --mode"):
        workdir.check(path, CONFIG, DATA.contents, begin=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b'{"steps": 10, "mod', b"\x89PNG\r\n\xff\xfe", b"[10]", b"[" * 100_000]
)
def test_a_damaged_config_is_named(run, content):
    (run / "config.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"config\.json is damaged \(.*--workdir"):
        workdir.check(run, CONFIG, DATA.contents)


def test_a_config_that_is_nested_deep_is_another_or_damaged(run):
    for depth in range(900, 1000):  # what can be read may be too deep to compare
        (run / "config.json").write_text('{"a":' * depth + "1" + "}" * depth)
        with pytest.raises(UsageError, match="--workdir"):
            workdir.check(run, CONFIG, DATA.contents)


def test_a_config_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"holds no run \(config\.json cannot be read: File name"):
        workdir.read_config(tmp_path / ("a" * 300))


@pytest.mark.parametrize(
    "content", [b"", b"3", b'{"run": 3}', b'{"run": {"last": [10]}}', b"[" * 100_000, b"\xff"]
)
def test_damaged_results_are_none(run, content):
    (run / "results.json").write_bytes(content)
    assert workdir.finished(run, 10) is None


def test_a_bucket_is_no_folder():
    with pytest.raises(UsageError, match="--workdir=gs://b/run is .*mount it as a folder"):
        workdir.check("gs://b/run", CONFIG, DATA.contents)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    atomic.write_json(path, {"a": [1, 2]})
    with pytest.raises(TypeError):
        atomic.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    atomic.write_json(path, None)
    assert path.read_text() == "null\n"
    assert os.listdir(tmp_path) == ["x.json"]
