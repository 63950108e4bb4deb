"""Answers for clips: ``mosear predict clip.mp4 --adapter outputs/lora/<timestamp>/adapter``.

Prints the label distribution, what each modality says alone, how much they disagree, and the time it took. Of several
clips, one line each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosear.startup import quick_imports

if TYPE_CHECKING:
    from rich.table import Table

    from mosear.runtime.predictor import Prediction, Predictor

NAMES = {"visual": "face alone", "audio": "voice alone", "text": "transcript alone"}
TRUST_HELP = "run code that the backbone's checkpoint brings along; a run cannot ask for it"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="mosear predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", metavar="clip", help="media file with video, audio or both")
    parser.add_argument("--adapter", help="a run or its adapter directory; without it the bare backbone answers")
    parser.add_argument("--backbone", help="embedded name, checkpoint directory or hub id (default: the run's own)")
    parser.add_argument("--text", action="append", help="transcript; with several clips, once for each, in order")
    parser.add_argument("--steering", metavar="FILE", help="settings that `python -m mosear calibrate` wrote")
    parser.add_argument("--generate", action="store_true", help="generate and parse text instead of scoring labels")
    parser.add_argument("--max-new-tokens", type=int, default=16, help="with --generate (default: 16)")
    parser.add_argument("--batch-size", type=int, default=8, help="clips per pass (default: 8)")
    parser.add_argument("--trust-remote-code", action="store_true", help=TRUST_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON, one object per clip, instead of a table")
    args = parser.parse_args(arguments)
    if args.text is not None and len(args.text) != len(args.clips):
        parser.error(f"--text is given {len(args.text)} times for {len(args.clips)} clips")
    for name in ("batch_size", "max_new_tokens"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_arguments(arguments)

    try:
        predictor = load(args)
        with predictor.steered(args.steering) if args.steering else nullcontext():
            show(list(predictions(predictor, args)), args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def load(args: argparse.Namespace) -> Predictor:
    """The model that answers."""
    with quick_imports(without=unneeded(args)):
        from mosear.runtime.predictor import Predictor
        from mosear.runtime.quiet import quiet_libraries

        quiet_libraries()
        options = {
            "method": "generate" if args.generate else "score",
            "max_new_tokens": args.max_new_tokens,
            "trust_remote_code": args.trust_remote_code,
        }
        if args.adapter:
            return Predictor.from_run(args.adapter, args.backbone, **options)
        return Predictor.bare(args.backbone or "tiny-omni", **options)


def unneeded(args: argparse.Namespace) -> tuple[str, ...]:
    """Optional libraries that PEFT imports if they are there, and an embedded backbone does not need."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from mosear.backbones.tiny import EMBEDDED

    name, quantization = args.backbone or "tiny-omni", None
    if args.adapter:
        places = [Path(args.adapter) / "config.yaml", Path(args.adapter).parent / "config.yaml"]
        try:
            cfg = OmegaConf.load(next(place for place in places if place.is_file()))
            name = args.backbone or OmegaConf.select(cfg, "backbone.name")
            quantization = OmegaConf.select(cfg, "backbone.quantization")
        except (StopIteration, ValueError, YAMLError, OSError, OmegaConfBaseException):
            return ()  # Run.open says what is wrong
    return ("bitsandbytes", "scipy", "triton") if name in EMBEDDED and quantization is None else ()


def predictions(predictor: Predictor, args: argparse.Namespace) -> Iterator[tuple[str, Prediction]]:
    """Clip by clip, in batches."""
    texts: list[str | None] = args.text or [None] * len(args.clips)
    for start in range(0, len(args.clips), args.batch_size):
        stop = start + args.batch_size
        own = args.clips[start:stop]
        yield from zip(own, predictor.batch(own, texts[start:stop]), strict=True)


def show(found: Sequence[tuple[str, Prediction]], args: argparse.Namespace) -> None:
    """Print what was predicted."""
    from rich.console import Console

    if args.json:
        for clip, one in found:
            shown: dict[str, Any] = {name: value for name, value in asdict(one).items() if value is not None}
            shown = {"clip": clip, **shown} if len(found) > 1 else shown
            print(json.dumps(shown, indent=None if len(found) > 1 else 2, allow_nan=False))
        return
    console = Console()
    if len(found) > 1:
        console.print(_lines(found))
        for clip, one in found:
            if one.cut_at is not None:
                console.print(f"{clip}: {_told_of_cut(one.cut_at)}", markup=False)
        return
    ((_, answer),) = found
    console.print(_table(answer))
    console.print(_closing(answer), markup=False)
    if answer.cut_at is not None:
        console.print(_told_of_cut(answer.cut_at), markup=False)


def _told_of_cut(seconds: float) -> str:
    return f"only the first {seconds:g} s were used (max_seconds of the budget)"


def _closing(answer: Prediction) -> str:
    conflict = "-" if answer.conflict is None else f"{answer.conflict:.2f}"
    without = "" if answer.reason is None else f" ({answer.reason})"
    said = "" if answer.text is None else f"   said: {answer.text!r}"
    steered = (answer.steering or {}).get("target")
    told = "" if steered is None else f"   steered to: {steered}"
    return (
        f"answer: {answer.label or 'none'}{without}{said}   conflict of face and voice: {conflict}{told}   "
        f"{answer.seconds:.2f} s"
    )


def _table(answer: Prediction) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("label")
    table.add_column("all together", justify="right")
    for name in answer.readings:
        table.add_column(NAMES[name], justify="right")
    for label, probability in sorted(answer.distribution.items(), key=lambda item: -item[1]):
        alone = [f"{reading[label]:.1%}" for reading in answer.readings.values()]
        table.add_row(Text(label), f"{probability:.1%}", *alone, style="bold" if label == answer.label else None)
    return table


def _lines(found: Sequence[tuple[str, Prediction]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("clip", "answer", "probability", *NAMES.values(), "conflict"):
        table.add_column(heading, justify="left" if heading in ("clip", "answer") else "right")
    for clip, one in found:
        alone = [_likeliest(one.readings.get(name)) for name in NAMES]
        share = "" if one.label is None else f"{one.distribution[one.label]:.1%}"
        conflict = "-" if one.conflict is None else f"{one.conflict:.2f}"
        table.add_row(*map(Text, (clip, one.label or "none", share, *alone, conflict)))
    return table


def _likeliest(distribution: dict[str, float] | None) -> str:
    return "-" if distribution is None else max(distribution, key=distribution.__getitem__)


if __name__ == "__main__":
    sys.exit(main())
