"""Tests of benchmarks.prediction: what is left out is left out, and nothing else."""

import jax
import numpy as np
import pytest

from benchmarks import prediction
from multimix_jax.objectives import ConsistencyObjective
from tests import tiny


def test_ways():
    objective = ConsistencyObjective(tiny.model(dropout_rate=0.0), mirror=True)
    ways = prediction.ways(objective, 2)
    assert list(ways) == [
        "as configured",
        "no mirror image",
        "all parts of a mask",
        "saliency of zeros",
    ]
    assert [parts for _, parts in ways.values()] == [2, 2, 0, 2]
    variables = {"params": tiny.variables(objective.model)["params"]}
    images = tiny.batch()["seg/labeled"]["image"]
    said = {name: jax.jit(way.predict)(variables, images) for name, (way, _) in ways.items()}
    whole, blind = said["as configured"], said["saliency of zeros"]
    assert np.abs(whole["mask"] - blind["mask"]).max() > 1e-4
    # Two programs, whose sums may be taken in another order.
    np.testing.assert_allclose(whole["classes"], blind["classes"], rtol=1e-6)
    assert np.abs(whole["mask"] - said["no mirror image"]["mask"]).max() > 1e-4
    np.testing.assert_array_equal(whole["mask"], said["all parts of a mask"]["mask"])


def test_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["prediction", str(tmp_path)])
    with pytest.raises(SystemExit, match=f"error: .*{tmp_path.name}"):
        prediction.main()
