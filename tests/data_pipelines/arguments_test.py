"""Tests of data_pipelines.arguments; that of the paths of configs is with launch.py's."""

import pytest

from data_pipelines.arguments import RENAMED, with_packaged
from data_pipelines.errors import DataError
from tests.data_pipelines.audit_test import run_audit


@pytest.mark.parametrize("old", RENAMED)
@pytest.mark.parametrize("form", ["--{}=x", "-{}=x", "--{}"])
def test_what_was_called_otherwise(old, form):
    with pytest.raises(DataError, match=rf"-{old} is no flag any more; {RENAMED[old]}$"):
        with_packaged(["--config=configs/multimix.py", form.format(old), "x"])


@pytest.mark.parametrize("form", [["--config={}"], ["--config", "{}:method=x"]])
def test_a_config_that_was_called_otherwise(form):
    with pytest.raises(DataError, match="configs/best.py is no config any more; use configs/cons"):
        with_packaged([part.format("configs/best.py") for part in form])


def test_values_are_not_flags():
    arguments = ["--config.data_dir", "fix_list", "--config.excluded=config.leave_out"]
    assert with_packaged(arguments) == arguments


def test_the_audit_says_so_in_one_line():
    result = run_audit("--config=configs/multimix.py", "--fix_list=a.csv")
    assert result.returncode == 1
    assert result.stderr == "error: --fix_list is no flag any more; use --exclude_list\n"
