"""Tune an adapter on a frozen omni-modal backbone: ``python train.py +experiment=mosear``.

``python train.py --help`` explains the options. Heavy imports happen after the command line has been understood.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from mosear.config.command_line import refuse_mistakes
from mosear.config.renamed import refuse_renamed
from mosear.torchrun import first_reports, processes_start, register_resolvers

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Validate the config, train, test; returns the conflict mean (what a sweep maximises)."""
    from mosear.runtime.checks import check_training
    from mosear.runtime.told_errors import told_errors

    with told_errors():
        check_training(cfg)
        processes_start()
        if cfg.dry_run:
            from mosear.planning.dry_run import report

            return report(cfg)
        from mosear.runtime.flows import train

        return train(cfg)["conflict_mean"]


if __name__ == "__main__":
    with first_reports():
        refuse_renamed(sys.argv[1:])
        refuse_mistakes(sys.argv[1:], Path(__file__).parent / "conf", "train")
        main()
