"""What is found about the files of a set while they are read.

A reader calls `note` wherever it sees something worth knowing; whoever has it read, be it to audit
or to prepare, collects that. So no file is read twice, and both find the same.
"""

import collections
import contextlib
import contextvars
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from multimix_jax import atomic
from multimix_jax.errors import as_text

ERROR, WARNING, NOTE = "error", "warning", "note"  # cannot be used; may be wrong; good to know


class Problem(NamedTuple):
    """Of one example, or of the set as a whole: see `Finding`."""

    kind: str
    severity: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about some examples.

    Attributes:
      data_set: which they are of; of several, joined by '+'.
      kind: what it is, such as 'unreadable'.
      severity: ERROR, WARNING or NOTE.
      ids: examples concerned; () where the set as a whole is.
      detail: an account of it.
      exclude: those of `ids`, as (data set, id), that had better not be trained on.
    """

    data_set: str
    kind: str
    severity: str
    ids: Sequence[str]
    detail: str
    exclude: Sequence[tuple[str, str]] = ()


_collecting: contextvars.ContextVar[list[Problem] | None] = contextvars.ContextVar(
    "collecting", default=None
)


def note(kind: str, severity: str, detail: str) -> None:
    """Notes something about the example that is being read, or about the set that is being listed.

    Equal kinds become one finding, which counts the examples and shows a few of the details.
    """
    problems = _collecting.get()
    if problems is not None:
        problems.append(Problem(kind, severity, as_text(detail)))


@contextlib.contextmanager
def collected() -> Iterator[list[Problem]]:
    """What this thread notes meanwhile."""
    problems: list[Problem] = []
    token = _collecting.set(problems)
    try:
        yield problems
    finally:
        _collecting.reset(token)


def write(path: Path, findings: Sequence[Finding]) -> None:
    """Stores them as JSON, for people and for `read`."""
    entries = [dataclasses.asdict(finding) for finding in findings]
    with atomic.replacing(path) as temporary:
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> list[Finding] | None:
    """Those that were stored; None where they were not."""
    if not path.exists():
        return None
    return [Finding(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def summary(by_set: Mapping[str, Sequence[Finding] | None]) -> str:
    """In one line, how many warnings the audit has for the sets of a run, as its table counts."""
    of_sets, unknown = [], []
    for name, found in by_set.items():
        if found is None:
            unknown.append(name)
            continue
        examples: dict[str, set[str]] = collections.defaultdict(set)
        warnings = [finding for finding in found if finding.severity == WARNING]
        for finding in warnings:
            examples[finding.kind].update(finding.ids)
        details = {finding.kind: finding.detail for finding in warnings}
        kinds = [f"{kind}: {len(ids) or details[kind]}" for kind, ids in examples.items()]
        if kinds:
            plural = "s" if len(kinds) > 1 else ""
            of_sets.append(f"{name}: {len(kinds)} warning{plural} ({'; '.join(kinds)})")
    if unknown:
        of_sets.append(f"not known of {', '.join(unknown)}")
    if not of_sets:
        return "audit: no warnings"
    return f"audit: {', '.join(of_sets)}; multimix-audit --config=... lists them"
