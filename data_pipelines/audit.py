"""Looks at every file of the data sets of a config, before anything is trained on them.

    multimix-audit --config=configs/multimix.py --config.data_dir=DIR
    multimix-audit --config=... --json=audit.json --exclude_list=exclude.csv

Prints its findings, by kind; --json has all of them. --exclude_list writes the examples that had
better not be used; a run takes that list as --config.exclude. Exit status 1 where some file cannot
be used.
"""

import contextlib
import csv
import functools
import itertools
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tabulate
from absl import app, flags
from ml_collections import config_flags

import data_pipelines
from data_pipelines import arguments, checks, exclude, findings
from data_pipelines.arguments import preparation
from data_pipelines.errors import DataError
from data_pipelines.findings import ERROR, NOTE, WARNING, Finding
from data_pipelines.prepare import SetBuilder
from data_pipelines.threads import in_threads, show_progress
from multimix_jax import atomic
from multimix_jax.errors import UsageError


def audit(builders: Mapping[str, SetBuilder]) -> list[Finding]:
    """Reads every example of some sets, by name, once: what is wrong with each and with all."""
    found: list[Finding] = []
    facts: list[checks.Facts] = []
    for name, builder in builders.items():
        with tempfile.TemporaryDirectory() as scratch:
            try:
                sources, problems = builder.listed(Path(scratch))
            except DataError as error:
                found.append(cannot_be_listed(name, error))
                continue
            look = functools.partial(checks.examine, name, builder.label_spec, builder.example)
            examined = (one for one, _ in in_threads(look, sources))
            of_set = list(show_progress(examined, f"Reading {name}", len(sources)))
        found += checks.of_set(name, builder.label_spec, builder.complete, of_set, problems)
        facts += of_set
    return found + checks.duplicates(facts)


def cannot_be_listed(name: str, error: DataError) -> Finding:
    """Of a set of which no example can be read, since it is wrong as a whole."""
    return Finding(name, "cannot be listed", ERROR, (), str(error))


def table(found: Sequence[Finding]) -> str:
    """The findings, by data set, severity and kind."""
    order = lambda one: (one.data_set, (ERROR, WARNING, NOTE).index(one.severity), one.kind)
    rows = []
    for _, group in itertools.groupby(sorted(found, key=order), order):
        first, *others = group
        ids = set(first.ids).union(*(other.ids for other in others))
        example = f"{first.ids[0]}: {first.detail}" if first.ids else first.detail
        rows.append((first.data_set, first.severity, first.kind, len(ids) or "", example[:140]))
    headers = ("data set", "", "what", "examples", "such as")
    return tabulate.tabulate(rows, headers, tablefmt="plain", disable_numparse=True)


def write_exclude_list(path: Path, found: Sequence[Finding]) -> int:
    """Writes what to exclude, and why, for `exclude.read`; gives how many that are."""
    # Of several reasons the first counts.
    reasons = {entry: one.kind for one in reversed(found) for entry in one.exclude}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(exclude.COLUMNS)
        writer.writerows((*entry, reason) for entry, reason in sorted(reasons.items()))
    return len(reasons)


def audit_config(config: Mapping[str, Any], names: Iterable[str]) -> list[Finding]:
    """All findings of some data sets as a config (nested dictionaries) has them prepared."""
    options = preparation(config) | {"exclude": {}}
    found, builders = [], {}
    for name in names:
        try:
            builders[name] = data_pipelines.make_builder(name, **options)
        except DataError as error:
            found.append(cannot_be_listed(name, error))
    return found + audit(builders)


def main(argv: list[str]) -> None:
    del argv
    values = flags.FLAGS
    config = values.config
    tests = [item.partition("=")[0].strip() for item in config.test_data.split(",")]
    names = dict.fromkeys(filter(None, (config.seg_data, config.cls_data, *tests)))
    try:
        with contextlib.ExitStack() as stack:  # before anything is read
            for flag in ("json", "exclude_list"):
                if path := getattr(values, flag):
                    folder = Path(path).parent
                    stack.enter_context(atomic.writing(f"--{flag}", folder))
                    folder.mkdir(parents=True, exist_ok=True)
            found = audit_config(config.to_dict(), names)
            print(table(found))
            if values.json:
                findings.write(Path(values.json), found)
            if values.exclude_list:
                count = write_exclude_list(Path(values.exclude_list), found)
                print(f"{count} examples to exclude: --config.exclude={values.exclude_list}")
    except UsageError as error:
        sys.exit(f"error: {error}")
    if any(finding.severity == ERROR for finding in found):
        sys.exit(1)


def run() -> None:
    """The command, as `multimix-audit` or `python -m data_pipelines.audit`."""
    sys.modules["__main__"].__doc__ = __doc__  # what --help shows
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # into `head` it ends quietly
    config_flags.DEFINE_config_file("config", None, "Config file, as for launch.py.")
    flags.DEFINE_string("json", None, "File to write all findings to.")
    flags.DEFINE_string("exclude_list", None, "CSV file to write the examples to exclude to.")
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=arguments.parse)


if __name__ == "__main__":
    run()
