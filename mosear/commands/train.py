"""Tune an adapter on a backbone, test it, write a report.

``mosear train +experiment=mosear``, or ``python train.py +experiment=mosear`` in a checkout; ``--help`` explains the
options. Heavy imports happen after the command line has been understood.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from mosear.config.command_line import refuse_mistakes
from mosear.config.renamed import refuse_renamed
from mosear.config.shipped import CONF
from mosear.resolvers import register_resolvers
from mosear.startup import quick_imports
from mosear.torchrun import first_reports, processes_start

register_resolvers()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def run(cfg: DictConfig) -> float | None:
    """Validate the config, train, test; returns the conflict mean (what a sweep maximises)."""
    from mosear.runtime.cold_start import check_trainings, first_training, train_in_order
    from mosear.runtime.told_errors import told_errors

    with told_errors():
        with quick_imports():
            check_trainings(cfg)
        processes_start()
        if cfg.dry_run:
            from mosear.planning.dry_run import report
            from mosear.runtime.quiet import quiet_libraries

            quiet_libraries()
            if (first := first_training(cfg)) is not None:
                print(f"first {first.name}:\n")
                report(first)
                print(f"\nthen {cfg.name}:\n")
            report(cfg)
            return None
        return train_in_order(cfg)["conflict_mean"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; Hydra reads ``sys.argv``."""
    if arguments is not None:
        sys.argv[1:] = arguments
    with first_reports():
        refuse_renamed(sys.argv[1:])
        refuse_mistakes(sys.argv[1:], CONF, "train")
        run()
