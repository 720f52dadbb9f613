"""Drawn films: repeatable, with lungs where lungs are, and two hospitals that differ."""

import numpy as np
import pytest
from scipy import ndimage

from data_pipelines.sets.phantom import PLANS, Phantom, draw

SIZE = 96


def _films(hospital, opacity=False, count=8, size=SIZE):
    films = [
        draw(np.random.default_rng([7, i]), size=size, hospital=hospital, opacity=opacity)
        for i in range(count)
    ]
    images, lungs = zip(*films, strict=True)
    return np.stack(images), np.stack(lungs)


@pytest.fixture(scope="module", params=["a", "b"])
def hospital(request):
    return request.param


def test_a_film_is_a_function_of_the_generator(hospital):
    first, second = _films(hospital, count=2), _films(hospital, count=2)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert np.mean(np.abs(first[0][0] - first[0][1])) > 2


def test_types_and_ranges(hospital):
    images, lungs = _films(hospital, count=2)
    assert images.shape == lungs.shape == (2, SIZE, SIZE)
    assert images.dtype == np.float32
    assert lungs.dtype == np.bool_
    assert images.min() >= 0
    assert images.max() <= 255
    assert images.std() > 20


def test_masks_are_two_lungs_left_and_right(hospital):
    for lungs in _films(hospital, count=20)[1]:
        assert 0.1 < lungs.mean() < 0.5
        parts, count = ndimage.label(lungs)
        sizes = np.sort(ndimage.sum_labels(lungs, parts, np.arange(1, count + 1)))[::-1]
        assert sizes[:2].sum() > 0.99 * lungs.sum()
        assert sizes[1] > 0.3 * sizes[0]
        (_, x0), (_, x1) = ndimage.center_of_mass(lungs, parts, np.argsort(-sizes)[:2] + 1)
        assert min(x0, x1) < SIZE / 2 < max(x0, x1)


def test_lungs_are_darker_than_the_tissue_between_and_below(hospital):
    for image, lungs in zip(*_films(hospital), strict=True):
        middle = lungs.any(axis=1) & (image.max(axis=1) > 0)
        columns = slice(int(0.45 * SIZE), int(0.55 * SIZE))
        between = image[middle, columns][~lungs[middle, columns]]
        assert image[lungs].mean() < 0.8 * between.mean()


def test_opacities_brighten_lungs_and_leave_the_rest(hospital):
    clear, lungs = _films(hospital)
    sick, same = _films(hospital, opacity=True)
    np.testing.assert_array_equal(lungs, same)
    np.testing.assert_array_equal(clear[~lungs], sick[~lungs])
    assert np.all(sick >= clear - 1e-3)
    for before, after, mask in zip(clear, sick, lungs, strict=True):
        assert after[mask].mean() > before[mask].mean() + 5


def test_the_size_changes_the_sampling_only(hospital):
    small, large = _films(hospital, count=4, size=64), _films(hospital, count=4, size=128)
    shrunk = large[1].reshape(4, 64, 2, 64, 2).mean(axis=(2, 4)) > 0.5
    overlap = 2 * np.sum(shrunk & small[1]) / (np.sum(shrunk) + np.sum(small[1]))
    assert overlap > 0.97


def test_hospitals_differ():
    area, contrast = {}, {}
    for name in "ab":
        images, lungs = _films(name, count=24)
        area[name] = lungs.mean()
        contrast[name] = np.mean(images[~lungs]) / np.mean(images[lungs])
    assert area["a"] > 1.2 * area["b"]
    assert contrast["a"] > 1.1 * contrast["b"]


def test_mean_brightness_does_not_give_the_class_away():
    clear, _ = _films("a", count=60, size=64)
    sick = np.stack(
        [
            draw(np.random.default_rng([8, i]), size=64, hospital="a", opacity=True)[0]
            for i in range(60)
        ]
    )
    area = np.mean(sick.mean(axis=(1, 2))[:, None] > clear.mean(axis=(1, 2)))  # AUROC
    assert area < 0.75


@pytest.mark.parametrize(
    "task, hospital, counts",
    [
        ("seg", "a", (110, 10, 40)),
        ("seg", "b", (0, 0, 60)),
        ("cls", "a", (500, 60, 120)),
        ("cls", "b", (0, 0, 120)),
    ],
)
def test_find_lists_the_set(task, hospital, counts, tmp_path):
    builder = Phantom(task=task, hospital=hospital, size=32, prepared_dir=str(tmp_path))
    sources = builder.find([])
    assert sources == builder.find([])
    assert len({source.id for source in sources}) == len(sources)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        listed = [source for source in sources if source.split == split]
        assert len(listed) == count
        if task == "seg":
            assert {source.label for source in listed} <= {-1}
        elif count:
            share = np.mean([source.label for source in listed])
            assert 0.6 <= share <= 0.7 if split == "train" else 0.4 < share < 0.75
    images = np.unique([source.group for source in sources], return_counts=True)[1]
    assert set(images.tolist()) == ({1, 2} if task == "cls" else {1})
    for group in {source.group for source in sources}:
        assert len({(s.split, s.label) for s in sources if s.group == group}) == 1


def test_reading_does_not_depend_on_the_other_images(tmp_path):
    builder = Phantom(task="cls", hospital="b", size=32, prepared_dir=str(tmp_path))
    source = builder.find([])[5]
    first, mask, _ = builder.read(source)
    np.testing.assert_array_equal(first, builder.read(source)[0])
    assert mask is None


@pytest.mark.parametrize("task, names", [("seg", ()), ("cls", ("normal", "pneumonia"))])
def test_loads_through_the_builder(load_set, task, names, monkeypatch):
    plan = PLANS[task, "a"]._replace(train=5, val=2, test=3)
    monkeypatch.setitem(PLANS, (task, "a"), plan)
    examples = load_set(f"phantom_{task}_a", size=32)
    assert examples.name == f"phantom_{task}_a"
    assert examples.label_spec.class_names == names
    assert np.unique(examples.splits, return_counts=True)[1].tolist() == [3, 5, 2]
    assert examples.ids == sorted(examples.ids)
    assert set(examples.labels.tolist()) <= ({0, 1} if task == "cls" else {-1})
    assert np.all(examples.has_mask == (task == "seg"))
    pixels = examples.fetch(np.arange(10))
    assert pixels["image"].shape == pixels["mask"].shape == (10, 32, 32, 1)
    covered = pixels["mask"].mean(axis=(1, 2, 3))
    assert np.all((covered > 0.1) & (covered < 0.5) if task == "seg" else covered == 0)
    assert pixels["image"].std() > 20
