"""Masks, class probabilities and saliency of image files, by trained networks.

    multimix-predict runs/quickstart scan.png --out OUT
    multimix-predict runs/a images/ --out OUT --ensemble runs/b runs/c --flips

OUT holds predictions.csv, masks/ at the size of each image, overlays/, saliency/ and, where several
answers were averaged, disagreement/.
"""

import argparse
import csv
import dataclasses
import itertools
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from multimix_jax.commands.quiet import ends_quietly
from multimix_jax.errors import UsageError
from multimix_jax.evaluation import geometry
from multimix_jax.inference.predictor import SALIENCY, Predict, make_predictor
from multimix_jax.inference.trained_model import TrainedModel, add_which, read_model
from multimix_jax.reporting import pictures as figures
from multimix_jax.runs import workdir
from multimix_jax.training import parallel

Fit = Callable[[np.ndarray], tuple[np.ndarray, tuple[slice, slice]]]

BATCH = 8
FEW = 16  # images up to which quick compilation is worth slower programs
OVERLAY_SIDE = 1024  # pixels; larger films are shown smaller


@dataclasses.dataclass(frozen=True)
class Item:
    """A file, and what there is of it: `values` and the network's answer, or `error`.

    Attributes:
      name: of what is written of it, a path without suffix.
      path: where it was read.
      values: float32 [H,W] or [H,W,3] of 0 to 255, at the size of the file.
      answer: arrays of `make_predictor`, for this image.
      inside: rows and columns of these that the image covers.
      error: why it could not be read; '' if it could.
    """

    name: str
    path: pathlib.Path
    values: np.ndarray | None = None
    answer: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    inside: tuple[slice, slice] = (slice(None), slice(None))
    error: str = ""


def predict_items(
    items: Iterable[Item],
    models: Sequence[TrainedModel],
    predict: Predict,
    *,
    fit: Fit,
    batch_size: int,
    few: bool = False,
    seed: int = 0,
) -> Iterator[Item]:
    """Adds the answers, in batches; items that could not be read are passed on.

    Args:
      items: read files.
      models: trained at one side.
      predict: of `make_predictor`.
      fit: values of an item -> uint8 [S,S,C], as the training images were fitted, and the rows and
        columns of these that they cover.
      batch_size: images at once.
      few: whether the time to compile matters more than that of an image.
      seed: of dropout and noise: what an image gets depends on it and the image's place alone.
    """
    variables = [model.variables for model in models]
    key = jax.random.key(seed)
    quick = {"xla_backend_optimization_level": 0} if few and jax.default_backend() == "cpu" else {}
    compiled = jax.jit(predict, compiler_options=quick)
    numbered = enumerate(items)
    while batch := list(itertools.islice(numbered, batch_size)):
        there = [(n, item, item.values) for n, item in batch if item.values is not None]
        answered: dict[int, Item] = {}
        if there:
            # The last batch is filled up, since another size would be compiled anew.
            fill = [there[i % len(there)] for i in range(batch_size)]
            fitted = [fit(values) for _, _, values in fill]
            images = np.stack([image for image, _ in fitted])
            places = jnp.array([n for n, _, _ in fill])
            found = jax.device_get(
                compiled(variables, images, jax.vmap(jax.random.fold_in, (None, 0))(key, places))
            )
            for row, (n, item, _) in enumerate(there):
                answer = {name: values[row] for name, values in found.items()}
                answered[n] = dataclasses.replace(item, answer=answer, inside=fitted[row][1])
        for n, item in batch:
            yield answered.get(n, item)


@dataclasses.dataclass(frozen=True)
class Style:
    """How answers are told.

    Attributes:
      class_names, mask_names: in the order of the probabilities; where there are none, numbers.
      threshold: on the probability of class 1 of two, or of each independent class; None: the most
        probable class is named, or each from .5 on.
      exclusive: whether an image has one class; else any, each by itself.
      components: how many parts of each mask are kept, the largest; 0 for all.
    """

    class_names: Sequence[str] = ()
    mask_names: Sequence[str] = ()
    threshold: float | None = None
    exclusive: bool = True
    components: int = 0

    def name_class(self, probabilities: np.ndarray, names: Sequence[str]) -> str:
        """The class of an image; of independent ones those that are there, joined by "|"."""
        if not self.exclusive:
            cut = 0.5 if self.threshold is None else self.threshold
            return "|".join(name for name, p in zip(names, probabilities) if float(p) >= cut)
        if self.threshold is None:
            return names[int(probabilities.argmax())]
        return names[int(float(probabilities[1]) >= self.threshold)]


