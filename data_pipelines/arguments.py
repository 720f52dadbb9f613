"""What commands take from their arguments, and from the config that these name."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from data_pipelines import exclude
from data_pipelines.errors import DataError

# Flags and configs that were called otherwise, and what to do instead.
RENAMED_CONFIGS = {"configs/best.py": "use configs/consistency.py"}
RENAMED = {
    "fix_list": "use --exclude_list",
    "config.leave_out": "use --config.exclude",
    "config.components": "use --config.keep_largest",
    "config.objective.mirror": "use --config.flips",
    "config.objective.exclusive": "leave it out, since the data say so",
    "config.objective.pose": "use --config.objective.spatial",
    "config.objective.weak_pose": "use --config.objective.weak_spatial",
    "config.objective.appearance": "use --config.objective.intensity",
}


def preparation(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `make_builder` takes of a config's fields (nested dictionaries, configs/common.py)."""
    names = ("data_dir", "prepared_dir", "size", "fit", "folder")
    return {name: config[name] for name in names} | dict(
        channels=config["model"].get("in_channels", 1),
        exclude=exclude.read(config["exclude"]) if config["exclude"] else {},
    )


def parse(argv: Sequence[str]) -> list[str]:
    """absl's parser for commands with a --config; of what is wrong it says one line."""
    try:
        rest = flags.FLAGS([argv[0], *with_packaged(argv[1:])])
        flags.FLAGS.config.lock()  # a file that cannot be read is noticed only when it is asked for
        return rest
    except BrokenPipeError:  # of --help
        raise
    except RecursionError:  # of absl, which looks for similar names
        sys.exit("error: an argument is far too long or too deeply nested; shorten it")
    except DataError as error:
        sys.exit(f"error: {error}")
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        sys.exit(f"error: {reason} (fields of --config: see configs/common.py; help: --helpshort)")


def with_packaged(arguments: Sequence[str]) -> list[str]:
    """The arguments, in which a --config that is not in the working folder, such as
    configs/quickstart.py, becomes the path of the one that is installed with this package.

    Raises DataError where a flag or a config is called otherwise now.
    """
    resolved, before = [], ""
    for argument in arguments:
        name, equals, config = argument.partition("=")
        if name.startswith("-") and name.lstrip("-") in RENAMED:
            raise DataError(f"{name} is no flag any more; {RENAMED[name.lstrip('-')]}")
        if before in ("--config", "-config"):
            argument = _packaged(argument)
        elif name in ("--config", "-config") and equals:
            argument = f"{name}={_packaged(config)}"
        resolved.append(argument)
        before = argument
    return resolved


def _packaged(config: str) -> str:
    """The installed file of that name, if there is one and none in the working folder."""
    file, colon, options = config.partition(":")
    if file in RENAMED_CONFIGS and not os.path.exists(file):
        raise DataError(f"{file} is no config any more; {RENAMED_CONFIGS[file]}")
    installed = Path(__file__).parent.parent / file
    if file.endswith(".py") and not os.path.exists(file) and installed.is_file():
        return f"{installed}{colon}{options}"
    return config
