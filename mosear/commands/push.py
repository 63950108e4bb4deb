"""Upload a run's adapter, model card and config to the Hugging Face Hub.

``mosear push RUN --to user/name`` makes a private repository, unless ``--public`` is given, and uploads weights and
settings of the adapter, its model card, and the run's config without paths of this machine and without secrets. The
token is the one of ``hf auth login`` or of HF_TOKEN; HF_ENDPOINT names another hub.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="mosear push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a finished run")
    parser.add_argument(
        "--to", required=True, metavar="USER/NAME", help="the repository; it is made if it is not there"
    )
    parser.add_argument("--license", help="identifier for the card, such as apache-2.0 (default: undecided)")
    parser.add_argument("--public", action="store_true", help="a new repository is open to everyone")
    parser.add_argument("--dry-run", action="store_true", help="list the files, and upload nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_arguments(arguments)
    from mosear.runtime.push import check_name, files_to_push, push

    try:
        check_name(args.to)
        files = files_to_push(args.run, args.license)
        for name, content in files.items():
            print(f"{len(content):>12,} bytes  {name}")
        if args.dry_run:
            seen = "public" if args.public else "private"
            print(f"nothing was uploaded (--dry-run); a new {args.to} would be {seen}")
            return 0
        print(f"uploaded to {push(files, args.to, public=args.public)}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
