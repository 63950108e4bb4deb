"""One clip, one answer: ``python -m mosear.predict clip.mp4 --adapter outputs/lora/<timestamp>/adapter``.

Prints the label distribution, what each modality says alone, how much they disagree, and the time it took.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from mosear.runtime.predictor import Answer

NAMES = {"visual": "face alone", "audio": "voice alone", "text": "transcript alone"}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mosear.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", help="media file with video, audio or both")
    parser.add_argument("--adapter", help="adapter directory of a run; without it the bare backbone answers")
    parser.add_argument("--backbone", help="embedded name, checkpoint directory or hub id (default: the run's own)")
    parser.add_argument("--text", help="transcript of the clip")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(arguments)

    from mosear.runtime.assemble import quiet_libraries
    from mosear.runtime.predictor import Predictor

    quiet_libraries()
    try:
        if args.adapter:
            predictor = Predictor.from_adapter(args.adapter, args.backbone)
        else:
            predictor = Predictor.bare(args.backbone or "tiny-omni")
        answer = predictor(args.clip, text=args.text)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(asdict(answer), indent=2))
    else:
        from rich.console import Console

        console = Console()
        console.print(_table(answer))
        conflict = "-" if answer.conflict is None else f"{answer.conflict:.2f}"
        console.print(f"answer: {answer.label}   conflict of face and voice: {conflict}   {answer.seconds:.2f} s")
    return 0


def _table(answer: Answer) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("label")
    table.add_column("all together", justify="right")
    for name in answer.readings:
        table.add_column(NAMES[name], justify="right")
    for label, probability in sorted(answer.distribution.items(), key=lambda item: -item[1]):
        alone = [f"{reading[label]:.1%}" for reading in answer.readings.values()]
        table.add_row(label, f"{probability:.1%}", *alone, style="bold" if label == answer.label else None)
    return table


if __name__ == "__main__":
    sys.exit(main())
