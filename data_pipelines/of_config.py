"""What commands take from a config, and where they find one."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines import exclude


def preparation(c: Any) -> dict[str, Any]:
    """The fields of a config (see configs/common.py) that `make_builder` takes.

    Raises:
        DataError: its list of examples to leave out cannot be read.
    """
    return dict(
        data_dir=c.data_dir,
        prepared_dir=c.prepared_dir,
        size=c.size,
        fit=c.fit,
        channels=c.model.get("in_channels", 1),
        folder=c.folder.to_dict(),
        leave_out=exclude.read(c.leave_out) if c.leave_out else {},
    )


def with_packaged(arguments: Sequence[str]) -> list[str]:
    """Has a --config that is not in the working folder, such as configs/quickstart.py, found where
    this package is installed."""
    found, before = [], ""
    for argument in arguments:
        flag = next((f for f in ("--config=", "-config=") if argument.startswith(f)), "")
        path = argument.removeprefix(flag)
        if flag or before in ("--config", "-config"):
            file, colon, rest = path.partition(":")
            here = Path(__file__).parent.parent / file
            if file.endswith(".py") and not os.path.exists(file) and here.is_file():
                path = f"{here}{colon}{rest}"
        found.append(flag + path)
        before = argument
    return found
