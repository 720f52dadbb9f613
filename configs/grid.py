"""Systems, budgets of labels and seeds, each combination a run of its own.

    python launch.py --config=configs/grid.py:systems=umtl+enc,budgets=100/10+all/all,seeds=0+1

Arguments: systems, names of configs/multimix.py or "all" (the published ones); budgets, class
labels/masks, numbers or "all"; seeds; each a list joined by "+"; and size. Fields set with
--config.FIELD=VALUE hold for all runs, but for those that these arguments set.
"""

import itertools

import ml_collections

from configs import common, multimix


def get_config(arguments: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse_arguments(
        arguments, systems="all", budgets="100/10", seeds="0+1+2", size=256
    )
    c = multimix.get_config(f"size={args['size']}")
    c.grid = ml_collections.ConfigDict({key: args[key] for key in ("systems", "budgets", "seeds")})
    cells(c)  # a faulty list is told at once
    return c


def cells(c: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """The config of each run, by the name of its folder; runs of one system lie together.

    A budget of a task that a system lacks makes no difference to it, so it makes no run.

    Raises:
      ConfigError: an item of a list is wrong.
    """
    systems = list(multimix.PUBLISHED) if c.grid.systems == "all" else c.grid.systems.split("+")
    budgets = [_budget(text) for text in c.grid.budgets.split("+")]
    seeds = [_seed(text) for text in c.grid.seeds.split("+")]
    found = {}
    for system, (labels, masks), seed in itertools.product(systems, budgets, seeds):
        cell = c.copy_and_resolve_references().unlock()
        del cell.grid
        multimix.use_system(cell, system)
        cell.seed = seed
        cell.cls_labels = labels if cell.model.use_classifier else "0"
        cell.seg_labels = masks if cell.model.use_decoder else "0"
        name = [system]
        name += [f"{labels}labels"] * cell.model.use_classifier
        name += [f"{masks}masks"] * cell.model.use_decoder
        found["_".join([*name, f"seed{seed}"])] = cell.lock()
    return found


def _budget(text: str) -> tuple[str, str]:
    labels, _, masks = text.partition("/")
    if not all(part == "all" or part.isdigit() for part in (labels, masks)):
        raise common.ConfigError(
            f"budget {text!r} is not of the form LABELS/MASKS, such as 100/10 or all/all; set "
            "budgets in --config=configs/grid.py:budgets=100/10+all/all"
        )
    return labels, masks


def _seed(text: str) -> int:
    if not text.isdigit():
        raise common.ConfigError(
            f"seed {text!r} is not a whole number; set seeds in --config=configs/grid.py:seeds=0+1"
        )
    return int(text)
