"""Tests of multimix_jax.runs.spec."""

import pytest

from configs import common, consistency, dtml, folder, multimix
from multimix_jax.errors import UsageError
from multimix_jax.inference.windows import Windows
from multimix_jax.runs.spec import RunSpec, free_fields, parse_tests


def config(**fields):
    c = common.get_config()
    c.update_from_flattened_dict(fields)
    return c.to_dict()


@pytest.mark.parametrize(
    "c",
    [
        common.get_config(),
        consistency.get_config(),
        dtml.get_config(),
        dtml.get_config("data=jsrt,network=unet"),
        folder.get_config("images=a,masks=b"),
        multimix.get_config(),
    ],
)
def test_every_config_has_a_spec(c):
    spec = RunSpec.of_config(c.to_dict())
    assert (spec.system, spec.training.steps) == (c.system, c.steps)
    assert spec.cadence.eval_every == c.eval_every
    assert spec.training.optimizer.name == c.optimizer.name
    assert spec.prediction.flips == (c.method == "consistency")
    assert (spec.objective.method, dict(spec.objective.model)) == (c.method, c.model.to_dict())


def test_windows():
    assert RunSpec.of_config(config()).prediction.windows is None
    patches = {"window.patch": (8, 8), "window.stride": (4, 4)}
    assert RunSpec.of_config(config(**patches)).prediction.windows == Windows((8, 8), (4, 4))


def test_lists_of_a_file_are_those_of_a_config():
    fields = config(**{"window.patch": (8, 8), "window.stride": (4, 4)})
    assert RunSpec.of_config(fields | {"window": {**fields["window"], "patch": [8, 8]}}) == (
        RunSpec.of_config(fields)
    )


def test_what_may_differ_between_two_starts():
    assert set(free_fields()) == {
        *("data_dir", "folder", "prepared_dir", "exclude", "cache_gib", "test_data"),
        *("log_every", "grace_period"),
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps=0, but it must be 1 or more; set --config.steps"),
        ({"eval_every": -1}, "eval_every=-1, but it must be 1 or more"),
        ({"keep_largest": -2}, "keep_largest=-2, but it must be -1 or more"),
        ({"grace_period": float("inf")}, "grace_period=inf, but it must be 0 or more"),
        ({"grace_period": float("nan")}, "grace_period=nan"),
        ({"seed": 2**32}, r"seed=4294967296, but it must be below 2\^32"),
        ({"test_data": "jsrt"}, "test_data='jsrt' is not a list of name=split"),
        ({"window.batch_size": 0}, "window.batch_size=0, but it must be 1 or more"),
    ],
)
def test_what_is_out_of_range_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        RunSpec.of_config(config(**fields))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "many"}, "steps='many' is not a whole number; set --config.steps"),
        ({"flips": 1}, "flips=1 is not True or False"),
        ({"model": 3}, "model=3 is not a section of fields"),
        ({"window": {}}, r"config\.window\.patch is missing"),
        ({"speed": 1}, r"config\.speed is unknown; see configs/common\.py"),
        (
            {"folder": {"images": "", "masks": "", "labels": "", "mask_values": "", "x": 1}},
            r"config\.folder\.x is unk",
        ),
    ],
)
def test_fields_that_are_none_or_of_another_type(change, message):
    with pytest.raises(UsageError, match=message):
        RunSpec.of_config(config() | change)


def test_a_missing_field():
    fields = config()
    del fields["size"]
    with pytest.raises(UsageError, match=r"config\.size is missing; see configs/common\.py"):
        RunSpec.of_config(fields)


def test_splits_of_test_sets():
    assert parse_tests(" jsrt=test, mcu=all ,") == {"jsrt": "test", "mcu": "all"}
    assert parse_tests("") == {}
