"""Tests of data_pipelines.sets.phantom3d."""

import numpy as np
from scipy import ndimage

from data_pipelines.sets import phantom3d


def test_the_same_every_time_and_never_the_same_twice():
    draw = lambda seed: phantom3d.draw(np.random.default_rng(seed))
    for ours, again in zip(draw(0), draw(0), strict=True):
        np.testing.assert_array_equal(ours, again)
    assert draw(0)[0].shape != draw(1)[0].shape or (draw(0)[0] != draw(1)[0]).any()


def test_an_atrium_that_brightness_alone_does_not_find():
    for seed in range(5):
        image, mask = phantom3d.draw(np.random.default_rng(seed))
        assert image.shape == mask.shape
        assert 0.01 < mask.mean() < 0.2
        assert ndimage.label(mask)[1] == 1
        assert image[mask].mean() > image[~mask].mean() + 1
        bright = image > image[mask].mean() - image[mask].std()
        dice = 2 * (bright & mask).sum() / (bright.sum() + mask.sum())
        assert dice < 0.8


def test_prepared(load_set):
    examples = load_set("phantom3d")
    counts = {split: int((examples.splits == split).sum()) for split in phantom3d.COUNTS}
    assert counts == phantom3d.COUNTS
    np.testing.assert_allclose(examples.spacing[0], phantom3d.SPACING)
