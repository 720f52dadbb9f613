"""Runs of several seeds taken together, and which of these groups may be compared."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from multimix_jax.errors import UsageError
from multimix_jax.names import BASELINE
from multimix_jax.objectives import METHODS
from multimix_jax.runs.record import FinishedRun, Images
from multimix_jax.runs.spec import differences, free_fields

# What may differ between runs that are averaged; of budgets those that matter are compared.
_FREE = ("seed", "seg_labels", "cls_labels", *free_fields())


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one system and budget that differ in their seed alone."""

    runs: Sequence[FinishedRun]

    @property
    def system(self) -> str:
        return self.runs[0].system

    @property
    def labelled(self) -> bool:
        """Whether it was given its name for the report, to be compared whatever it is."""
        return bool(self.runs[0].label)

    @property
    def budget(self) -> tuple[str | None, str | None]:
        """Class labels and masks, None for a task that the system lacks."""
        return self.runs[0].budget

    def tested(self, checkpoint: str, data_set: str) -> list[tuple[FinishedRun, Images]]:
        """The runs of which there are figures, and these; UsageError if of different images."""
        key = checkpoint, data_set
        tested = [(run, run.images[key]) for run in self.runs if key in run.images]
        for run, images in tested[1:]:
            if images.ids != tested[0][1].ids:
                first = tested[0][0]
                raise UsageError(
                    f"{run.path} was tested on other images of {data_set} than {first.path}, so "
                    "their scores have no mean; give each a label: multimix-report "
                    f"one={first.path} other={run.path}"
                )
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
    """Runs of one label together, or of one system, size and budget; systems of few parts, then few
    labels, first, and those with a label last, in the order given.

    Raises:
      UsageError: two of a group differ in more than their seed, or groups cannot be told apart.
    """
    groups: dict[tuple[Any, ...], list[FinishedRun]] = {}
    for run in runs:
        key = (run.config["system"], run.config["size"], run.config["steps"], run.budget)
        groups.setdefault((run.label,) if run.label else key, []).append(run)
    for first, *others in groups.values():
        for run in others:
            differing = list(differences_of(first, run))
            if differing or run.config["seed"] == first.config["seed"]:
                raise UsageError(
                    f"{first.path} and {run.path} are both {first.system}, but differ in "
                    f"{', '.join(differing) or 'nothing'}; give each a label: "
                    f"multimix-report one={first.path} other={run.path}"
                )
    labels = {key[0] for key in groups if len(key) == 1}
    for name in labels & {BASELINE, *(key[0] for key in groups if len(key) > 1)}:
        raise UsageError(f"the label {name!r} is also the name of a system; use another")

    def order(group: Group) -> tuple[Any, ...]:
        if group.labelled:
            return (math.inf,)
        budget = [math.inf if part == "all" else int(part or 0) for part in group.budget]
        return len(group.runs[0].components), group.system, budget

    by_seed = lambda run: run.config["seed"]
    return sorted((Group(sorted(members, key=by_seed)) for members in groups.values()), key=order)


def differences_of(
    run: FinishedRun, other: FinishedRun, ignored: Iterable[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Fields of the config, and kinds of files of one's own, in which two runs differ, and how."""
    free = {*_FREE, *ignored}
    fields = differences(run.config, other.config)
    files = {kind: (run.contents[kind], other.contents.get(kind)) for kind in run.contents}
    budgets = dict(zip(("class labels", "masks"), zip(run.budget, other.budget)))
    return {
        **{n: (a, b) for n, a, b in fields if not free & {n, n.partition(".")[0]}},
        **{
            f"number of {kind}": pair
            for kind, pair in budgets.items()
            if all(pair) and len({*pair}) > 1
        },
        **{f"own {kind}": pair for kind, pair in files.items() if all(pair) and len({*pair}) > 1},
    }


def comparable(one: Group, other: Group) -> bool:
    """Whether two systems differ in their parts alone, on the same budgets of common tasks; or one
    was given a label, to be compared whatever it is."""
    first, second = one.runs[0], other.runs[0]
    parts = ("system", *METHODS[first.spec.objective.method].switches)
    return one.labelled or other.labelled or not differences_of(first, second, parts)


def alike(one: Group, other: Group) -> bool:
    """Whether two systems, whatever they differ in, had the same budgets, size and steps; or one
    was given a label."""
    return one.labelled or other.labelled or (same_budget(one, other) and same_length(one, other))


def same_length(one: Group, other: Group) -> bool:
    """Whether two systems were trained for as many steps, on images of one size."""
    return all(one.described[name] == other.described[name] for name in ("size", "steps"))


def same_budget(one: Group, other: Group) -> bool:
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
