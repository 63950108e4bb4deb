"""Draws the pictures of the documentation.

python -m benchmarks.plots                      # docs/images/plots/*.svg, from the tables below docs/
python -m benchmarks.plots screenshot RUN       # docs/images/report.png, from a run's report.html (needs Chromium)
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.options import ROOT
from benchmarks.plots.architecture import architecture
from benchmarks.plots.drawing import THEMES
from benchmarks.plots.figures import FIGURES, MAIN, Figure, of_tables
from benchmarks.plots.growth import growth
from benchmarks.plots.lines import Lines

DOCS = ROOT / "docs"
PLOTS = DOCS / "images" / "plots"
WINDOW = "1200,900"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pictures(docs: Path) -> dict[str, str]:
    """All pictures by file name."""
    figures: list[Figure | Lines] = [*FIGURES, *of_tables(docs)]
    drawn = {f"{figure.name}.svg": figure.draw(docs, "auto") for figure in figures}
    drawn["growth.svg"] = growth(docs / "appendix" / "growth.md", "auto")
    for theme in THEMES:
        suffix = "" if theme == "auto" else f"-{theme}"
        drawn[f"architecture{suffix}.svg"] = architecture(theme)
        drawn[f"{MAIN.name}{suffix}.svg"] = MAIN.draw(docs, theme)
    return drawn


def write(docs: Path, target: Path) -> list[Path]:
    """Writes all pictures, and removes those whose table has gone."""
    target.mkdir(parents=True, exist_ok=True)
    drawn = pictures(docs)
    for old in set(target.glob("*.svg")) - {target / name for name in drawn}:
        old.unlink()
    for name, svg in drawn.items():
        (target / name).write_text(svg, encoding="utf-8")
    return [target / name for name in drawn]


def screenshot(page: Path, target: Path) -> None:
    """The top of a page as PNG."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ValueError(f"A screenshot needs one of {', '.join(BROWSERS)} on the PATH; none is there.")
    if not page.is_file():
        raise ValueError(f"There is no {page}: name the directory of a finished run.")
    with tempfile.TemporaryDirectory() as profile:
        options = [
            "headless", "no-sandbox", "disable-gpu", "hide-scrollbars", f"user-data-dir={profile}",
            f"window-size={WINDOW}", f"screenshot={target.resolve()}",
        ]  # fmt: skip
        command = [browser, *(f"--{option}" for option in options), page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=180)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", metavar="screenshot RUN")
    shot = what.add_parser("screenshot", help="docs/images/report.png, from a run's report")
    shot.add_argument("run", type=Path)
    shot.add_argument("--out", type=Path, default=DOCS / "images" / "report.png")
    args = parser.parse_args()
    try:
        if args.what == "screenshot":
            screenshot(args.run / "report.html", args.out)
            print(args.out)
        else:
            print(f"{len(write(DOCS, PLOTS))} pictures in {PLOTS}")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
