"""Messages of libraries that ask nothing of the user."""

from __future__ import annotations

import logging
import os
import warnings

from mosear.torchrun import launched_rank


def quiet_libraries() -> None:
    """Hide messages that ask nothing of the user; everything else stays."""
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.disable_progress_bar()
    if launched_rank() > 0:  # other processes write to their own logs; on the terminal they only warn
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                handler.setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    # Few loader processes are a choice, short epochs still log their end, a frozen backbone is in eval mode on purpose,
    # and two libraries call what they themselves, or their dependencies, have deprecated.
    for message in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*in eval mode at the start of training.*",
        ".*is_gradient_checkpointing. is deprecated.*",
        ".*isinstance.treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message)
