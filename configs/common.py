"""The fields that every run has, and their meaning; an experiment's file overrides a few."""

from collections.abc import Mapping
from typing import TypeVar

import ml_collections

T = TypeVar("T")


def get_config() -> ml_collections.ConfigDict:
    """The published network and loss of MultiMix, on the built-in phantom sets."""
    c = ml_collections.ConfigDict()
    c.system = "multimix"  # name of the system in tables
    c.method = "multimix"  # the objective
    c.seed = 0  # of weights, augmentation, order and the choice of labelled images
    c.split_seed = 0  # of the division into training, validation and test
    c.size = 256  # side of the images in pixels, a multiple of 16
    c.fit = "squash"  # how images become square: squash, or pad with black to keep the ratio

    # Data: a training set for each task; test sets with their part (train, val, test or all).
    c.data_dir = ""  # holds chex/, jsrt/, mcu/, nihx/ or own folders; the phantoms need none
    # Where the set "folder" lies: folders of images and masks, table of labels; "" is
    # data_dir/folder with images/, masks/ and labels.csv.
    c.folder = ml_collections.ConfigDict(dict(images="", masks="", labels=""))
    c.prepared_dir = ""  # prepared sets; "" is TFDS' own, ~/tensorflow_datasets
    c.exclude = ""  # list of examples not to use, from multimix-audit --exclude_list
    c.cache_gib = 4.0  # a set up to this size is held in memory, a larger one read as needed
    c.seg_data = "phantom_seg_a"
    c.cls_data = "phantom_cls_a"
    c.test_data = "phantom_seg_a=test,phantom_seg_b=all,phantom_cls_a=test,phantom_cls_b=all"
    c.seg_labels = "10"  # masks to train on, a number or "all"
    c.cls_labels = "100"  # class labels to train on, a number or "all"

    # Training.
    c.steps = 1500
    c.batch_size = 10  # images per stream, over all devices
    c.class_multiple = 1  # times that, in the streams of the classes
    c.learning_rate = 1e-3
    c.ema_decay = 0.0  # of the moving average of the weights, 0 for none
    c.accumulate = 0  # micro-batches of a batch, to save memory; 0: what is fast here
    c.dtype = "float32"  # of the computation: float32 or bfloat16
    c.parallel = "pmap"  # or "jit"
    c.log_every = 10
    c.eval_every = 100
    c.checkpoint_every = 100
    c.grace_period = 25.0  # seconds in which a run that is told to stop finishes its step and saves
    c.max_skipped = 20  # steps in a row whose loss or gradient is not finite, before the run stops
    c.eval_batch_size = 32

    c.model = ml_collections.ConfigDict(
        dict(
            filters=(16, 32, 64, 128, 256),
            in_channels=1,
            num_classes=2,  # 0: as many as the data have; so for mask_channels
            mask_channels=1,
            use_classifier=True,
            use_decoder=True,
            use_bridge=True,
            bridge_gradient=False,
            dropout_rate=0.25,
            initializer="torch",
        )
    )
    c.objective = ml_collections.ConfigDict(
        dict(
            dice_weight=5.0,
            kl_weight=0.01,
            pseudo_label_weight=0.25,
            threshold=0.7,
        )
    )
    # To predict larger images and volumes window by window; a patch of () takes each whole.
    c.window = ml_collections.ConfigDict(
        dict(patch=(), stride=(), batch_size=4, weights="gaussian")
    )
    c.flips = False  # predictions are means over an image and its mirror image
    c.keep_largest = 0  # connected components kept of each predicted mask, the largest; 0 for all
    c.schedule = ml_collections.ConfigDict(
        dict(name="cosine", warmup_steps=0, decay_every=0, decay_rate=0.1)
    )
    c.optimizer = ml_collections.ConfigDict(
        dict(name="adam", weight_decay=0.0, momentum=0.9, clip_norm=0.0)
    )
    return c


class ConfigError(ValueError):
    """Says which argument is wrong, what was given and how to mend it."""


def parse_arguments(text: str | None, **defaults: str | int) -> dict[str, str | int]:
    """'size=64,seed=3', as it stands behind the colon of `--config=FILE:...`, over defaults.

    Raises:
      ConfigError: an argument is not `key=value` with a known key and a value of the right type.
    """
    values = dict(defaults)
    for item in filter(None, (text or "").split(",")):
        key, equals, value = item.partition("=")
        if not equals or key not in defaults:
            raise ConfigError(
                f"--config argument {item!r} is unknown; use key=value with key one of "
                f"{', '.join(defaults)}, or set any field with --config.FIELD=VALUE"
            )
        if isinstance(defaults[key], int):
            if not value.lstrip("-").isdigit():
                raise ConfigError(f"--config argument {item!r} needs a whole number")
            values[key] = int(value)
        else:
            values[key] = value
    return values


def choose(key: str, value: str | int, choices: Mapping[str, T]) -> T:
    """What the argument `key` asks for.

    Raises:
      ConfigError: there is no such choice.
    """
    if value not in choices:
        raise ConfigError(
            f"--config argument {key}={value!r} is unknown; use one of {', '.join(choices)}"
        )
    return choices[str(value)]
