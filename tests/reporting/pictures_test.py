"""Tests of multimix_jax.reporting.pictures and observer."""

import dataclasses

import numpy as np
import pytest
from matplotlib import cbook
from PIL import Image

from multimix_jax.evaluation.evaluate import Predictions
from multimix_jax.names import Head
from multimix_jax.reporting import observer, pictures
from multimix_jax.runs.picture_files import Gallery, Picture, from_arrays, write_gallery


def test_from_the_worst_to_the_best_dice():
    dice = [0.5, 0.9, 0.2, 0.1, 0.7, 0.3]
    rows = [{"id": str(n), "dice": d} for n, d in enumerate(dice)]
    assert observer.instructive(rows, 3).tolist() == [3, 5, 1]
    assert observer.instructive(rows, 9).tolist() == [3, 2, 5, 0, 4, 1]
    assert observer.instructive(rows, 1).tolist() == [3]


def test_without_masks_by_the_probability_of_the_true_class():
    rows = [
        {"id": "x", "label": label, "probability_well": 1 - p, "probability_ill": p}
        for label, p in ((1, 0.4), (1, 0.9), (0, 0.9))
    ]
    assert observer.instructive(rows, 2).tolist() == [2, 1]
    assert observer.instructive([{"id": "unknown"}, *rows], 4).tolist() == [3, 1, 2, 0]


def test_images_without_a_mask_are_shown_too():
    """As many as with one, as far as there are any: with a class, and with nothing."""
    classes = {"label": 0, "probability_well": 0.5, "probability_ill": 0.5}
    rows = [{"id": "m", "dice": 0.9, **classes}] * 8 + [{"id": "c", **classes}] * 8
    rows += [{"id": "n"}] * 2
    shown = lambda count: "".join(rows[n]["id"] for n in observer.instructive(rows, count))
    assert [shown(count) for count in (1, 2, 4, 9)] == ["m", "mc", "mmcn", "mmmmcccnn"]
    assert len({*observer.instructive(rows, 18).tolist()}) == len(rows)
    assert observer.instructive([], 4).tolist() == []


def test_of_independent_classes_those_that_are_known_count():
    row = {"probability_a": 0.2, "probability_b": 0.7, "probability_c": 0.9, "label_a": 1.0}
    assert observer.of_truth(row | {"label_b": 0.0}) == {"a": 0.2, "not b": pytest.approx(0.3)}
    assert observer.of_truth({"probability_a": 0.2}) == {}


def test_pictures_with_and_without_a_truth_are_kept_apart(tmp_path):
    image, mask = np.full((8, 8, 1), 50, np.uint8), filled(1, 1, 4, 4)
    shown = [Picture("a", -1, image), Picture("b", -1, image, mask), Picture("c", -1, image)]
    write_gallery(tmp_path, Gallery("best", {"s": observer.gallery(shown, 4), "t": shown[:1]}))
    with np.load(tmp_path / "gallery.npz") as arrays:
        read = from_arrays(arrays)
    assert [one.truth is None for one in read["s"] + read["t"]] == [True, False, True, True]
    assert read["s"][1].truth.shape == (4, 4, 1) and read["s"][1].truth.any()


def test_caption():
    row = {"id": "test/i1", "dice": 0.87654, "hd": 3.0}
    assert observer.caption(row) == "i1\nDice 0.877"
    row |= {"label": 1, "probability_well": 0.75, "probability_ill": 0.25}
    assert observer.caption(row) == "i1\nDice 0.877\ntruth: ill (p = 0.25)"
    assert observer.caption({"id": "i1"}) == "i1"


def test_mosaic():
    rows = [
        [np.full((2, 3, 3), 10 * row + column, np.uint8) for column in range(4)] for row in range(2)
    ]
    joined = pictures.mosaic(rows)
    assert joined.shape == (4, 12, 3)
    np.testing.assert_array_equal(joined[::2, ::3, 0], [[0, 1, 2, 3], [10, 11, 12, 13]])


def test_a_mosaic_of_pictures_of_several_sizes():
    joined = pictures.mosaic([[np.ones((2, 3, 3)), np.ones((4, 1, 3))]])
    assert joined.shape == (4, 6, 3)
    assert joined[..., 0].sum() == 6 + 4


def test_slices_of_a_volume_lie_within_its_mask():
    mask = np.zeros((6, 5, 40, 1), bool)
    mask[2:4, 2:4, 10:31] = True
    shown = observer.slices(mask)
    assert [place for place, _ in shown] == [15, 20, 25]
    assert all(mask[at].shape == (6, 5, 1) and mask[at].any() for _, at in shown)
    assert [place for place, _ in observer.slices(0 * mask)] == [10, 20, 29]
    ((place, at),) = observer.slices(mask[:, :, 0])
    assert place == -1 and mask[:, :, 0][at].shape == (6, 5, 1)


