"""Evaluate a backbone and its adapter: ``python eval.py +experiment=mosear adapter=RUN/adapter benchmark=synthetic``.

``adapter=DIR`` names a trained adapter. The config group of the same name says how a *new* adapter is built, which an
evaluation does not do, so the word is free here: a value that is a path is passed on as ``adapter_path``.
"""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig

from mosear.runtime.distributed import register_resolvers

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(cfg: DictConfig) -> float | None:
    """Validate the config and evaluate; returns the conflict mean."""
    from mosear.runtime.rules import EVAL_KEYS, EVAL_RULES, SUPPLIED
    from mosear.runtime.validation import ConfigError, validate

    try:
        validate(cfg, rules=EVAL_RULES, allowed_keys=EVAL_KEYS, supplied=SUPPLIED)
    except ConfigError as error:
        sys.exit(str(error))
    if cfg.dry_run:
        from mosear.runtime.dry_run import report

        return report(cfg)
    from mosear.runtime.flows import evaluate

    return evaluate(cfg)["conflict_mean"]


def adapter_as_path(arguments: list[str]) -> list[str]:
    """``adapter=DIR`` to ``adapter_path=DIR``, ``adapter=DIR,DIR`` of a sweep too; the name of a group option stays."""
    rewritten = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        # A directory whose name holds a comma is one directory.
        directories = [value] if os.path.isdir(value) else value.split(",")
        if key == "adapter" and all(os.sep in one or os.path.isdir(one) for one in directories):
            argument = "adapter_path=" + ",".join(f"'{one}'" for one in directories)
        rewritten.append(argument)
    return rewritten


if __name__ == "__main__":
    sys.argv[1:] = adapter_as_path(sys.argv[1:])
    main()
