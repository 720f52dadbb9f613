"""Tests of multimix_jax.inference.predictor, on runs of random weights."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dtml
from multimix_jax.errors import UsageError
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.inference.predictor import Member, PredictionSpec, Predictor
from multimix_jax.labels import LabelSpec
from multimix_jax.models.bridge import saliency_map
from multimix_jax.models.multimix import normalize
from multimix_jax.names import Checkpoint
from multimix_jax.runs.trained_model import read_model, read_models
from tests.random_runs import write_run, write_runs
from tests.small_runs import small_config

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs `a`, `b` and `unet`."""
    folder = tmp_path_factory.mktemp("predictor")
    write_runs(folder, SIZE)
    return folder


def predict(folder, *names, calibrations=None, places=range(3), **options):
    """Predictions for three images by networks together, those by each alone, and the images."""
    models = [read_model(folder / name, Checkpoint.BEST) for name in names]
    images = np.random.default_rng(3).integers(0, 256, (3, SIZE, SIZE, 1)).astype(np.uint8)
    members = [model.member for model in models]
    if calibrations is not None:
        members = [
            dataclasses.replace(member, calibration=calibration)
            for member, calibration in zip(members, calibrations, strict=True)
        ]
    variables = [model.variables for model in models]
    together = Predictor(members, **options)
    each = jax.jit(lambda x: [m.network.predict(m.variables, x) for m in models])
    places = np.array(places)
    return together(variables, images[: len(places)], places), each, images


def test_one_network_alone(folder):
    predictions, each, images = predict(folder, "a", saliency="gradient")
    (want,) = each(images)
    assert set(predictions) == {"mask", "classes", "saliency"}
    for name, values in want.items():
        np.testing.assert_allclose(predictions[name], values, atol=1e-6)
    model = read_model(folder / "a", Checkpoint.BEST)
    score = lambda x: model.network.class_logits(model.variables, x)
    saliency = jax.jit(lambda x: saliency_map(score, normalize(x)))(images)
    np.testing.assert_allclose(predictions["saliency"], saliency, rtol=1e-4, atol=1e-7)