def test_grey_of_floats():
    volume = np.linspace(-3, 5, 4 * 5 * 100).reshape(4, 5, 100, 1)
    grey = pictures.as_gray(volume)
    assert grey.dtype == np.uint8
    assert (grey.ravel()[[0, 20, -21, -1]] == [0, 0, 255, 255]).all()
    assert abs(int(grey.ravel()[1000]) - 127) <= 1
    np.testing.assert_array_equal(pictures.middle(volume), grey[:, :, 50])
    image = np.full((4, 4, 1), 7, np.uint8)
    assert pictures.middle(image) is image


def test_distances_are_blue_inside_and_red_outside():
    inside, boundary, outside = pictures.signed(np.array([-0.5, 0.0, 0.5]).reshape(1, 3, 1))[0]
    assert inside[2] > inside[0]
    assert outside[0] > outside[2]
    assert boundary.min() > 240


GREEN, ORANGE = (64, 220, 96), (255, 96, 32)


def ring(top, left, bottom, right, size=8):
    """The pixels of the outline of a rectangle, its corners among them."""
    outline = np.zeros((size, size), bool)
    outline[[top, bottom], left : right + 1] = True
    outline[top : bottom + 1, [left, right]] = True
    return outline


def filled(top, left, bottom, right):
    mask = np.zeros((8, 8, 1), bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def test_overlay_draws_outlines_and_leaves_the_rest():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    picture = pictures.overlay(image, truth=filled(1, 1, 4, 5), mask=filled(3, 3, 7, 7))
    expected = np.repeat(image, 3, axis=-1)
    expected[ring(1, 1, 4, 5)] = GREEN
    expected[ring(3, 3, 7, 7)] = ORANGE  # the prediction lies on top, and reaches the border
    np.testing.assert_array_equal(picture, expected)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(image[..., 0], np.arange(64).reshape(8, 8))


@pytest.mark.parametrize("empty", [None, np.zeros((8, 8, 1), bool)])
def test_overlay_of_nothing_is_the_image(empty):
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    picture = pictures.overlay(image, truth=empty, mask=empty)
    np.testing.assert_array_equal(picture, np.repeat(image, 3, axis=-1))


def test_overlay_outlines_every_channel():
    image = np.zeros((8, 8, 1), np.uint8)
    halves = np.concatenate([filled(1, 1, 4, 3), filled(1, 3, 4, 6)], axis=-1)
    green = (pictures.overlay(image, truth=halves) == GREEN).all(axis=-1)
    np.testing.assert_array_equal(green, ring(1, 1, 4, 3) | ring(1, 3, 4, 6))


def test_overlay_of_a_colour_image_keeps_its_colours():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(pictures.overlay(image), image)


def test_heat_runs_from_dark_to_bright():
    saliency = np.linspace(3, 5, 64).reshape(8, 8, 1)
    picture = pictures.heat(saliency)
    assert (picture.dtype, picture.shape) == (np.uint8, (8, 8, 3))
    brightness = picture.astype(int).sum(axis=-1).ravel()
    assert brightness[0] < 20
    assert brightness[-1] > 500
    assert (np.diff(brightness) >= 0).all()


def test_heat_spares_one_bright_pixel_and_a_constant():
    saliency = np.linspace(0, 1, 1024).reshape(32, 32, 1)
    saliency[0, 0] = 1000
    assert pictures.heat(saliency)[16, 16].sum() > 200  # not all dark beside it
    assert len(np.unique(pictures.heat(np.full((8, 8, 1), 0.25)))) <= 3


@pytest.mark.parametrize(
    "titles", [{}, {"columns": ["image", "truth"], "rows": ["a\nDice 0.9", "b"]}]
)
def test_grid_writes_a_picture(tmp_path, titles):
    grey, color = np.full((16, 16, 1), 128, np.uint8), np.full((16, 16, 3), (255, 0, 0), np.uint8)
    path = tmp_path / "figures" / "x.png"
    pictures.grid([[grey, color], [grey[..., 0]]], path, **titles)
    with Image.open(path) as image:
        width, height = image.size
        pixels = np.asarray(image.convert("RGB"))
    assert 300 < height <= width < 1000
    # Three squares, each an eighth of the picture or more.
    for value, least in (((128, 128, 128), 0.2), ((255, 0, 0), 0.1), ((255, 255, 255), 0.1)):
        assert (pixels == value).all(axis=-1).mean() > least


def test_panels_stand_in_the_order_of_the_heads():
    image, mask = np.full((8, 8, 1), 50, np.uint8), filled(1, 1, 4, 4)
    picture = Picture(
        "a",
        -1,
        image,
        truth=mask,
        masks={Head.MASK_AVERAGE: mask, Head.MASK: filled(2, 2, 5, 5)},
        distance=np.full((8, 8, 1), 0.5),
        saliency=np.linspace(0, 1, 64).reshape(8, 8, 1),
    )
    shown = pictures.panels(picture)
    titles = ["image", "truth", "prediction", "prediction, average", "distance", "saliency"]
    assert list(shown) == titles
    assert all((one.shape, one.dtype) == ((8, 8, 3), np.uint8) for one in shown.values())
    np.testing.assert_array_equal((shown["prediction"] == ORANGE).all(-1), ring(2, 2, 5, 5))
    assert (shown["truth"] == GREEN).all(-1).any() and not (shown["image"] == GREEN).all(-1).any()


def test_a_table_is_white_where_there_is_no_truth():
    image, mask = np.full((8, 8, 1), 50, np.uint8), filled(1, 1, 4, 4)
    without = Picture("a", -1, image, None, {Head.MASK: mask})
    titles, rows = pictures.table([without, dataclasses.replace(without, truth=mask)])
    assert titles == ["image", "truth", "prediction"]
    assert (rows[0][1] == 255).all() and not (rows[1][1] == 255).all()
    assert (rows[1][1] == GREEN).all(-1).any()


class Volumes:
    """A set of two volumes of different sizes."""

    name, affines = "la", None

    def __init__(self):
        rng = np.random.default_rng(0)
        self.all = [rng.normal(size=(8, 8, depth, 1)).astype(np.float32) for depth in (9, 30)]

    def images(self, indices):
        return [self.all[index] for index in indices]


def test_pictures_of_predictions_for_volumes():
    volumes = Volumes()
    truths = [np.zeros(volume.shape, bool) for volume in volumes.all]
    truths[1][2:5, 2:5, 10:31] = True
    predictions = Predictions(
        ids=["a", "b"],
        masks={"mask": truths, "mask_sdf": truths},
        truths=truths,
        has_mask=np.array([False, True]),
        classes=None,
        labels=np.full(2, -1),
        spacing=np.zeros((2, 3)),
        distance=[np.zeros(volume.shape, np.float16) for volume in volumes.all],
    )
    shown = list(observer.of_predictions(volumes, predictions, np.array([1, 0])))
    assert [(one.id, one.slice) for one in shown[:3]] == [("b", 15), ("b", 20), ("b", 24)]
    assert [one.truth is None for one in shown] == [False] * 3 + [True] * 3
    gray = pictures.as_gray(volumes.all[1])
    np.testing.assert_array_equal(shown[0].image, gray[:, :, 15])
    np.testing.assert_array_equal(shown[0].masks[Head.MASK_SDF], truths[1][:, :, 15])
    assert shown[0].distance.shape == (8, 8, 1)
    kept = observer.examples(volumes, predictions, 6)
    assert {one.id for one in kept} == {"b"}
    small = observer.gallery(shown[:3], side=4)
    assert [one.image.shape for one in small] == [(4, 4, 1)] * 3
    assert small[0].distance is None


def test_dollars_are_no_formula(tmp_path):
    gray = np.full((16, 16, 1), 128, np.uint8)
    titles = {"columns": [r"$\frac$"], "rows": ["$x"]}
    pictures.grid([[gray]], tmp_path / "x.png", **titles, corners=[[r"$\y$"]])


@pytest.mark.parametrize("text", ["a$", "$a$ b", r"a\$b$", "_x", "a\nb", ""])
def test_a_text_is_drawn_as_it_is(text):
    shown = pictures.plain(text)
    assert not cbook.is_math_text(shown)
    assert shown.replace(r"\$", "$") == text


def test_a_long_name_is_shortened_in_the_middle():
    shown = pictures.plain("b" * 200 + "\n" + "a" * 200 + "7")
    assert [len(line) for line in shown.split("\n")] == [60, 60]
    assert shown.endswith("a7") and "a…a" in shown


def test_names_of_files_lead_nowhere_else():
    assert pictures.file_name("../a b/$c:ü_1.5") == ".._a_b_c_ü_1.5"


def test_numbers_are_legible_on_any_film(tmp_path):
    """White on black, also where the film is white; names lie beside their own picture."""
    white = np.full((16, 16, 1), 255, np.uint8)
    rows = ["long_name_of_a_film_" * 3] * 2
    pictures.grid([[white]] * 2, tmp_path / "x.png", corners=[["0.905"]] * 2, rows=rows)
    with Image.open(tmp_path / "x.png") as image:
        dark = (np.asarray(image.convert("L")) < 100).nonzero()
    assert len(dark[0]) > 300
    assert pictures._within(rows[0]).count("\n") == 2
