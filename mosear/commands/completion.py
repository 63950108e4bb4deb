"""Print a script for tab completion in bash: ``eval "$(mosear completion)"``.

It completes the names of commands, and for train and evaluate what Hydra knows: groups, options and keys. Other
commands complete names of files.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mosear.commands import command_names

SCRIPT = """\
_mosear_completion() {{
  COMPREPLY=()
  if [[ "$COMP_CWORD" -le 1 ]]; then
    COMPREPLY=($(compgen -W "{names}" -- "${{COMP_WORDS[COMP_CWORD]}}"))
    return
  fi
  local words=($COMP_LINE) last=""
  [[ "$COMP_LINE" == *" " ]] || last="${{words[-1]}}"
  local found
  # Hydra completes the line of an application, which is here the command without the word mosear.
  found=$(COMP_LINE="${{COMP_LINE#* }}" "${{words[0]}}" "${{words[1]}}" -sc query=bash 2>/dev/null) || return
  COMPREPLY=($(compgen -o nospace -W "$found" -- "$last"))
}}
COMP_WORDBREAKS=${{COMP_WORDBREAKS//=}}
complete -o nospace -o default -F _mosear_completion mosear"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="mosear completion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    print(SCRIPT.format(names=" ".join(command_names())))
