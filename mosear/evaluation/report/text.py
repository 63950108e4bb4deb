"""How the pages write numbers and names, and the templates that use them."""

from __future__ import annotations

import math
from pathlib import Path

import jinja2

BASELINE = "zero_shot"


def template_environment() -> jinja2.Environment:
    """Templates of this directory; text is escaped, and a name that is missing is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(words=in_words, heading=heading, percent=percent, points=points)
    return environment


def in_words(name: str) -> str:
    """A key as prose: ``video_aligned`` is "video aligned"."""
    return name.replace("_", "-" if name == BASELINE else " ")


def heading(name: str) -> str:
    """A key as prose, its first letter large."""
    words = in_words(name)
    return words[:1].upper() + words[1:]


def percent(value: float | None) -> str:
    """A share in percent, with one digit; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of shares in percentage points, signed; a dash where there is none."""
    return "–" if math.isnan(value) else f"{100 * value:+.1f}".replace("-", "−")
