"""``mosear NAME ...``, or ``python -m mosear NAME ...``: runs a command of :mod:`mosear.commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches

from mosear import __version__
from mosear.commands import command_names, run_command, summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("--help", "-h"):
        print(usage())
        return 0
    name, *rest = given
    if name == "--version":
        print(f"mosear {__version__}")
        return 0
    if name not in command_names():
        close = get_close_matches(name, command_names(), 1)
        meant = f" Did you mean {close[0]}?" if close else ""
        print(f"error: mosear has no command {name!r}.{meant} `mosear --help` lists the commands.", file=sys.stderr)
        return 2
    return run_command(name, rest)


def usage() -> str:
    """What ``mosear --help`` prints."""
    told = "\n".join(f"  {name:20}{summary(name)}" for name in command_names())
    return f"usage: mosear COMMAND ...\n\n{told}\n\n`mosear COMMAND --help` explains one."


if __name__ == "__main__":
    sys.exit(main())
