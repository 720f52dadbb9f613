"""Tests of multimix_jax.inference.sets."""

import jax.numpy as jnp
import numpy as np
import pytest

from multimix_jax.evaluation.evaluate import measure
from multimix_jax.evaluation.geometry import largest_components
from multimix_jax.inference.sets import Baseline, predict_set
from multimix_jax.labels import VOID, LabelSpec
from multimix_jax.names import Head
from tests.small_runs import listed


class Predicts:
    """Stands in for a `Predictor`, given what it predicts."""

    def __init__(self, predict, keep_largest=0):
        self.predict, self.keep_largest = predict, keep_largest

    def __call__(self, variables, images):
        return self.predict(variables, images)

    def masks(self, probabilities):
        return largest_components(probabilities >= 0.5, self.keep_largest)


def predict(variables, images):
    """Masks the rows that `listed` masks, and is surer of class 1 the brighter the image."""
    images = jnp.asarray(images, jnp.float32)
    grey = images[:, 0, 0, 0]
    rows = jnp.arange(16.0)[None, :, None, None]
    mask = jnp.where(rows < grey[:, None, None, None], variables, 0.1)
    ill = grey / 255
    return {
        "mask": jnp.broadcast_to(mask, images.shape),
        "classes": jnp.stack([1 - ill, ill], axis=-1),
    }


def predicted(outputs=("mask", "classes"), *, batch_size=3, variables=0.5):
    examples = listed(9, labels=[n % 2 for n in range(9)], has_mask=[n > 1 for n in range(9)])
    eval_set = examples.take(np.array([7, 1, 5, 8, 0, 3, 2]))
    some = Predicts(lambda v, images: {name: predict(v, images)[name] for name in outputs})
    return predict_set(some, variables, eval_set, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 8])
def test_every_image_is_predicted_once_and_in_order(batch_size):
    found = predicted(batch_size=batch_size)
    greys = np.array([7, 1, 5, 8, 0, 3, 2])
    assert found.ids == [f"i{n:02d}" for n in greys]
    np.testing.assert_array_equal(found.labels, greys % 2)
    np.testing.assert_array_equal(found.has_mask, greys > 1)
    np.testing.assert_allclose(found.classes[:, 1], greys / 255, rtol=1e-6)
    np.testing.assert_array_equal(found.truths.sum(axis=(1, 2, 3)), greys * 16)
    np.testing.assert_array_equal(found.masks["mask"], found.truths)
    assert found.masks["mask"].dtype == found.truths.dtype == np.bool_
    assert found.spacing.shape == (7, 2)


def test_the_same_answer_to_every_image():
    answer = {Head.MASK: np.eye(4)[..., None], Head.CLASSES: np.array([0.25, 0.75])}
    same = Baseline(answer)((), np.zeros((3, 4, 4, 1), np.uint8))
    np.testing.assert_array_equal(same[Head.MASK], [answer[Head.MASK]] * 3)
    np.testing.assert_array_equal(same[Head.CLASSES], [answer[Head.CLASSES]] * 3)


def test_a_pixel_is_masked_from_one_half_on():
    assert predicted(variables=0.5).masks["mask"].any()
    assert not predicted(variables=0.4999).masks["mask"].any()


def test_a_model_may_have_one_output_only():
    assert predicted(["mask"]).classes is None
    assert predicted(["classes"]).masks == {}


class Volumes:
    """Two volumes of different sizes; a ball of ones and a stray voxel in each."""

    name, label_spec, ids = "v", LabelSpec(), ["a", "b"]
    spacing = np.array([[1, 1, 2], [0, 0, 0]], np.float32)

    def batches(self, batch_size):
        for sides in ((8, 9, 10), (9, 8, 12)):
            image = np.zeros((1, *sides, 1), np.float32)
            image[:, 2:6, 2:6, 2:6] = 1
            truth = image.astype(np.uint8)
            image[:, -1, -1, -1] = 1
            yield {
                **{"image": image, "mask": truth, "has_mask": np.ones(1, bool)},
                **{"label": np.full(1, -1), "valid": np.ones(1, bool)},
            }


@pytest.mark.parametrize("keep_largest", [0, 1])
def test_volumes(keep_largest):
    predict = lambda variables, images: {"mask": images, "distance": 1 - 2 * images}
    found = predict_set(Predicts(predict, keep_largest), (), Volumes(), batch_size=7)
    assert [mask.shape for mask in found.masks["mask"]] == [(8, 9, 10, 1), (9, 8, 12, 1)]
    assert found.distance[1].shape == (9, 8, 12, 1)
    _, rows = measure(found, class_names=())
    want = 1 if keep_largest else 2 * 64 / (2 * 64 + 1)
    assert [row["dice"] for row in rows] == pytest.approx([want, want])
    assert "hd95_mm" in rows[0] and "hd95_mm" not in rows[1]
    if not keep_largest:  # from the far corner to the ball
        assert rows[0]["hd_mm"] == pytest.approx(np.linalg.norm([2, 3, 4 * 2]))


class Void(Volumes):
    """Of the first volume one slice is void, of the second all."""

    label_spec = LabelSpec(void=True)

    def batches(self, batch_size):
        for index, batch in enumerate(super().batches(batch_size)):
            batch["mask"][:, :, :, 2 if index == 0 else slice(None)] = VOID
            yield batch


def test_void_pixels_are_not_inside():
    predict = lambda variables, images: {"mask": images}
    found = predict_set(Predicts(predict), (), Void(), batch_size=7)
    assert found.truths[0].sum() == 4 * 4 * 3 and found.voids[0].sum() == 8 * 9
    assert found.has_mask.tolist() == [True, False]  # of the second no pixel is known
    _, rows = measure(found, class_names=())
    assert rows[0]["dice"] == pytest.approx(2 * 48 / (2 * 48 + 1)) and "dice" not in rows[1]


def test_the_same_answer_is_stretched_over_volumes():
    mask = np.arange(8.0).reshape(2, 4, 1, 1)
    same = Baseline({Head.MASK: mask})((), np.zeros((1, 4, 2, 3, 1)))[Head.MASK]
    np.testing.assert_array_equal(same[0, :, :, 2, 0], [[0, 2], [0, 2], [4, 6], [4, 6]])
