"""Test a backbone and its adapter, write a report.

``mosear evaluate run=outputs/mosear/<time> benchmark=synthetic``, or ``python eval.py run=...`` in a checkout.
``run=DIR`` names a finished run; ``adapter=DIR`` its adapter alone. Backbone, question, labels and budgets are those of
the run, unless the command line or the benchmark says otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from mosear.config.adapter_options import offer_adapters
from mosear.config.command_line import refuse_mistakes
from mosear.config.renamed import refuse_renamed
from mosear.config.shipped import CONF
from mosear.resolvers import register_resolvers
from mosear.startup import quick_imports
from mosear.torchrun import first_reports, processes_start

register_resolvers()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="eval")
def run(cfg: DictConfig) -> float | None:
    """Take the run's settings, validate the config and evaluate; returns the conflict mean."""
    from hydra.core.hydra_config import HydraConfig

    from mosear.config.of_run import with_settings_of_run
    from mosear.runtime.checks import check_evaluation
    from mosear.runtime.told_errors import told_errors

    with told_errors():
        cfg = with_settings_of_run(cfg, list(HydraConfig.get().overrides.task))
        with quick_imports():
            check_evaluation(cfg)
        processes_start()
        if cfg.dry_run:
            from mosear.planning.dry_run import report
            from mosear.runtime.quiet import quiet_libraries

            quiet_libraries()
            report(cfg)
            return None
        from mosear.runtime.flows import evaluate

        return evaluate(cfg)["conflict_mean"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; Hydra reads ``sys.argv``."""
    if arguments is not None:
        sys.argv[1:] = arguments
    with first_reports():
        refuse_renamed(sys.argv[1:])
        refuse_mistakes(sys.argv[1:], CONF, "eval")
        offer_adapters(sys.argv[1:])
        run()
