"""What the tests of the data sets share."""

import pytest

import data_pipelines


@pytest.fixture
def load_set(tmp_path):
    """Opens the set of a name, below the test's folder, prepared at 16 pixels in `prepared/`."""

    def load(name, **options):
        defaults = dict(data_dir=tmp_path, prepared_dir=str(tmp_path / "prepared"), size=16)
        return data_pipelines.load(name, **(defaults | options))

    return load
