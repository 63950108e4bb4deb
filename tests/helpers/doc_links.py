"""Links of Markdown pages: does what they name exist, headings included. Nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^(?: {4}|\t).*$", re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)


def links(text: str) -> Iterator[str]:
    """Targets of links and pictures, those in code left out."""
    for pattern in (_FENCE, _INDENTED, _CODE):
        text = pattern.sub("", text)
    for found in _LINK.finditer(text):
        yield found[1] or found[2]


def anchors(text: str) -> set[str]:
    """Names of the headings, as GitHub and the site make them."""
    names: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        count = 1
        while (numbered := name if count == 1 else f"{name}-{count - 1}") in names:
            count += 1
        names.add(numbered)
    return names


def broken(page: Path, root: Path) -> list[str]:
    """The links of a page that lead nowhere, each in a sentence."""
    problems = []
    for link in links(page.read_text(encoding="utf-8")):
        target, _, anchor = unquote(link).partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        where = (page.parent / target).resolve() if target else page.resolve()
        if not where.is_relative_to(root.resolve()) or not where.exists():
            problems.append(f"{page.relative_to(root)}: {link} does not exist")
        elif anchor and where.suffix == ".md" and anchor not in anchors(where.read_text(encoding="utf-8")):
            problems.append(f"{page.relative_to(root)}: {link} names no heading of {where.relative_to(root.resolve())}")
    return problems
