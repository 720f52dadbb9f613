"""MultiMix on CheX and JSRT, tested there and on NIHX and MCU; and the systems it is compared to.

    python launch.py --config=configs/multimix.py:seg_labels=10,cls_labels=100,size=64 \\
        --config.data_dir=DIR --workdir=runs/multimix

Arguments: method (one of SYSTEMS), seg_labels, cls_labels (a number or "all"), size, seed.

The network and the loss are the published ones. Training is 1,500 steps of Adam with a learning
rate of 1e-3 and cosine decay; the published 1e-4 with a tenth every 8 epochs is
`--config.learning_rate=1e-4 --config.schedule.name=step --config.schedule.decay_every=N`, N being
what is counted as 8 epochs. docs/results.md has what came out and how long it took.
"""

import functools

from ml_collections import ConfigDict

from configs import common
from configs.common import NO_CLASSES, NO_MASKS, NO_PSEUDO_LABELS

NO_BRIDGE = {"model.use_bridge": False}
NO_KL = {"objective.kl_weight": 0.0}

# Wires of the model and terms of the loss that a system lacks (Haque et al. 2021, table 1).
SYSTEMS: dict[str, dict[str, bool | float]] = {
    "unet": {**NO_CLASSES, **NO_BRIDGE, **NO_PSEUDO_LABELS, **NO_KL},
    "enc": {**NO_MASKS, **NO_BRIDGE, **NO_PSEUDO_LABELS, **NO_KL},
    "enc_ssl": {**NO_MASKS, **NO_BRIDGE, **NO_KL},
    "umtl": {**NO_BRIDGE, **NO_PSEUDO_LABELS, **NO_KL},
    "umtl_s": {**NO_PSEUDO_LABELS, **NO_KL},
    "umtl_ssl": {**NO_BRIDGE, **NO_KL},
    "umtl_ssl_s": {**NO_KL},
    "multimix": {},
}
ALL = tuple(SYSTEMS)  # of a grid: the published ones
FULL = "multimix"  # has all that others lack
# With the gradient through the bridge switched on, which the paper leaves out.
SYSTEMS["multimix_grad"] = {"model.bridge_gradient": True}
use_system = functools.partial(common.use_system, systems=SYSTEMS)


def get_config(arguments: str | None = None) -> ConfigDict:
    c, args = common.start(
        arguments, method=FULL, seg_labels="10", cls_labels="100", size=256, seed=0
    )
    c.seg_data, c.cls_data = "jsrt", "chex"
    c.test_data = "jsrt=test,mcu=all,chex=test,nihx=all"
    use_system(c, args["method"])
    return c
