"""Pages below docs/tables: systems, their differences, and the pictures that ``benchmarks.plots`` draws of both."""

from __future__ import annotations

from pathlib import Path


def write_page(path: Path, systems: str, differences: str, *further: str) -> str:
    """Writes one page, and returns its text.

    Args:
        path: the page; its name names the pictures.
        systems: accuracies as a Markdown table.
        differences: their differences as a Markdown table.
        further: what stands behind them.
    """
    parts = [f"# Table {path.stem}\n"]
    for suffix, words, table in (("", "accuracy in per cent", systems), ("-differences", "differences", differences)):
        if table.strip():
            parts += [f"![{path.stem}: {words}](../images/plots/table-{path.stem}{suffix}.svg)\n", table.strip() + "\n"]
    text = "\n".join([*parts, *(f"{part.strip()}\n" for part in further)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return text
