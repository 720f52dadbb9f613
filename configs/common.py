"""The fields that every run has, and their meaning; an experiment's file overrides a few."""

from collections.abc import Mapping
from typing import TypeVar

from ml_collections import ConfigDict

T = TypeVar("T")
Arguments = dict[str, str | int]

# What systems lack, by field.
NO_CLASSES = {"model.use_classifier": False}
NO_MASKS = {"model.use_decoder": False}
NO_PSEUDO_LABELS = {"objective.pseudo_label_weight": 0.0}


def get_config() -> ConfigDict:
    """The published network and loss of MultiMix, on the built-in phantom sets."""
    c = ConfigDict()
    c.system = "multimix"  # name of the system in tables
    c.method = "multimix"  # the objective
    c.seed = 0  # of weights, augmentation, order and the choice of labelled images
    c.split_seed = 0  # of the division into training, validation and test
    c.size = 256  # side of the images in pixels, a multiple of 16
    c.fit = "squash"  # how images become square: squash, or pad with black to keep the ratio

    # Data.
    c.data_dir = ""  # holds chex/, jsrt/, mcu/, nihx/ or own folders; the phantoms need none
    c.folder = ConfigDict(  # where the set "folder" lies
        dict(
            images="",  # folder of images; "" is data_dir/folder/images
            masks="",  # folder of masks; "" is data_dir/folder/masks
            labels="",  # table of labels; "" is data_dir/folder/labels.csv
            mask_values="",  # of masks, as "1=lung,255=void", or "soft": cut at half; "" looks
        )
    )
    c.prepared_dir = ""  # prepared sets; "" is TFDS' own, ~/tensorflow_datasets
    c.exclude = ""  # list of examples not to use, from multimix-audit --exclude_list
    c.cache_gib = 4.0  # a set up to this size is held in memory, a larger one read as needed
    c.seg_data = "phantom_seg_a"  # training set of the masks
    c.cls_data = "phantom_cls_a"  # training set of the classes
    # Test sets, each with its part: train, val, test or all.
    c.test_data = "phantom_seg_a=test,phantom_seg_b=all,phantom_cls_a=test,phantom_cls_b=all"
    c.seg_labels = "10"  # masks to train on, a number or "all"
    c.cls_labels = "100"  # class labels to train on, a number or "all"

    # Training.
    c.steps = 1500  # of training
    c.batch_size = 10  # images per stream, over all devices
    c.class_multiple = 1  # times that, in the streams of the classes
    c.learning_rate = 1e-3  # the highest of the schedule
    c.ema_decay = 0.0  # of the moving average of the weights, 0 for none
    c.accumulate = 0  # micro-batches of a batch, to save memory; 0: what is fast here
    c.dtype = "float32"  # of the computation: float32 or bfloat16
    c.parallel = "pmap"  # how a step is spread over devices: pmap or jit
    c.log_every = 10  # steps from one line of metrics to the next
    c.eval_every = 100  # steps from one validation to the next
    c.checkpoint_every = 100  # steps from one checkpoint to the next
    c.grace_period = 25.0  # seconds in which a run that is told to stop finishes its step and saves
    c.max_skipped = 20  # steps in a row whose loss or gradient is not finite, before the run stops
    c.eval_batch_size = 32  # images that are predicted together

    c.model = ConfigDict(
        dict(
            filters=(16, 32, 64, 128, 256),  # channels of each level, from the image down
            in_channels=1,  # of the images: 1 for grey, 3 for colour
            num_classes=2,  # 0: as many as the data have
            mask_channels=1,  # 0: as many as the data have
            use_classifier=True,  # the part that predicts classes
            use_decoder=True,  # the part that predicts masks
            use_bridge=True,  # saliency of the class goes into the decoder
            bridge_gradient=False,  # and gradients back through it, which the paper leaves out
            dropout_rate=0.25,  # share of the channels that are dropped in training
            initializer="torch",  # of the weights: torch or flax, each library's default
        )
    )
    c.objective = ConfigDict(
        dict(
            dice_weight=5.0,  # of the Dice loss of the labelled masks
            kl_weight=0.01,  # of the divergence of unlabelled from labelled masks
            pseudo_label_weight=0.25,  # of the cross-entropy with pseudo-labels
            threshold=0.7,  # probability from which a prediction becomes a pseudo-label
        )
    )
    c.window = ConfigDict(  # to predict larger images and volumes window by window
        dict(
            patch=(),  # sides of a window; () takes each image whole
            stride=(),  # from one window to the next
            batch_size=4,  # windows that are predicted together
            weights="gaussian",  # of a window's pixels in the mean: gaussian or uniform
        )
    )
    c.flips = False  # predictions are means over an image and its mirror image
    # Masks and classes that change places in a mirror image: "left_lung=right_lung,...", or "auto",
    # those whose names differ in left and right alone; "situs_inversus=" has no counterpart, so
    # that no image is mirrored.
    c.mirrored = "auto"
    # Connected components kept of each predicted mask, the largest; 0 for all; -1: as many as the
    # masks trained on have, if all have as many, in about the same place, as organs do.
    c.keep_largest = 0
    c.schedule = ConfigDict(  # of the learning rate
        dict(
            name="cosine",  # constant, cosine or step
            warmup_steps=0,  # in which it rises from 0
            decay_every=0,  # steps after which "step" lowers it
            decay_rate=0.1,  # what "step" multiplies it by
        )
    )
    c.optimizer = ConfigDict(
        dict(
            name="adam",  # adam, adamw or sgd
            weight_decay=0.0,  # of adamw and sgd
            momentum=0.9,  # of sgd
            clip_norm=0.0,  # the largest norm of a gradient, 0 for any
        )
    )
    return c


class ConfigError(ValueError):
    """Says which argument is wrong, what was given and how to mend it."""


def parse_arguments(text: str | None, **defaults: str | int) -> Arguments:
    """'size=64,seed=3', as it stands behind the colon of `--config=FILE:...`, over defaults.

    Raises ConfigError where it is not `key=value` with a known key and a value of its type.
    """
    values = dict(defaults)
    for item in filter(None, (text or "").split(",")):
        key, equals, value = item.partition("=")
        if not equals or key not in defaults:
            raise ConfigError(
                f"--config argument {item!r} is unknown; use key=value with key one of "
                f"{', '.join(defaults)}, or set any field with --config.FIELD=VALUE"
            )
        whole = isinstance(defaults[key], int)
        if whole and not value.lstrip("-").isdigit():
            raise ConfigError(f"--config argument {item!r} needs a whole number")
        values[key] = int(value) if whole else value
    return values


def start(text: str | None, **defaults: str | int) -> tuple[ConfigDict, Arguments]:
    """The config above, in which fields are what arguments of their name say; all arguments."""
    arguments = parse_arguments(text, **defaults)
    c = get_config()
    for name in ("seed", "size", "steps", "seg_labels", "cls_labels"):
        c[name] = arguments.get(name, c[name])
    return c, arguments


def choose(key: str, value: str | int, choices: Mapping[str, T]) -> T:
    """What the argument `key` asks for."""
    if value not in choices:
        raise ConfigError(
            f"--config argument {key}={value!r} is unknown; use one of {', '.join(choices)}"
        )
    return choices[str(value)]


def use_system(
    c: ConfigDict, method: str | int, systems: Mapping[str, Mapping[str, bool | float]]
) -> None:
    """Takes out the parts that a system lacks."""
    c.system = str(method)
    c.update_from_flattened_dict(choose("method", method, systems))
