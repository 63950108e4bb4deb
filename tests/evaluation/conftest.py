"""Backbones and a browser for the tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.fixtures_backbones import qwen3, qwen3_dir, qwen25, qwen25_dir
from tests.helpers.browser import Browser

__all__ = ["qwen3", "qwen3_dir", "qwen25", "qwen25_dir"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()
