"""The commands of tlab: `python -m tlab` lists them, `python -m tlab train ...` is `python -m tlab.train ...`."""

import re
import runpy
import sys

from tlab import __version__
from tlab.config.hydra import conf_dir
from tlab.config.schema import COMMANDS
from tlab.core.error_messages import closest, exit_with_error
from tlab.core.text import shell_command


def purposes() -> dict[str, str]:
    """Return what each command is for: the first line of its --help."""
    found = {}
    for name in COMMANDS:
        page = (conf_dir() / "hydra" / "help" / f"{name}.yaml").read_text(encoding="utf-8")
        found[name] = next(iter(re.findall(rf"tlab\.{name}: ([^\"\n]+)", page)), "")
    return found


def main() -> None:
    """Carry out the command that is named, or list the commands."""
    if len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help", "help"):
        print("tlab: transfer learning on image folders. Each command lists its keys with --help.\n")
        print("\n".join(f"  python -m tlab.{name:<9} {purpose}" for name, purpose in purposes().items()))
        return
    name, *arguments = sys.argv[1:]
    if name == "--version":
        print(__version__)
        return
    if name not in COMMANDS:
        named = name.removesuffix(".py")
        words = arguments if re.fullmatch(r"\w[\w-]*", named) else sys.argv[1:]
        command = named if named in COMMANDS else closest(named, COMMANDS) or "train"
        meant = shell_command(["python", "-m", f"tlab.{command}", *words])
        exit_with_error(f"{name} is no command, did you mean {meant}; there are {', '.join(COMMANDS)}")
    sys.argv[1:] = arguments
    runpy.run_module(f"tlab.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
