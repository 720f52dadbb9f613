"""Which systems are compared, on which images; and in words, what is not compared, and why."""

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from multimix_jax.errors import UsageError
from multimix_jax.names import BASELINE
from multimix_jax.reporting import tables
from multimix_jax.reporting.groups import (
    Group,
    alike,
    comparable,
    differences_of,
    same_budget,
    same_length,
)
from multimix_jax.runs.record import Images

Pairs = Mapping[int | str, tuple[Images, Images]]  # by seed, or 'ours/theirs' where they differ
MOST = 8  # fields that are named of those in which two systems differ
AGAINST = "--against=SYSTEM compares one with every other of its budget, size and steps"
LABELS = "multimix-report LABEL=RUN OTHER=RUN compares any two"


class Pair(NamedTuple):
    """Two systems to compare; the part that the first `adds`, or ''; how the second is called."""

    one: Group
    other: Group
    adds: str
    to: str


def choose(groups: Sequence[Group], against: str | None = None) -> list[Pair]:
    """Systems of one budget, one of which has one part more; those with a label, and any other.

    Or, `against` a system: that and every other one of its budget, size and steps, or with a label;
    and itself with more labels. UsageError where there is none of that name.
    """
    if against is None:
        by_name = sorted(groups, key=lambda group: not group.labelled)
        return [
            *_by_part([group for group in groups if not group.labelled]),
            *(
                Pair(one, other, "", other.system)
                for one, other in itertools.combinations(by_name, 2)
                if one.labelled
            ),
        ]
    names = sorted({group.system for group in groups})
    if against not in names:
        raise UsageError(f"--against={against} is none of the systems: {', '.join(names)}")
    ours = [group for group in groups if group.system == against]
    others = [group for group in groups if group.system != against]
    return [
        *(Pair(a, b, "", b.system) for a, b in itertools.product(ours, others) if alike(a, b)),
        *(
            Pair(one, more, "", _budget(more))
            for one, more in itertools.combinations(ours, 2)
            if same_length(one, more)
        ),
    ]


def _by_part(groups: Sequence[Group]) -> Iterator[Pair]:
    for more, less in itertools.permutations(groups, 2):
        ours, theirs = more.runs[0].components, less.runs[0].components
        if theirs < ours and len(ours - theirs) == 1 and comparable(more, less):
            yield Pair(more, less, min(ours - theirs), less.system)


def paired_images(pair: Pair, checkpoint: str, data_set: str) -> tuple[Pairs, list[str]]:
    """Figures of the images that both were tested on, in one order, by seed; and what is left out.

    Of the seeds that both have; where one has a label and they have none in common, of each one's
    first, second and so on.
    """
    ours, theirs = (
        {run.config["seed"]: images for run, images in group.tested(checkpoint, data_set)}
        for group in (pair.one, pair.other)
    )
    if not ours or not theirs:
        return {}, [f"tested on {data_set}: {name(pair.one if ours else pair.other)} alone"]
    free = pair.one.labelled or pair.other.labelled
    notes: list[str] = []
    seeds: dict[int | str, tuple[int, int]] = {n: (n, n) for n in ours if n in theirs}
    if not seeds:
        if not free:
            return {}, [f"they have no seed in common ({_seeds(pair.one, pair.other)})"]
        seeds = {f"{a}/{b}": (a, b) for a, b in zip(ours, theirs)}
    pairs = {}
    for key, (a, b) in seeds.items():
        one, other = _shared(ours[a], theirs[b])
        if not one.ids:
            return {}, [f"no test image of {data_set} in common"]
        counts = [len(images.ids) for images in (one, ours[a], theirs[b])]
        if len({*counts}) > 1:
            notes.append("{}: {} test images in common, of {} and {}".format(data_set, *counts))
        if not _same_truth(one, other):
            notes.append(f"{data_set}: the classes, since the same images have other labels")
            one, other = _without_classes(one), _without_classes(other)
        elif free and bool(one.class_names) != bool(other.class_names):
            notes.append(f"{data_set}: the classes, which one of them alone predicts")
        if free and ("dice" in one.columns) != ("dice" in other.columns):
            notes.append(f"{data_set}: the masks, which one of them alone predicts")
        pairs[key] = one, other
    return pairs, notes


