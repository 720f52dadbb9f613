"""Tests of configs/grid.py and of running its cells."""

import pytest

from configs import common, consistency, dtml, grid, multimix
from multimix_jax.commands.train import run_all
from multimix_jax.errors import UsageError


def names(arguments):
    return list(grid.cells(grid.get_config(arguments)))


def test_every_published_system_with_three_seeds():
    cells = grid.cells(grid.get_config("size=64"))
    assert len(cells) == 3 * len(multimix.ALL) == 24
    assert {c.system for c in cells.values()} == set(multimix.ALL)
    assert {c.seed for c in cells.values()} == {0, 1, 2}
    assert {c.size for c in cells.values()} == {64}


def test_a_budget_that_a_system_does_not_use_makes_no_run():
    assert names("systems=unet+enc+umtl,budgets=100/10+100/all,seeds=4") == [
        "unet_10masks_seed4",
        "unet_allmasks_seed4",
        "enc_100labels_seed4",
        "umtl_100labels_10masks_seed4",
        "umtl_100labels_allmasks_seed4",
    ]


def test_a_cell_is_the_config_of_its_system():
    c = grid.get_config("systems=umtl_ssl,budgets=1000/50,seeds=7,size=32")
    c.steps, c.model.dropout_rate = 17, 0.1  # as --config.steps=17 does
    (cell,) = grid.cells(c).values()
    want = multimix.get_config("method=umtl_ssl,seg_labels=50,cls_labels=1000,seed=7,size=32")
    want.steps, want.model.dropout_rate = 17, 0.1
    assert cell.to_dict() == want.to_dict()
    assert cell.is_locked


def test_a_grid_of_another_experiment():
    arguments = "experiment=dtml,data=la,filters=8,steps=120,budgets=16+8,seeds=0+1"
    cells = grid.cells(grid.get_config(arguments))
    assert len(cells) == 2 * 2 * len(dtml.ALL)
    for name, method, masks in (
        ("mean_teacher_16masks_seed1", "mean_teacher", 16),
        ("dtml_8masks_seed1", "dtml", 8),
    ):
        want = f"data=la,filters=8,steps=120,method={method},seg_labels={masks},seed=1"
        assert cells[name].to_dict() == dtml.get_config(want).to_dict()


def test_a_grid_of_the_recipe():
    cells = grid.cells(grid.get_config("experiment=consistency,size=64,budgets=1000/50,seeds=2"))
    assert [c.system for c in cells.values()] == list(consistency.ALL)
    want = consistency.get_config(
        "method=consistency_no_spatial,size=64,cls_labels=1000,seg_labels=50,seed=2"
    )
    assert cells["consistency_no_spatial_1000labels_50masks_seed2"].to_dict() == want.to_dict()
    c = grid.get_config("experiment=consistency,systems=consistency,seeds=0")
    c.steps = 200  # what hangs on it follows
    (cell,) = grid.cells(c).values()
    assert cell.to_dict() == consistency.get_config("steps=200").to_dict()
    assert (cell.eval_every, cell.objective.ramp_up, cell.schedule.warmup_steps) == (50, 40, 12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("systems=unet+net", "method='net' is unknown; use one of unet, enc"),
        ("budgets=10-20", "budget '10-20' is not of the form LABELS/MASKS"),
        ("experiment=unet", "experiment='unet' is unknown; use one of multimix, dtml"),
        ("size=64,depth=3", "'depth=3' is unknown; use key=value with"),
        ("budgets=100/ten", "budget '100/ten' is not"),
        ("seeds=0-2", "seed '0-2' is not a whole number"),
        ("seeds=", "seed '' is not a whole number"),
    ],
)
def test_faulty_lists(arguments, words):
    with pytest.raises(common.ConfigError, match=words):
        grid.get_config(arguments)


CELLS = {"a": 1, "b": 2, "c": 3}


def test_one_cell(tmp_path, capsys):
    seen = []
    run_all(CELLS, tmp_path, lambda *arguments: seen.append(arguments), errors=(), only=2)
    assert seen == [(3, tmp_path / "c")]
    assert "cell 2 of 0 to 2: c" in capsys.readouterr().out
    for place in (-1, 3):
        with pytest.raises(UsageError, match=f"--cell={place}, but the grid's cells are 0 to 2"):
            run_all(CELLS, tmp_path, None, errors=(), only=place)


def test_each_runs_in_its_folder(tmp_path):
    seen = []
    run_all(CELLS, tmp_path, lambda *arguments: seen.append(arguments), errors=())
    assert seen == [(config, tmp_path / name) for name, config in CELLS.items()]


def test_one_that_fails_keeps_none_from_running(tmp_path):
    seen = []

    def run(config, path):
        seen.append(config)
        if config < 3:
            raise ValueError(f"no {config}")

    with pytest.raises(UsageError, match="2 of 3 runs failed: a: no 1; b: no 2"):
        run_all(CELLS, tmp_path, run, errors=(ValueError,))
    assert seen == [1, 2, 3]
    with pytest.raises(ValueError):  # a defect of ours is not passed over
        run_all(CELLS, tmp_path, run, errors=(KeyError,))


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file; use the path of a folder"):
        run_all(CELLS, tmp_path / "file", None, errors=())


def test_the_folder_of_a_single_run_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a single run"):
        run_all(CELLS, tmp_path, lambda *_: None, errors=())
