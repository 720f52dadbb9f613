"""MultiMix on drawn chest X-rays: no data to fetch, minutes on two CPU cores.

python launch.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    c = common.get_config()
    c.size = 64
    c.steps = 200
    c.ema_decay = 0.95
    c.eval_every = 50
    c.checkpoint_every = 50
    return c
