"""What got slower since the stored ratios: ``python -m benchmarks.regression`` (minutes; exit code 1 if anything did).

Runs small cases of the other benchmarks and compares their ratios, ours to the alternative measured beside it in the
same run, with those of ``benchmarks/ratios.json``. Ratios can be compared between machines where seconds cannot, but
not between CPU and GPU: store your own with ``--update`` before a change, and compare after it.

A ratio counts as worse if it rose by more than ``--tolerance``; lower is better everywhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import evaluation, experts, lm_head, steering
from benchmarks.side_by_side import ratios
from mosear.data.synthetic.corpus import ensure_corpus
from mosear.files import written_atomically

STORED = Path(__file__).with_name("ratios.json")
CLOCK = ("--threads=1", "--clock=cpu")
"""Other jobs do not enter it."""


def cases_of(main: Callable[[Sequence[str]], None], options: Sequence[str]) -> list[dict[str, Any]]:
    """What a benchmark writes with ``--json``; its table goes to stderr."""
    with TemporaryDirectory() as directory, redirect_stdout(sys.stderr):
        path = Path(directory) / "found.json"
        main([*options, *CLOCK, f"--json={path}"])
        return json.loads(path.read_text(encoding="utf-8"))["cases"]


def experts_ratios(rounds: int) -> dict[str, float]:
    """MoSE to PEFT's LoRA of the same total rank."""
    options = ["--quick", "--dtypes", "float32", f"--repeats={rounds}"]
    return {
        f"MoSE / LoRA, {one['title'].replace(' | ', ', ')}": one["time_ratio"]["mose"]
        for one in cases_of(experts.main, options)
    }


def steering_ratios(rounds: int) -> dict[str, float]:
    """Steered attention to the kernel it runs on."""
    options = ["--parts", "attention", "--tokens", "512", "--dtypes", "float32", f"--repeats={rounds}"]
    found = {}
    for one in cases_of(steering.main, options):
        for way in ("ar", "chase"):
            found[f"{way} / SDPA, attention, {one['case']['phase']}"] = one["time_ratio"][way]
    return found


def lm_head_ratios(rounds: int) -> dict[str, float]:
    """Answer positions to all positions."""
    seconds = lm_head.timed(lm_head.Problem(vocab=64_000, hidden=512, repeats=rounds))
    return {"answer logits / all logits": statistics.median(ratios(seconds, "naive")["answers"])}


def evaluation_ratios(rounds: int) -> dict[str, float]:
    """Label scoring to what writes an answer."""
    with TemporaryDirectory() as data_dir:
        with redirect_stdout(sys.stderr):
            ensure_corpus(Path(data_dir) / "synthetic", test_clips=8, train_clips=1, val_clips=1, missing_clips=1)
        sizes = ["--batch=16", "--batches=2", f"--repeats={rounds}", "--prepared", f"--data-dir={data_dir}"]
        (one,) = cases_of(evaluation.main, [*sizes, "--parts", "answers", "--written", "0"])
    return {f"score / {way}": 1 / ratio for way, ratio in one["time_ratio"].items()}


CHECKS: dict[str, Callable[[int], dict[str, float]]] = {
    "experts": experts_ratios,
    "steering": steering_ratios,
    "lm_head": lm_head_ratios,
    "evaluation": evaluation_ratios,
}


def report(stored: dict[str, float], found: dict[str, float], tolerance: float) -> tuple[str, list[str]]:
    """A Markdown table, and the names of what got worse."""
    lines = ["| ratio | stored | now | change | |", "|---|---:|---:|---:|---|"]
    worse = []
    for name, now in found.items():
        before = stored.get(name)
        if before is None:
            lines.append(f"| {name} | | {now:.2f} | | new |")
            continue
        change = now / before - 1
        verdict = "worse" if change > tolerance else "better" if change < -tolerance else ""
        worse += [name] if verdict == "worse" else []
        lines.append(f"| {name} | {before:.2f} | {now:.2f} | {100 * change:+.0f} % | {verdict} |")
    return "\n".join(lines), worse


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--rounds", type=int, default=9, help="of each case")
    parser.add_argument("--tolerance", type=float, default=0.15, help="rise of a ratio that counts, as a share of it")
    parser.add_argument("--stored", type=Path, default=STORED, help="ratios to compare with")
    parser.add_argument("--update", action="store_true", help="store what is found instead")
    args = parser.parse_args(argv)
    if args.rounds < 3 or not args.tolerance > 0:
        parser.error(f"--rounds={args.rounds} must be 3 or more, --tolerance={args.tolerance} above 0.")
    stored = json.loads(args.stored.read_text(encoding="utf-8")) if args.stored.is_file() else {}
    found: dict[str, float] = {}
    for name in args.only:
        print(f"== {name}", file=sys.stderr, flush=True)
        found |= {f"{name}: {key}": round(value, 4) for key, value in CHECKS[name](args.rounds).items()}
    text, worse = report(stored, found, args.tolerance)
    print(text)
    if args.update:
        with written_atomically(args.stored) as temporary:
            temporary.write_text(json.dumps(stored | found, indent=1) + "\n", encoding="utf-8")
        return 0
    if worse:
        share = f"{100 * args.tolerance:.0f} %"
        print(f"\n{len(worse)} of {len(found)} ratios rose by more than {share}: {'; '.join(worse)}")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
