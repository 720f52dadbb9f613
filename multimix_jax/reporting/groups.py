"""Runs of several seeds taken together, and which of these groups may be compared."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from multimix_jax.errors import UsageError
from multimix_jax.objectives import METHODS
from multimix_jax.runs.record import FinishedRun, Images
from multimix_jax.runs.spec import differences, free_fields

# What may differ between runs that are averaged; budgets that matter are compared beforehand.
_FREE = ("seed", "seg_labels", "cls_labels", *free_fields())


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one system and budget that differ in their seed alone."""

    runs: Sequence[FinishedRun]

    @property
    def system(self) -> str:
        return self.runs[0].config["system"]

    @property
    def budget(self) -> tuple[str | None, str | None]:
        """Class labels and masks, None for a task that the system lacks."""
        return self.runs[0].budget

    def tested(self, checkpoint: str, data_set: str) -> list[tuple[FinishedRun, Images]]:
        """The runs of which there are figures, and these; UsageError if of different images."""
        key = checkpoint, data_set
        tested = [(run, run.images[key]) for run in self.runs if key in run.images]
        for other in tested[1:]:
            check_same_images(data_set, *tested[0], *other)
        return tested

    @property
    def tests(self) -> list[tuple[str, str]]:
        """Every (checkpoint, data set) of which a run has figures."""
        return list(dict.fromkeys(key for run in self.runs for key in run.images))

    @property
    def described(self) -> dict[str, Any]:
        """What identifies the group in a table."""
        labels, masks = self.budget
        config = self.runs[0].config
        patch = config["window"]["patch"]
        return {
            "system": self.system,
            "size": "x".join(map(str, patch)) if patch else config["size"],
            "steps": config["steps"],
            "seg_labels": masks,
            "cls_labels": labels,
        }


def group_runs(runs: Iterable[FinishedRun]) -> list[Group]:
    """Runs of one system, size and budget together; systems of few parts, then few labels, first.

    Raises:
      UsageError: two of a group differ in more than their seed.
    """
    groups: dict[tuple[Any, ...], list[FinishedRun]] = {}
    for run in runs:
        key = (run.config["system"], run.config["size"], run.config["steps"], run.budget)
        groups.setdefault(key, []).append(run)
    for first, *others in groups.values():
        for run in others:
            differing = _differing(first, run)
            if differing or run.config["seed"] == first.config["seed"]:
                raise UsageError(
                    f"{first.path} and {run.path} are both {first.config['system']} on the same "
                    f"budget, but differ in {', '.join(differing) or 'nothing'}; report them "
                    "apart, or give one a name of its own (config.system)"
                )

    def order(group: Group) -> tuple[Any, ...]:
        budget = [math.inf if part == "all" else int(part or 0) for part in group.budget]
        return len(group.runs[0].components), group.system, budget

    by_seed = lambda run: run.config["seed"]
    return sorted((Group(sorted(members, key=by_seed)) for members in groups.values()), key=order)


def _differing(run: FinishedRun, other: FinishedRun, ignored: Iterable[str] = ()) -> list[str]:
    """Fields of the config, and kinds of files of one's own, in which two runs differ."""
    free = {*_FREE, *ignored}
    fields = [name for name, _, _ in differences(run.config, other.config)]
    files = {kind: (run.contents[kind], other.contents.get(kind)) for kind in run.contents}
    return [
        *(name for name in fields if not free & {name, name.partition(".")[0]}),
        *(f"own {kind}" for kind, (a, b) in files.items() if a and b and a != b),
    ]


def comparable(one: Group, other: Group) -> bool:
    """Whether two systems differ in their parts alone, on the same budgets of common tasks."""
    first, second = one.runs[0], other.runs[0]
    parts = ("system", *METHODS[first.spec.objective.method].switches)
    return _same_budget(one, other) and not _differing(first, second, parts)


def alike(one: Group, other: Group) -> bool:
    """Whether two systems, whatever they differ in, had the same budgets, size and steps."""
    return _same_budget(one, other) and same_length(one, other)


def same_length(one: Group, other: Group) -> bool:
    """Whether two systems were trained for as many steps, on images of one size."""
    return all(one.described[name] == other.described[name] for name in ("size", "steps"))


def _same_budget(one: Group, other: Group) -> bool:
    """Whether two systems had as many labels for the tasks that both have."""
    budgets = zip(one.budget, other.budget)
    return all(a is None or b is None or a == b for a, b in budgets)


def by_budget(
    groups: Sequence[Group], together: Callable[[Group, Group], bool]
) -> dict[str, list[Group]]:
    """Groups that go together, by size and budget of those with most tasks: '64_100_10'."""
    tasks = lambda group: sum(part is not None for part in group.budget)
    budgets: dict[str, list[Group]] = {}
    for leader in sorted(groups, key=tasks, reverse=True):
        if any(leader in members for members in budgets.values()):
            continue
        parts = [str(leader.described["size"]), *(part for part in leader.budget if part)]
        name = "_".join(parts)
        while name in budgets:  # of other steps, say
            name += "_other"
        budgets[name] = [group for group in groups if together(leader, group)]
    return budgets


def check_same_images(
    data_set: str, run: FinishedRun, images: Images, other_run: FinishedRun, other_images: Images
) -> None:
    """Raises UsageError unless two runs were tested on the same images of a data set."""
    if images.ids != other_images.ids:
        raise UsageError(
            f"{other_run.path} was tested on other images of {data_set} than {run.path}; give both "
            "the same data, the same config.test_data and the same config.split_seed"
        )
