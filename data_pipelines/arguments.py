"""What commands take from their arguments, and from the config that these name."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from data_pipelines import exclude, fields
from data_pipelines.errors import DataError

flags.DEFINE_bool("print_config", False, "Print every field with its comment, and end.")
_HELP = ("help", "helpshort", "helpfull", "h", "?")

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
    """absl's parser for commands with a --config, and perhaps a --workdir, which they need; of what
    is wrong it says one line. --help and --print_config end with status 0."""
    if set(argv[1:]) & {f"-{dash}{name}" for dash in ("", "-") for name in _HELP}:
        print(_help())
        sys.exit()
    given: list[str] = []
    try:
        given = with_packaged(argv[1:])
        rest = flags.FLAGS([argv[0], *given])
        needed = [name for name in ("config", "workdir") if name in flags.FLAGS]
        missing = [name for name in needed if flags.FLAGS[name].value is None]
        if "config" not in missing:
            flags.FLAGS.config.lock()  # one that cannot be read is noticed only when asked for
            if flags.FLAGS.print_config:
                path = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
                print(fields.describe(flags.FLAGS.config, Path(path)))
                sys.exit()
        if missing:
            sys.exit(f"error: --{missing[0]} is missing; --help has an example, and all flags")
        return rest
    except BrokenPipeError:  # of --help
        raise
    except RecursionError:  # of absl, which looks for similar names
        sys.exit("error: an argument is far too long or too deeply nested; shorten it")
    except DataError as error:
        sys.exit(f"error: {error}")
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        remedy = "all fields of --config: --print_config; all flags: --help"
        sys.exit(f"error: {_fault(given, reason) or f'{reason} ({remedy})'}")


def _help() -> str:
    """What the command does, and its flags."""
    defined = flags.FLAGS.flags_by_module_dict()
    command = str(flags.FLAGS.find_module_defining_flag("config"))
    own = [*defined[command], *defined[__name__]]
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "flags:"]
    for flag in own:
        named = flag.name if flag.boolean else f"{flag.name}=VALUE"
        default = f" (default: {flag.default})" if flag.default else ""
        lines.append(f"  --{named:26} {flag.help.strip()}{default}")
        if flag.name == "config":
            lines.append(f"  --{'config.FIELD=VALUE':26} Sets a field, as in --config.steps=500.")
    return "\n".join(lines)


def _fault(given: Sequence[str], reason: str) -> str:
    """What is wrong with a field that is set on a command line, which absl refused for a `reason`;
    '' if it is something else."""
    named = [argument.partition("=") for argument in given]
    after = dict(zip(given, given[1:]))  # "--config FILE"
    values = {name.lstrip("-"): value or after.get(name, "") for name, _, value in named}
    try:
        loaded = fields.load(values["config"])
    except Exception:  # of many kinds, since files of configs are programs
        return ""
    for name, value in values.items():
        if name.startswith("config."):
            fault = fields.fault(name.partition(".")[2], value, loaded)
            if " is unknown" in fault or reason.startswith(f"flag --{name}="):
                return fault
    return ""


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
