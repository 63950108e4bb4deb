"""``eval.py adapter=DIR``: a trained adapter is one more option of the config group ``adapter``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hydra.core.config_store import ConfigStore


def offer_adapters(arguments: Sequence[str]) -> None:
    """Make the directories that a command line names known to Hydra, each as an option that sets ``adapter_path``.

    Args:
        arguments: of the command line; ``adapter=DIR,DIR`` of a sweep names several.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key != "adapter":
            continue
        value = value.strip("'\"")
        # A directory whose name holds a comma is one directory.
        for directory in [value] if os.path.isdir(value) else value.split(","):
            if os.sep in directory or os.path.isdir(directory):
                # Hydra skips the empty part before an absolute path when it looks an option up, not when it stores one.
                *group, name = [part for part in directory.split(os.sep) if part]
                ConfigStore.instance().store(
                    group="/".join(["adapter", *group]),
                    name=name,
                    node={"adapter_path": directory},
                    package="_global_",
                )
