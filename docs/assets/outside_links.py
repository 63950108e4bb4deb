"""Hook of mkdocs: links to files outside of ``docs/`` name the file, because the site does not hold it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Replaces links that leave ``docs_dir`` by the file's name as code."""
    docs, here = Path(config["docs_dir"]).resolve(), Path(page.file.abs_src_path).resolve().parent

    def replaced(link: re.Match[str]) -> str:
        words, target = link[1], link[2].partition("#")[0]
        if not target or "://" in target or (here / target).resolve().is_relative_to(docs):
            return link[0]
        return words if words.startswith("`") else f"`{words}`"

    return _LINK.sub(replaced, markdown)
