"""Tests of benchmarks.prediction: what is left out is left out, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import prediction
from multimix_jax.labels import LabelSpec
from multimix_jax.models.multimix import normalize
from multimix_jax.names import Checkpoint, Head
from multimix_jax.runs.trained_model import read_model
from tests.random_runs import write_run
from tests.small_runs import prepare_phantoms, small_config

FIELDS = dict(flips=True, keep_largest=1, test_data="phantom_seg_a=test,phantom_cls_a=test")
LEFT_OUT = ["no flips", "all components of a mask", "saliency of zeros"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs `multimix` and `enc` of random weights, and their data."""
    folder = tmp_path_factory.mktemp("prediction")
    prepare_phantoms(folder)
    for system in ("multimix", "enc"):
        config = small_config(folder, system, **FIELDS)
        write_run(folder / system, config, labels=LabelSpec(("well", "ill")))
    return folder


def test_predictors(folder):
    model = read_model(folder / "multimix", Checkpoint.BEST)
    predictors = prediction.predictors(model)
    assert list(predictors) == ["as configured", *LEFT_OUT]
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1)).astype(np.uint8)
    answers = {name: p([model.variables], images) for name, p in predictors.items()}
    own, flat = answers["as configured"], answers["no flips"]
    predict = jax.jit(model.network.predict)
    want, mirrored = (predict(model.variables, x) for x in (images, images[:, :, ::-1]))
    np.testing.assert_allclose(flat[Head.MASK], want[Head.MASK], atol=1e-5)
    flipped_back = mirrored[Head.MASK][:, :, ::-1]
    np.testing.assert_allclose(own[Head.MASK], (want[Head.MASK] + flipped_back) / 2, atol=1e-5)

    zeros = answers["saliency of zeros"]
    np.testing.assert_allclose(zeros[Head.CLASSES], own[Head.CLASSES], rtol=1e-5)
    assert np.abs(zeros[Head.MASK] - own[Head.MASK]).max() > 1e-4
    network, params = model.network.model, {"params": model.variables["params"]}

    @jax.jit
    def without_saliency(images):
        x = normalize(images)
        features = network.apply(params, x, method="encode")
        return network.apply(params, x, features, jnp.zeros_like(x), method="segment")

    halves = [without_saliency(images), without_saliency(images[:, :, ::-1])[:, :, ::-1]]
    want = np.mean([1 / (1 + np.exp(-half)) for half in halves], axis=0)
    np.testing.assert_allclose(zeros[Head.MASK], want, atol=1e-5)

    two = np.zeros((6, 6, 1))
    two[0, :2] = two[3:, 3:] = 1
    areas = [predictors[name].masks(two).sum() for name in ("as configured", LEFT_OUT[1])]
    assert areas == [9, 11]


def test_rows(folder):
    rows = prediction.compare(folder / "multimix", None, quick=False)
    cases = ["as configured", *LEFT_OUT, "no moving average"]
    assert [row.case for row in rows if "dice" in row.case] == [
        f"multimix, phantom_seg_a dice, {case}" for case in cases
    ]
    assert [row.case.split()[2] for row in rows if "cls_a" in row.case] == [
        "accuracy,",
        "auroc,",
    ] * len(cases)
    assert all(row.ratio == row.ours - row.peer for row in rows)
    assert all(row.ratio == 0 for row in rows if "as configured" in row.case)
    assert any(row.ratio for row in rows if "dice, no flips" in row.case)


def test_classes_alone(folder):
    model = read_model(folder / "enc", Checkpoint.BEST)
    assert list(prediction.predictors(model)) == ["as configured", "no flips"]


def test_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["prediction", str(tmp_path)])
    with pytest.raises(SystemExit, match=f"error: .*{tmp_path.name}"):
        prediction.main()
