"""Backbones for the tests of this folder."""

from tests.fixtures_backbones import backbone, qwen3, qwen3_dir, qwen25, qwen25_dir

__all__ = ["backbone", "qwen3", "qwen3_dir", "qwen25", "qwen25_dir"]
