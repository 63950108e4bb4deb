"""Renders the synthetic corpus.

python -m mosear.data.synthetic --root data/synthetic --seed 0 --test-clips 300
"""

import argparse
import json
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mosear.data.synthetic",
        description="Render the synthetic emotion corpus: faces and voices as mp4 files, with Parquet manifests. "
        "An interrupted run is resumed; larger counts add clips to an existing corpus, smaller ones list fewer.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=Path("data/synthetic"), help="folder of the corpus")
    parser.add_argument("--seed", type=int, default=0, help="seed of every clip")
    parser.add_argument("--train-clips", type=int, default=1200, help="clips in each training flavour")
    parser.add_argument(
        "--train-flavours", nargs="+", default=["natural", "voice_dominant"], help="training clips to render"
    )
    parser.add_argument("--val-clips", type=int, default=300, help="consistent validation clips, half per conflict")
    parser.add_argument("--test-clips", type=int, default=300, help="clips in each test subset")
    parser.add_argument(
        "--missing-clips", type=int, default=None, help="clips in each test subset without a modality (as many)"
    )
    parser.add_argument(
        "--ood-clips", type=int, default=0, help="clips in the test subset in another style; 0 for no such subset"
    )
    parser.add_argument("--size", type=int, default=112, help="height and width of the frames in pixels")
    parser.add_argument("--workers", type=int, default=None, help="rendering processes (default: one per core)")
    return parser.parse_args()


def print_counts(root: Path) -> None:
    """Shows how many clips each manifest holds, by subset."""
    from rich.console import Console
    from rich.table import Table

    counts = json.loads((root / "corpus.json").read_text(encoding="utf-8"))["counts"]
    table = Table("manifest", "subset", title=f"Synthetic corpus in {root}")
    table.add_column("clips", justify="right")
    for manifest, subsets in counts.items():
        for subset, count in subsets.items():
            table.add_row(f"{manifest}.parquet", subset, str(count))
        table.add_section()
    table.add_row("total", "", str(sum(sum(subsets.values()) for subsets in counts.values())))
    Console().print(table)


def main() -> None:
    arguments = parse_arguments()
    from mosear.data.synthetic.corpus import ensure_corpus

    try:
        root = ensure_corpus(**vars(arguments))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    print_counts(root)


if __name__ == "__main__":
    main()
