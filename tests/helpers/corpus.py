"""A small synthetic corpus for the tests of a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mosear.data.synthetic.corpus import ensure_corpus


def rendered_corpus(tmp_path_factory: pytest.TempPathFactory, **sizes: Any) -> Path:
    """A directory for ``data_dir``, with the corpus rendered in it."""
    root = tmp_path_factory.mktemp("data")
    ensure_corpus(root / "synthetic", **sizes)
    return root
