"""What commands take from their arguments, and from the config that these name."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines import exclude
from data_pipelines.errors import DataError

# Flags that were called otherwise, and what to do instead.
RENAMED = {
    "fix_list": "use --exclude_list",
    "config.leave_out": "use --config.exclude",
}


def preparation(c: Any) -> dict[str, Any]:
    """The fields of a config (see configs/common.py) that `make_builder` takes.

    Raises:
        DataError: its list of examples to exclude cannot be read.
    """
    return dict(
        data_dir=c.data_dir,
        prepared_dir=c.prepared_dir,
        size=c.size,
        fit=c.fit,
        channels=c.model.get("in_channels", 1),
        folder=c.folder.to_dict(),
        exclude=exclude.read(c.exclude) if c.exclude else {},
    )


def with_packaged(arguments: Sequence[str]) -> list[str]:
    """The arguments, in which a --config that is not in the working folder, such as
    configs/quickstart.py, becomes the path of the one that is installed with this package.

    Raises:
        DataError: one of the flags is called otherwise now.
    """
    resolved, before = [], ""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("-") and name.lstrip("-") in RENAMED:
            raise DataError(f"{name} is no flag any more; {RENAMED[name.lstrip('-')]}")
        if before in ("--config", "-config"):
            argument = _packaged(argument)
        elif name in ("--config", "-config") and name != argument:
            argument = f"{name}={_packaged(argument.partition('=')[2])}"
        resolved.append(argument)
        before = argument
    return resolved


def _packaged(config: str) -> str:
    """The installed file of that name, if there is one and none in the working folder."""
    file, colon, options = config.partition(":")
    installed = Path(__file__).parent.parent / file
    if file.endswith(".py") and not os.path.exists(file) and installed.is_file():
        return f"{installed}{colon}{options}"
    return config