def _shared(one: Images, other: Images) -> tuple[Images, Images]:
    """Figures of the images that both have, by their ids, in the order of the first."""
    if one.ids == other.ids:
        return one, other
    places = [{name: place for place, name in enumerate(images.ids)} for images in (one, other)]
    ids = tuple(name for name in one.ids if name in places[1])

    def of(images: Images, place: Mapping[str, int]) -> Images:
        at = np.array([place[name] for name in ids], int)
        return Images(ids, {name: values[at] for name, values in images.columns.items()})

    return of(one, places[0]), of(other, places[1])


def _same_truth(one: Images, other: Images) -> bool:
    """Whether images have the same classes by both, as far as both know of classes."""
    if not (one.class_names and other.class_names):
        return True
    truths = [
        {name: values for name, values in images.columns.items() if name.startswith("label")}
        for images in (one, other)
    ]
    return one.class_names == other.class_names and all(
        np.array_equal(values, truths[1].get(name, np.nan), equal_nan=True)
        for name, values in truths[0].items()
    )


def _without_classes(images: Images) -> Images:
    kept = {n: v for n, v in images.columns.items() if not n.startswith(("label", "probability_"))}
    return Images(images.ids, kept)


def in_words(groups: Sequence[Group], against: str | None = None) -> str:
    """Markdown: what differs between systems that were given a label, and what is not compared."""
    chosen = choose(groups, against)
    differing = [
        f"{_names(pair)}: {_differing(pair.one, pair.other)}"
        for pair in chosen
        if pair.one.labelled or pair.other.labelled
    ]
    left_out = [
        f"{_names(pair)}: {note}"
        for pair in chosen
        for note in dict.fromkeys(
            note
            for checkpoint, data_set in dict.fromkeys((*pair.one.tests, *pair.other.tests))
            if checkpoint != BASELINE
            for note in paired_images(pair, checkpoint, data_set)[1]
        )
    ]
    together = {frozenset(map(id, pair[:2])) for pair in chosen}
    counted: collections.Counter[str] = collections.Counter()
    for one, other in itertools.combinations(groups, 2):
        if against not in (None, one.system, other.system) or {id(one), id(other)} in together:
            continue
        reason = _by_design(one, other)
        counted[reason] += 1
        if not reason:
            left_out.append(f"{name(one)} and {name(other)}: {_differing(one, other)}")
    left_out += [
        f"{count} pairs of systems {reason}" for reason, count in counted.items() if reason
    ]
    if counted:
        left_out.append(f"{AGAINST}; {LABELS}" if any(counted) and against is None else LABELS)
    sections = {
        "What differs": differing and [*differing, "scores are measured at the size of each run"],
        "What is not compared": left_out,
    }
    listed = lambda lines: "".join(f"* {tables.escaped(line)}.\n" for line in lines)
    return "\n".join(f"### {title}\n\n{listed(of)}" for title, of in sections.items() if of)


def _by_design(one: Group, other: Group) -> str:
    """Why two systems of one experiment are not set beside each other, if nothing is amiss."""
    if not same_budget(one, other):
        return "had other numbers of labels"
    parts = one.runs[0].components ^ other.runs[0].components
    return "differ in more than one part" if len(parts) > 1 else ""


def _differing(one: Group, other: Group) -> str:
    """In what two systems differ."""
    told = [
        # Of files there are digests alone.
        f"{field} (paired by name)" if field.startswith("own ") else f"{field} ({a} and {b})"
        for field, (a, b) in differences_of(one.runs[0], other.runs[0]).items()
    ]
    seeds = _seeds(one, other)
    told += [f"seed ({seeds})"] * (len(set(seeds.split(" and "))) > 1)
    more = [f"and {len(told) - MOST} more fields"] if len(told) > MOST else []
    return f"differ in {', '.join(told[:MOST] + more)}" if told else "differ in nothing"


def _seeds(one: Group, other: Group) -> str:
    return " and ".join("+".join(str(run.config["seed"]) for run in g.runs) for g in (one, other))


def _names(pair: Pair) -> str:
    return f"{name(pair.one)} and {name(pair.other)}"


def name(group: Group) -> str:
    """How a system is called where its length and budget matter: 'umtl (32, 40 steps, 100/10)'."""
    described = group.described
    return f"{group.system} ({described['size']}, {described['steps']} steps, {_budget(group)})"


def _budget(group: Group) -> str:
    labels, masks = group.budget
    return f"{labels or '–'}/{masks or '–'}"
