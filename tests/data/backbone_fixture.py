"""Tiny backbones with random weights and a small corpus, made once per session. Heavy imports wait for a test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-Omni checkpoint directory."""
    from tests.tiny_checkpoints import save_qwen25

    return save_qwen25(tmp_path_factory.mktemp("qwen25"))


@pytest.fixture(scope="session")
def backbone(tiny_checkpoint: Path) -> OmniBackbone:
    """Qwen2.5-Omni in float32, for all tests that do not change it."""
    from mosear.backbones import load_backbone

    return load_backbone(str(tiny_checkpoint), dtype="fp32")


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> OmniBackbone:
    """Qwen3-Omni-MoE in float32: other patches, fewer audio tokens, DeepStack."""
    from mosear.backbones import load_backbone
    from tests.tiny_checkpoints import save_qwen3

    return load_backbone(str(save_qwen3(tmp_path_factory.mktemp("qwen3"))), dtype="fp32")


@pytest.fixture(scope="session", params=["qwen2.5", "qwen3"])
def any_backbone(request: pytest.FixtureRequest) -> OmniBackbone:
    """Each family in turn."""
    return request.getfixturevalue("backbone" if request.param == "qwen2.5" else "qwen3")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips per training flavour and two per test subset, 56 x 56, two seconds each."""
    from mosear.data.synthetic import ensure_corpus

    sizes = {"train_clips": 6, "val_clips": 2, "test_clips": 2}
    return ensure_corpus(tmp_path_factory.mktemp("corpus"), **sizes, workers=1, size=56)
