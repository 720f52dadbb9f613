"""Systems, budgets of labels and seeds, each combination a run of its own.

    python launch.py --config=configs/grid.py:systems=umtl+enc,budgets=100/10+all/all,seeds=0+1
    python launch.py --config=configs/grid.py:experiment=dtml,data=la,budgets=16+8,seeds=0+1+2
    python launch.py --config=configs/grid.py:experiment=consistency,systems=all,size=64

Arguments: experiment, multimix, dtml or consistency; systems, names of its file or "all" (of
multimix and dtml those of the published tables); budgets, class labels/masks, numbers or "all", or
masks alone; seeds; each a list joined by "+"; and what the experiment takes (size, data, ...).
Fields set with --config.FIELD=VALUE hold for all runs, but for those that these arguments set.
"""

import itertools

from ml_collections import ConfigDict

from configs import common, consistency, dtml, multimix

EXPERIMENTS = {"multimix": multimix, "dtml": dtml, "consistency": consistency}
LISTS = dict(experiment="multimix", systems="all", budgets="100/10", seeds="0+1+2")


def get_config(arguments: str | None = None) -> ConfigDict:
    items = (arguments or "").split(",")
    ours = [item for item in items if item.partition("=")[0] in LISTS]
    args = common.parse_arguments(",".join(ours), **LISTS)
    module = common.choose("experiment", args["experiment"], EXPERIMENTS)
    rest = [item for item in items if item and item not in ours]
    c = module.get_config(",".join([*rest, f"method={module.FULL}"]))
    c.grid = ConfigDict(args)
    cells(c)  # a faulty list is told at once
    return c


def cells(c: ConfigDict) -> dict[str, ConfigDict]:
    """The config of each run, by the name of its folder; runs of one system lie together.

    A budget of a task that a system lacks makes no difference to it, so it makes no run.
    """
    module = EXPERIMENTS[c.grid.experiment]
    systems = list(module.ALL) if c.grid.systems == "all" else c.grid.systems.split("+")
    budgets = [_budget(text) for text in c.grid.budgets.split("+")]
    seeds = [_seed(text) for text in c.grid.seeds.split("+")]
    configs = {}
    for system, (labels, masks), seed in itertools.product(systems, budgets, seeds):
        cell = c.copy_and_resolve_references().unlock()
        del cell.grid
        module.use_system(cell, system)
        # A network without these switches segments alone.
        classifies = cell.model.get("use_classifier", False)
        segments = cell.model.get("use_decoder", True)
        cell.seed = seed
        cell.cls_labels = labels if classifies else "0"
        cell.seg_labels = masks if segments else "0"
        name = [cell.system]
        name += [f"{labels}labels"] * classifies
        name += [f"{masks}masks"] * segments
        configs["_".join([*name, f"seed{seed}"])] = cell.lock()
    return configs


def _budget(text: str) -> tuple[str, str]:
    labels, _, masks = text.rpartition("/") if "/" in text else ("0", "", text)
    if not all(part == "all" or part.isdigit() for part in (labels, masks)):
        raise common.ConfigError(
            f"budget {text!r} is not of the form LABELS/MASKS or MASKS, such as 100/10; set "
            "budgets in --config=configs/grid.py:budgets=100/10+all/all"
        )
    return labels, masks


def _seed(text: str) -> int:
    if not text.isdigit():
        raise common.ConfigError(
            f"seed {text!r} is not a whole number; set seeds in --config=configs/grid.py:seeds=0+1"
        )
    return int(text)
