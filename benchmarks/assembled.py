"""What ``train.py`` or ``eval.py`` would run, as objects, for the benchmarks that time parts of a run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra import compose, initialize_config_dir

from benchmarks.options import CONF, add_corpus_options
from benchmarks.peers.checkpoint import SIZES, save_checkpoint
from mosear.methods.omni_system import OmniSystem
from mosear.resolvers import register_resolvers
from mosear.runtime.assemble import Assembly, assemble

CACHES = ("off", "cold", "warm")
"""What the feature cache may be in a run."""


def assembled(
    name: str, args: argparse.Namespace, run_dir: Path, overrides: Sequence[str], checkpoint: Path | None = None
) -> tuple[Assembly, OmniSystem]:
    """The run, and its system.

    Args:
        name: of the config, ``train`` or ``eval``.
        args: of :func:`add_run_options`.
        run_dir: where its files go.
        overrides: of the config, beside those that every benchmark sets.
        checkpoint: the backbone; ``None`` = as the config and ``overrides`` say.
    """
    register_resolvers()
    options = [
        f"run_dir={run_dir}", f"data_dir={args.data_dir.resolve()}", "callbacks=none",
        f"data.num_workers={args.workers}", "+trainer.enable_progress_bar=false", *overrides,
    ]  # fmt: skip
    if checkpoint is not None:
        options += ["backbone=checkpoint", f"backbone.name={checkpoint}", "backbone.dtype=fp32"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        parts = assemble(compose(name, overrides=options))
    assert isinstance(parts.system, OmniSystem)
    return parts, parts.system


def add_run_options(parser: argparse.ArgumentParser, *, workers: str) -> None:
    """Which clips and which backbone; ``workers`` says what the loader processes do."""
    parser.add_argument("--size", choices=list(SIZES), help="random weights of this size (benchmarks.peers) instead")
    add_corpus_options(parser)
    parser.add_argument("--workers", type=int, default=2, help=workers)


@contextmanager
def random_checkpoint(size: str | None) -> Iterator[Path | None]:
    """A checkpoint of ``--size``, for a block; ``None`` without one."""
    if size is None:
        yield None
        return
    with TemporaryDirectory() as directory:
        yield save_checkpoint(Path(directory) / "checkpoint", SIZES[size])
