"""Evaluate a backbone and its adapter: ``python eval.py run=outputs/mosear/<time> benchmark=synthetic``.

``run=DIR`` names a finished run; ``adapter=DIR`` its adapter alone. Backbone, question, labels and budgets are those of
the run, unless the command line or the benchmark says otherwise.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from mosear.config.adapter_options import offer_adapters
from mosear.config.renamed import refuse_renamed
from mosear.torchrun import register_resolvers

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(cfg: DictConfig) -> float | None:
    """Take the run's settings, validate the config and evaluate; returns the conflict mean."""
    from hydra.core.hydra_config import HydraConfig

    from mosear.config.of_run import with_settings_of_run
    from mosear.problems import ConfigError
    from mosear.runtime.checks import check_evaluation

    try:
        cfg = with_settings_of_run(cfg, list(HydraConfig.get().overrides.task))
        check_evaluation(cfg)
    except ConfigError as error:
        sys.exit(str(error))
    if cfg.dry_run:
        from mosear.planning.dry_run import report

        return report(cfg)
    from mosear.runtime.adapter_files import AdapterError
    from mosear.runtime.flows import evaluate

    try:
        return evaluate(cfg)["conflict_mean"]
    except AdapterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    refuse_renamed(sys.argv[1:])
    offer_adapters(sys.argv[1:])
    main()
