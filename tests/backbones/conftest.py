"""Tiny random checkpoints of both families, made once per session."""

from tests.fixtures_backbones import backbone, qwen3, qwen3_dir, qwen25, qwen25_dir

__all__ = ["backbone", "qwen3", "qwen3_dir", "qwen25", "qwen25_dir"]
