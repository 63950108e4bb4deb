"""Where the config files of mosear lie: ``conf/`` of a checkout, and a copy of it in an installed package."""

from __future__ import annotations

from pathlib import Path

CONF = Path(__file__).parents[1] / "conf"
"""In a checkout ``mosear/conf`` is a link to the directory at its top; a wheel holds the files themselves."""
