"""Session fixtures around tiny random checkpoints. A conftest.py imports those it wants; pytest finds them there."""

from pathlib import Path

import pytest

from mosear.backbones import OmniBackbone, load_backbone
from tests.tiny_checkpoints import save_qwen3, save_qwen25


@pytest.fixture(scope="session")
def qwen25_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thinker-only Qwen2.5-Omni checkpoint."""
    return save_qwen25(tmp_path_factory.mktemp("qwen25"))


@pytest.fixture(scope="session")
def qwen3_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thinker-only Qwen3-Omni-MoE checkpoint."""
    return save_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="session")
def qwen25(qwen25_dir: Path) -> OmniBackbone:
    """Loaded in float32. Shared by the session: a test that injects adapters loads its own from `qwen25_dir`."""
    return load_backbone(str(qwen25_dir), dtype="fp32")


@pytest.fixture(scope="session")
def qwen3(qwen3_dir: Path) -> OmniBackbone:
    """Loaded in float32. Shared by the session: a test that injects adapters loads its own from `qwen3_dir`."""
    return load_backbone(str(qwen3_dir), dtype="fp32")


@pytest.fixture(scope="session", params=["qwen25", "qwen3"])
def backbone(request: pytest.FixtureRequest) -> OmniBackbone:
    """Each family in turn."""
    return request.getfixturevalue(request.param)