def test_several_predictions_are_averaged_and_compared(folder):
    predictions, each, images = predict(folder, "a", "b", compare_flips=True)
    mirrored = [
        {"mask": answer["mask"][:, :, ::-1], "classes": answer["classes"]}
        for answer in each(images[:, :, ::-1])
    ]
    for name in ("mask", "classes"):
        every = np.stack([prediction[name] for prediction in [*each(images), *mirrored]])
        np.testing.assert_allclose(predictions[name], every.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(predictions[f"{name}_spread"], every.std(axis=0), atol=1e-6)
        if name == "mask":
            masks, together = every >= 0.5, every.mean(axis=0) >= 0.5
    dices = [
        [2 * (m & t).sum() / (m.sum() + t.sum()) for m, t in zip(mask, together)] for mask in masks
    ]
    want = 1 - np.mean(dices, axis=0)
    assert want.max() > 0
    np.testing.assert_allclose(predictions["mask_disagreement"][:, 0], want, atol=1e-5)


def test_a_member_with_flips_gives_one_answer_or_two(folder, tmp_path):
    """The mean of both would agree with itself."""
    write_run(tmp_path / "run", small_config(folder, size=SIZE, flips=True))
    predictions, *_ = predict(tmp_path, "run", compare_flips=True)
    assert (predictions["classes_spread"] > 0).all() and predictions["mask_disagreement"].max() > 0
    plain, *_ = predict(tmp_path, "run")
    assert set(plain) == {"mask", "classes"}
    for name in ("mask", "classes"):
        np.testing.assert_allclose(predictions[name], plain[name], atol=1e-6)


def sides_of(variables, images, keys):
    """A network that knows left and right: of the image, and of what is bright in it."""
    left = jnp.broadcast_to(jnp.arange(4) < 2, images.shape[:3])
    brighter = jnp.stack([images[:, :, :2].mean((1, 2, 3)), images[:, :, 2:].mean((1, 2, 3))], -1)
    return {
        "mask": jnp.stack([left, ~left], -1).astype(float),
        "classes": jax.nn.softmax(brighter),
    }


BRIGHT_LEFT = np.zeros((1, 4, 4, 1), np.uint8)
BRIGHT_LEFT[:, :, :2] = 200


@pytest.mark.parametrize("fields", [dict(flips=True), dict(compare=True), dict(flips=False)])
def test_left_and_right_are_each_in_their_own_place(fields):
    labels = LabelSpec(
        ("left", "right"), False, ("L", "R"), mirrored=(("left", "right"), ("L", "R"))
    )
    spec = PredictionSpec(flips=fields.get("flips", False))
    member = Member(SimpleNamespace(predict=sides_of), spec, labels=labels)
    predictions = Predictor([member], compare_flips="compare" in fields)([()], BRIGHT_LEFT)
    np.testing.assert_array_equal(predictions["mask"][0, 0], [[1, 0], [1, 0], [0, 1], [0, 1]])
    np.testing.assert_allclose(predictions["classes"], [[1, 0]], atol=1e-6)


def test_what_has_no_counterpart_is_not_mirrored():
    labels = LabelSpec(mask_names=("left", "heart"), mirrored=(("left", ""),))
    member = Member(SimpleNamespace(predict=sides_of), PredictionSpec(flips=True), labels=labels)
    predictions = Predictor([member])([()], BRIGHT_LEFT)
    np.testing.assert_array_equal(predictions["mask"][0, 0], [[1, 0], [1, 0], [0, 1], [0, 1]])
    with pytest.raises(UsageError, match=r"one side alone \(config.mirrored: left=\); leave"):
        Predictor([member], compare_flips=True)


def test_members_of_other_pairs_do_not_answer_together(tmp_path):
    for name, pairs in (("one", ()), ("other", (("left", "right"),))):
        labels = LabelSpec(("left", "right"), mirrored=pairs)
        write_run(tmp_path / name, small_config(tmp_path, "enc", size=SIZE), labels=labels)
    with pytest.raises(UsageError, match="other cannot answer together"):
        read_models([tmp_path / "one", tmp_path / "other"], Checkpoint.BEST)
    assert read_models([tmp_path / "other"], Checkpoint.BEST)[0].member.labels == labels


def test_empty_masks_agree():
    predict = lambda probability, images, keys: {"mask": jnp.full(images.shape, probability)}
    together = Predictor([Member(SimpleNamespace(predict=predict))] * 2)
    for probabilities, disagreement in (((0.0, 0.0), 0.0), ((1.0, 0.0), 0.5)):
        predictions = together(probabilities, np.zeros((1, 4, 4, 1), np.uint8))
        assert predictions["mask_disagreement"].tolist() == [[disagreement]]


def test_each_member_has_its_own_calibration(folder):
    calibrations = [Calibration(1.0, 0.2), Calibration(4.0, 0.4)]
    predictions, each, images = predict(folder, "a", "b", calibrations=calibrations)
    one, other = (answer["classes"] for answer in each(images))
    want = (one + jax.nn.softmax(jnp.log(other) / 4)) / 2
    np.testing.assert_allclose(predictions["classes"], want, atol=1e-6)


def test_dropout(folder):
    """Each draw has its own, which belongs to the image and not to its batch."""
    predictions, *_ = predict(folder, "a", draws=3)
    assert (predictions["classes_spread"] > 0).all()
    alone, *_ = predict(folder, "a", draws=3, places=[0])
    np.testing.assert_allclose(alone["mask"], predictions["mask"][:1], atol=1e-6)
    others, *_ = predict(folder, "a", draws=3, places=[2, 1, 0])
    assert not np.allclose(others["mask"], predictions["mask"], atol=1e-4)
    np.testing.assert_allclose(others["mask"][1], predictions["mask"][1], atol=1e-6)


def test_masks_keep_their_largest_components():
    probabilities = np.zeros((6, 6, 1))
    probabilities[:3, :3], probabilities[5, 5] = 0.9, 0.5
    member = lambda keep: Member(None, PredictionSpec(keep_largest=keep))
    count = lambda keep: Predictor([member(keep)]).masks(probabilities).sum()
    assert (count(0), count(1), count(-1)) == (10, 9, 10)
    organ = dataclasses.replace(member(-1), labels=LabelSpec(components=(1,)))
    assert Predictor([organ]).masks(probabilities).sum() == 9


@pytest.mark.parametrize("kind", ["smoothgrad", "integrated"])
def test_kinds_of_saliency(folder, kind):
    predictions, _, images = predict(folder, "a", saliency=kind)
    assert predictions["saliency"].shape == images.shape
    assert predictions["saliency"].min() >= 0 and predictions["saliency"].max() > 0
    plain, *_ = predict(folder, "a", saliency="gradient")
    assert not np.allclose(predictions["saliency"], plain["saliency"])
    assert set(predict(folder, "unet", saliency=kind)[0]) == {"mask"}


def test_two_networks_that_teach_each_other(tmp_path):
    """The mask is that of the first network; the others are averaged as well."""
    c = dtml.get_config(f"data=jsrt,filters=4,size={SIZE}")
    c.model.convolutions = (1, 1)
    write_run(tmp_path / "run", c)
    predictions, each, images = predict(tmp_path, "run", draws=2)
    assert {"mask_spread", "mask_disagreement"} == set(predictions) - set(each(images)[0])
    plain, each, images = predict(tmp_path, "run")
    (want,) = each(images)
    assert set(plain) == set(want) == {"mask", "mask_sdf", "mask_average", "distance"}
    for name, values in want.items():
        np.testing.assert_allclose(plain[name], values, atol=1e-6)