def write_item(item: Item, out: pathlib.Path, style: Style) -> dict[str, Any]:
    """Writes the pictures of an image, and gives its row of the table.

    Args:
      item: with its answer.
      out: folder; `masks/NAME.png` (255 inside; of several masks `masks/MASK/NAME.png`),
        `overlays/`, `saliency/` and `disagreement/` are written below it.
      style: how.
    """
    assert item.values is not None
    height, width = item.values.shape[:2]
    row: dict[str, Any] = {"image": str(item.path), "width": width, "height": height}
    pixels = np.clip(np.rint(item.values), 0, 255).astype(np.uint8)
    if "classes" in item.answer:
        classes = item.answer["classes"]
        class_names = style.class_names or [str(number) for number in range(len(classes))]
        row["class"] = style.name_class(classes, class_names)
        row |= {f"probability_{name}": f"{p:.6f}" for name, p in zip(class_names, classes)}
        if "classes_spread" in item.answer:
            for name, value in zip(class_names, item.answer["classes_spread"], strict=True):
                row[f"spread_{name}"] = f"{value:.6f}"
    if "mask" in item.answer:
        found = item.answer["mask"][item.inside]
        find = lambda *sides: geometry.largest_components(
            _stretched(found, *sides) >= 0.5, style.components
        )
        mask = find(height, width)
        count = mask.shape[-1]
        for channel in range(count):
            named = style.mask_names[channel] if style.mask_names else str(channel)
            mark = f"_{named}" if count > 1 else ""
            # A folder for each, as for training: image a_b, and mask b of image a, lie apart.
            folder = out / "masks" / (named if count > 1 else "")
            _write(folder / f"{item.name}.png", mask[..., channel] * np.uint8(255))
            row[f"area_fraction{mark}"] = f"{mask[..., channel].mean():.6f}"
            if "mask_disagreement" in item.answer:
                row[f"disagreement{mark}"] = f"{item.answer['mask_disagreement'][channel]:.6f}"
        if "mask_spread" in item.answer:
            spread = item.answer["mask_spread"][item.inside].max(axis=-1, keepdims=True)
            _write(out / "disagreement" / f"{item.name}.png", _heat(spread, height, width))
        # Of large films the outlines are drawn after shrinking, in which they would vanish.
        sides = _within(height, width, OVERLAY_SIDE)
        shown = np.asarray(Image.fromarray(pixels).resize(sides[::-1]))
        outlined = mask if sides == mask.shape[:2] else find(*sides)
        picture = figures.overlay(shown.reshape(*sides, -1), mask=outlined)
        _write(out / "overlays" / f"{item.name}.png", picture)
    if "saliency" in item.answer:
        seen = item.answer["saliency"][item.inside]
        _write(out / "saliency" / f"{item.name}.png", _heat(seen, height, width))
    return row


