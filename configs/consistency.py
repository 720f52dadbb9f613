"""The recipe to start with: ten masks and a hundred labels of chest X-rays.

    python launch.py --config=configs/consistency.py:size=64 --config.data_dir=DIR \\
        --workdir=runs/consistency

Arguments: method (one of SYSTEMS), seg_labels, cls_labels (a number or "all"), size, steps, seed.

Spatial augmentation of every image, with its mask, and intensity augmentation of those with
classes; a moving average of the weights as the teacher of pseudo-labels, and as what is evaluated;
in a step four times as many images in each class stream, at a tenth of the weight; AdamW. The
network is the published one without the bridge and without dropout. docs/results.md has what each
part is worth, docs/lab/experiments.md what else was tried.
"""

import functools

from ml_collections import ConfigDict

from configs import common
from configs.common import NO_CLASSES, NO_MASKS, NO_PSEUDO_LABELS

# What a system changes.
SYSTEMS: dict[str, dict[str, bool | float]] = {
    "consistency": {},
    # One task alone: masks, classes with unlabelled images, and without.
    "unet_augmented": {**NO_CLASSES},
    "consistency_classes": {**NO_MASKS},
    "enc_augmented": {**NO_MASKS, **NO_PSEUDO_LABELS},
    # Ablations: one part taken out.
    "consistency_no_spatial": {"objective.spatial": 0.0},
    "consistency_no_intensity": {"objective.intensity": False},
    "consistency_no_pseudo_labels": {**NO_PSEUDO_LABELS},
    "consistency_equal_weights": {"objective.class_weight": 1.0},
    "consistency_equal_streams": {"class_multiple": 1},
}
ALL = tuple(SYSTEMS)  # of a grid
FULL = "consistency"
use_system = functools.partial(common.use_system, systems=SYSTEMS)


def get_config(arguments: str | None = None) -> ConfigDict:
    c, args = common.start(
        arguments, method=FULL, seg_labels="10", cls_labels="100", size=256, steps=1500, seed=0
    )
    c.method = "consistency"
    c.seg_data, c.cls_data = "jsrt", "chex"
    c.test_data = "jsrt=test,mcu=all,chex=test,nihx=all"
    c.class_multiple = 4
    steps = c.get_oneway_ref("steps")  # so that --config.steps=N changes what hangs on it, too
    c.eval_every = c.checkpoint_every = (steps + 3) // 4
    c.learning_rate = 2e-3
    c.ema_decay = 0.99
    c.flips = True
    c.keep_largest = 2  # lungs
    c.model.use_bridge = False
    c.model.dropout_rate = 0.0  # no two views are the same
    c.objective = ConfigDict(
        dict(
            class_weight=0.1,  # of all terms of the classes
            pseudo_label_weight=1.0,
            threshold=0.95,
            ramp_up=steps // 5,  # steps in which the weight of what is not labelled rises
            spatial=1.0,  # strength of the spatial augmentation, 0 for none
            weak_spatial=0.3,  # the same, of the views that give pseudo-labels
            intensity=True,  # augmentation of grey values
        )
    )
    c.optimizer.update(name="adamw", weight_decay=1e-2)
    c.schedule.warmup_steps = steps // 16
    use_system(c, args["method"])
    return c
