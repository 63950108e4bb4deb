"""Where this repository is, and the options of every benchmark that reads the synthetic corpus."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"


def add_corpus_options(parser: argparse.ArgumentParser) -> None:
    """Where the clips are, and whether to render them."""
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the synthetic corpus is or will be")
    parser.add_argument("--prepared", action="store_true", help="take the corpus there as it is")
