"""Grids of small runs, as a user starts them."""

import json
from unittest import mock

import pytest

from configs import grid, quickstart
from data_pipelines.streams import TrainingStreams
from multimix_jax.runs.programs import make_programs
from tests.small_runs import NETWORK, launch_main, metrics_of

ARGUMENTS = "systems=enc+umtl,budgets=10/5,seeds=0+1,size=32"
CELLS = [
    "enc_10labels_seed0",
    "enc_10labels_seed1",
    "umtl_10labels_5masks_seed0",
    "umtl_10labels_5masks_seed1",
]
FIELDS = {
    **{"seg_data": "phantom_seg_a", "cls_data": "phantom_cls_a"},
    "test_data": "phantom_seg_a=test,phantom_cls_b=all",
    **{"batch_size": 4, "eval_batch_size": 8, "model.filters": NETWORK},
    **{"steps": 8, "log_every": 1, "eval_every": 4, "checkpoint_every": 2},
}


@pytest.fixture(scope="module")
def config(prepared):
    c = grid.get_config(ARGUMENTS)
    c.update_from_flattened_dict({**FIELDS, "prepared_dir": str(prepared)})
    return c.lock()


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of a grid that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "grid"
    make_programs.cache_clear()
    launch_main(config, workdir)
    return workdir


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_each_cell_is_a_run_of_its_own(whole):
    assert sorted(path.name for path in whole.iterdir()) == CELLS
    for name in CELLS:
        held = json.loads((whole / name / "config.json").read_text())
        assert name == "_".join(
            [held["system"], "10labels"]
            + ["5masks"] * (held["system"] == "umtl")
            + [f"seed{held['seed']}"]
        )
        assert "phantom_cls_b" in json.loads((whole / name / "results.json").read_text())["last"]


def test_seeds_share_what_is_compiled(whole):
    made = make_programs.cache_info()
    assert (made.misses, made.hits) == (2, 2)  # one for each of two systems
    results = [
        json.loads((whole / name / "results.json").read_text())["last"]["phantom_cls_b"]["auroc"]
        for name in CELLS[:2]
    ]
    assert results[0] != results[1]


def test_a_finished_grid_is_left_alone(whole, config, capsys):
    before = times(whole)
    made = make_programs.cache_info()
    launch_main(config, whole)
    out = capsys.readouterr().out
    assert out.count("is finished; its results:") == len(CELLS)
    assert f"cell 3 of 0 to 3: {CELLS[3]}" in out
    assert times(whole) == before
    assert make_programs.cache_info() == made  # no data opened, nothing compiled


def test_a_cell_of_a_single_run_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="--cell=1 is for grids"):
        launch_main(quickstart.get_config().lock(), tmp_path, cell=1)


def test_one_cell(whole, config, tmp_path):
    launch_main(config, tmp_path, cell=1)
    assert [path.name for path in tmp_path.iterdir()] == [CELLS[1]]
    assert metrics_of(tmp_path / CELLS[1]) == metrics_of(whole / CELLS[1])
    for name in ("per_image.csv", "config.json"):
        ours, theirs = tmp_path / CELLS[1] / name, whole / CELLS[1] / name
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_interrupted_in_the_second_cell_and_started_again(whole, config, tmp_path):
    """The rest is done; what is there at the end is what an undisturbed grid leaves."""
    batches = TrainingStreams.batches
    begun = []

    def interrupted(*args):
        begun.append(args)
        for step, batch in enumerate(batches(*args)):
            # Each cell draws its first batch for a figure, and then those to train on.
            if len(begun) == 4 and step == 3:
                raise KeyboardInterrupt
            yield batch

    with mock.patch.object(TrainingStreams, "batches", interrupted):
        with pytest.raises(KeyboardInterrupt):
            launch_main(config, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == CELLS[:2]
    first = times(tmp_path / CELLS[0])
    assert not (tmp_path / CELLS[1] / "results.json").exists()
    launch_main(config, tmp_path)
    assert times(tmp_path / CELLS[0]) == first
    for cell in CELLS:
        assert metrics_of(tmp_path / cell) == metrics_of(whole / cell)
        for name in ("per_image.csv", "ids.json"):
            assert (tmp_path / cell / name).read_bytes() == (whole / cell / name).read_bytes()


def test_a_cell_that_cannot_be_run_keeps_none_from_running(config, tmp_path):
    c = config.copy_and_resolve_references().unlock()
    c.grid.budgets, c.grid.seeds = "10/99+10/5", "0"
    with pytest.raises(SystemExit) as stop:
        launch_main(c.lock(), tmp_path)
    assert stop.value.code.startswith("error: 1 of 3 runs failed: umtl_10labels_99masks_seed0: ")
    assert "seg_labels=99" in stop.value.code
    done = sorted(path.parent.name for path in tmp_path.glob("*/results.json"))
    assert done == ["enc_10labels_seed0", "umtl_10labels_5masks_seed0"]