def _within(height: int, width: int, most: int) -> tuple[int, int]:
    """Sides of at most `most`, of the same shape."""
    factor = min(1.0, most / max(height, width))
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _heat(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """[h,w,1] in colours, in the shape of the image, no larger than it was."""
    return figures.heat(_stretched(values, *_within(height, width, max(values.shape))))


def _stretched(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """float [h,w,C] -> float32 [height,width,C], bilinear."""
    channels = [
        Image.fromarray(np.asarray(values[..., channel], np.float32)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        for channel in range(values.shape[-1])
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def _write(path: pathlib.Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, compress_level=1)


def read_models(paths: Sequence[pathlib.Path], which: str) -> list[TrainedModel]:
    """The networks of an ensemble.

    Raises:
      UsageError: see `read_model`; or they cannot answer together.
    """
    models = [read_model(path, which) for path in paths]
    first = models[0]
    kinds = lambda model: (
        *(model.size, model.fit, model.channels, list(model.class_names)),
        *(list(model.mask_names), _parts(model), model.exclusive),
    )
    for path, model in zip(paths[1:], models[1:]):
        if kinds(model) != kinds(first):
            raise UsageError(
                f"{path} cannot answer together with {paths[0]}: side, classes and tasks are "
                f"{kinds(model)} and {kinds(first)}; take runs that agree in these"
            )
    return models


def _parts(model: TrainedModel) -> dict[str, tuple[int, ...]]:
    """Shapes of the answer to one image."""
    image = jax.ShapeDtypeStruct((1, model.size, model.size, model.channels), jnp.uint8)
    found = jax.eval_shape(model.objective.predict, model.variables, image)
    return {name: leaf.shape[1:] for name, leaf in found.items() if name in ("mask", "classes")}


def find_files(
    paths: Sequence[pathlib.Path],
    suffixes: Sequence[str],
    files_below: Callable[[Sequence[pathlib.Path]], Iterable[pathlib.Path]],
) -> dict[str, pathlib.Path]:
    """Files, and those below folders that have one of the suffixes, by the name of their results.

    That is the path below the folder, or the file's name, without suffix; with it where two would
    be one.

    Raises:
      UsageError: one is missing, or there is none at all.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}  # one that is named twice is taken once
    for path in paths:
        if path.is_dir():
            for file in sorted(files_below([path])):
                if file.name.lower().endswith(tuple(suffixes)):
                    found.setdefault(file, file.relative_to(path))
        elif path.exists():
            found.setdefault(path, pathlib.Path(path.name))
        else:
            raise UsageError(f"{path} does not exist; name image files, or a folder of them")
    if not found:
        raise UsageError(
            f"{', '.join(map(str, paths))}: no images here ({', '.join(suffixes)}); name image "
            "files, or a folder of them"
        )
    named: dict[str, pathlib.Path] = {}
    for spelling in (lambda p: p.with_suffix("").as_posix(), lambda p: p.as_posix()):
        named = {spelling(relative): path for path, relative in found.items()}
        if len(named) == len(found):
            return named
    raise UsageError(
        "two of the files have the same name; predict them one after the other, into folders of "
        "their own"
    )


def write_predictions(out: pathlib.Path, items: Iterable[Item], style: Style) -> list[Item]:
    """Writes pictures and `predictions.csv`, a line as soon as an image is done.

    Returns:
      The items that could not be read; they are in `unreadable.txt`, too.
    """
    from data_pipelines.builder import in_threads

    out.mkdir(parents=True, exist_ok=True)

    def work(item: Item) -> tuple[Item, dict[str, Any] | None]:
        return item, None if item.error else write_item(item, out, style)

    unreadable = []
    with (out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = None
        for item, row in in_threads(work, items):
            if row is None:
                unreadable.append(item)
                with (out / "unreadable.txt").open("a", encoding="utf-8") as errors:
                    errors.write(f"{item.error}\n")
                continue
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)
            file.flush()
    return unreadable


def run(arguments: argparse.Namespace) -> int:
    """Does what the command asks for; gives its exit status."""
    # The one thing here that reads files as data preparation does.
    from data_pipelines import DataError
    from data_pipelines.builder import files_below, in_threads
    from data_pipelines.resize import Canvas
    from data_pipelines.sets import folder

    files = find_files(arguments.images, folder.SUFFIXES, files_below)
    workdir.check_new(arguments.out)
    runs = [arguments.run, *arguments.ensemble]
    models = read_models(runs, arguments.which)
    for path, model in zip(runs, models):
        if arguments.dropout and not model.dropout_rate:
            raise UsageError(
                f"{path} was trained without dropout (config.model.dropout_rate=0.0), so that "
                "--dropout makes no difference; leave it out, or use --flips or --ensemble"
            )
    predict = make_predictor(
        [model.objective for model in models],
        calibrations=[model.calibration for model in models],
        flips=arguments.flips,
        dropout=arguments.dropout,
        saliency_kind=arguments.saliency,
    )

    canvas = Canvas(models[0].size, models[0].fit, models[0].channels)

    def read(entry: tuple[str, pathlib.Path]) -> Item:
        name, path = entry
        try:
            return Item(name, path, folder.read_image(path, canvas.channels)[0])
        except (DataError, OSError) as error:
            return Item(name, path, error=str(error))

    items = predict_items(
        in_threads(read, files.items()),
        models,
        predict,
        fit=lambda values: (canvas.image(values), canvas.inside(*values.shape[:2])),
        batch_size=min(BATCH, len(files)),
        few=len(files) <= FEW,
        seed=arguments.seed,
    )
    begun = time.monotonic()
    # Shown on a terminal only.
    progress = tqdm(items, total=len(files), unit=" images", disable=None)
    threshold = _threshold(models, arguments.threshold)
    style = Style(
        class_names=models[0].class_names,
        mask_names=models[0].mask_names,
        threshold=threshold,
        exclusive=models[0].exclusive,
        components=models[0].components,
    )
    unreadable = write_predictions(arguments.out, progress, style)
    for item in unreadable:
        print(f"not read: {item.error}", file=sys.stderr)
    done = len(files) - len(unreadable)
    if threshold is not None:
        named = "the second class" if models[0].exclusive else "each class"
        print(f"{named} is named from a probability of {threshold:.3f} on")
    print(
        f"{arguments.out}: {done} of {len(files)} images in {time.monotonic() - begun:.1f} s, "
        f"by {', '.join(_told(model) for model in models)}"
    )
    return 0 if done else 1


def _threshold(models: Sequence[TrainedModel], asked: float | None) -> float | None:
    """Of `Style`: what was asked for, or the mean of the networks' own.

    Raises:
      UsageError: one is asked for, but one class of more than two is to be named.
    """
    own = [model.calibration.threshold for model in models]
    if asked is None:
        known = [threshold for threshold in own if threshold is not None]
        return float(np.mean(known)) if len(known) == len(models) else None
    classes = _parts(models[0]).get("classes")
    if classes is None or (models[0].exclusive and classes != (2,)):
        raise UsageError("--threshold is for two classes, or independent ones; leave it out")
    return asked


def _told(model: TrainedModel) -> str:
    return "the {checkpoint} weights of {run} (step {step})".format(**model.source)


@ends_quietly()
def main() -> None:
    """Command line, see the top of the file."""
    parser = argparse.ArgumentParser(
        prog="multimix-predict",
        description="Writes masks at the size of each image, class probabilities, outlines and "
        "saliency. Not a medical device, and not for clinical use.",
        epilog="example: multimix-predict runs/quickstart images/ --out OUT --flips",
    )
    path = pathlib.Path
    parser.add_argument("run", type=path, help="folder of a run")
    parser.add_argument("images", type=path, nargs="+", help="image files, or folders of them")
    parser.add_argument("--out", type=path, required=True, help="new folder for the results")
    parser.add_argument(
        "--ensemble", type=path, nargs="+", default=[], metavar="RUN", help="more runs to ask"
    )
    add_which(parser)
    parser.add_argument("--flips", action="store_true", help="also look from right to left")
    parser.add_argument(
        "--dropout",
        type=_count,
        default=0,
        metavar="N",
        help="average N answers with dropout on, and tell how far they disagree",
    )
    parser.add_argument(
        "--saliency",
        choices=SALIENCY,
        default=SALIENCY[0],
        help="gradient as the bridge sees it, SmoothGrad, integrated gradients, or none "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=_share,
        help="probability from which the second class of two, or each independent one, is named "
        "(default: the most accurate one on validation, which is as often pathological as the "
        "images that it was chosen on; for independent classes .5)",
    )
    parser.add_argument(
        "--seed", type=_count, default=0, help="of dropout and noise (default: %(default)s)"
    )
    arguments = parser.parse_args()
    parallel.set_xla_flags()
    parallel.keep_compiled()
    try:
        status = run(arguments)
    except UsageError as error:
        parser.exit(1, f"error: {error}\n")
    sys.exit(status)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


if __name__ == "__main__":
    main()
