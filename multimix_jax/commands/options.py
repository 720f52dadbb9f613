"""Flags that several commands have."""

import argparse

from multimix_jax.names import Checkpoint


def add_which(parser: argparse.ArgumentParser) -> None:
    """Which weights to read."""
    parser.add_argument(
        "--which",
        choices=tuple(Checkpoint),
        default=Checkpoint.BEST,
        help="the weights that were best on validation, or the last (default: %(default)s)",
    )
