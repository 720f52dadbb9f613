"""Masks, class probabilities and saliency of image files, by trained networks.

    multimix-predict runs/quickstart scan.png --out OUT
    multimix-predict runs/a images/ --out OUT --ensemble runs/b runs/c --flips

OUT holds predictions.csv, masks/ at the size of each image, overlays/ with outlines, saliency/ and,
where several answers were averaged, disagreement/. Not a medical device, and not for clinical use.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from multimix_jax import atomic
from multimix_jax.commands.ends import add_which, ends_quietly, make_parser
from multimix_jax.errors import UsageError, as_text
from multimix_jax.inference import saliency
from multimix_jax.inference.images import ImageFiles, ImagePrediction
from multimix_jax.reporting.prediction_files import OutputOptions, write_predictions
from multimix_jax.runs import workdir
from multimix_jax.runs.image_predictor import load
from multimix_jax.training import machine

FEW_UNLIKE = 0.05  # share of images that may well look unlike those trained on
FEW = 16  # images up to which quick compilation is worth slower programs


def find_files(paths: Sequence[pathlib.Path], image_files: ImageFiles) -> dict[str, pathlib.Path]:
    """Files, and the images below folders, by the name of their results.

    That is the path below the folder, or the file's name, without one of the usual suffixes; with
    it where two would be one. Says which files of folders are passed over.
    """
    suffixes = tuple(image_files.suffixes)
    relative: dict[pathlib.Path, pathlib.Path] = {}  # one that is named twice is taken once
    for path in paths:
        if path.is_dir():
            found, others = image_files.below(path)
            for file in sorted(found):
                relative.setdefault(file, file.relative_to(path))
            if others:
                print(f"{path}: {others}", file=sys.stderr)
        elif os.path.lexists(path):  # a link to nowhere is one that cannot be read
            relative.setdefault(path, pathlib.Path(path.name))
        else:
            raise UsageError(f"{path} does not exist; name image files, or a folder of them")
    if not relative:
        raise UsageError(
            f"{', '.join(map(str, paths))}: no images here ({', '.join(suffixes)}); name image "
            "files, or a folder of them"
        )
    usual = re.compile(f"({'|'.join(map(re.escape, suffixes))})$", re.IGNORECASE)
    for name_of in (lambda p: usual.sub("", p.as_posix()), lambda p: p.as_posix()):
        named = {as_text(name_of(below)): path for path, below in relative.items()}
        if len(named) == len(relative):
            return named
    raise UsageError(
        "two of the files have the same name; predict them one after the other, into folders of "
        "their own"
    )


def run(arguments: argparse.Namespace, image_files: ImageFiles) -> int:
    """Does what the command asks for; gives its exit status."""
    files = find_files(arguments.images, image_files)
    workdir.check_new(arguments.out)
    loaded = load(
        arguments.run,
        arguments.which,
        ensemble=arguments.ensemble,
        flips=arguments.flips,
        dropout=arguments.dropout,
        saliency=arguments.saliency,
        threshold=arguments.threshold,
        seed=arguments.seed,
        quick=len(files) <= FEW,
    )
    images = image_files.in_threads(lambda entry: loaded.read(*entry), files.items())
    unlike: list[ImagePrediction] = []

    def noted() -> Iterator[ImagePrediction]:
        for image in loaded.outputs(images, len(files)):
            if image.unlike:
                unlike.append(dataclasses.replace(image, values=None, output={}))
            yield image

    begun = time.monotonic()
    # Shown on a terminal only.
    progress = tqdm(noted(), total=len(files), unit=" images", disable=None)
    labels, threshold = loaded.models[0].labels, loaded.threshold
    options = OutputOptions(labels, loaded.predictor, threshold)
    unreadable = write_predictions(arguments.out, progress, options, image_files.in_threads)
    for image in unreadable:
        print(f"not read: {image.error}", file=sys.stderr)
    done = len(files) - len(unreadable)
    if len(unlike) > FEW_UNLIKE * done:
        first = "; ".join(f"{as_text(one.name)}: {', '.join(one.unlike)}" for one in unlike[:3])
        print(
            f"{len(unlike)} of {done} images look unlike those trained on ({first}"
            f"{', ...' if len(unlike) > 3 else ''}), so that their predictions are not to be "
            "relied on",
            file=sys.stderr,
        )
    if threshold is not None:
        named = "each class" if labels.multi_label else "the second class"
        print(f"{named} is named from a probability of {threshold:.3f} on")
    source = "the {checkpoint} weights of {run} (step {step})"
    sources = (source.format(**model.source) for model in loaded.models)
    print(
        f"{arguments.out}: {done} of {len(files)} images in {time.monotonic() - begun:.1f} s, "
        f"by {', '.join(sources)}"
    )
    return 0 if done else 1


@ends_quietly()
def main(image_files: ImageFiles) -> None:
    """Command line, see the top of the file."""
    parser = make_parser("multimix-predict", __doc__)
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
        choices=saliency.KINDS,
        default=saliency.KINDS[0],
        help="gradient as the bridge sees it, SmoothGrad, integrated gradients, or none "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=_share,
        help="probability from which the second class of two, or each independent one, is named "
        "(default: the most accurate one on validation, which is as often pathological as the "
        "images that it was chosen on; .5 where these were too few, and for independent classes)",
    )
    parser.add_argument(
        "--seed", type=_count, default=0, help="of dropout and noise (default: %(default)s)"
    )
    arguments = parser.parse_args()
    machine.set_xla_flags()
    machine.keep_compiled()
    with atomic.writing("--out", arguments.out):
        status = run(arguments, image_files)
    sys.exit(status)


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
