"""``python -m mosear NAME ...``: the commands beside train.py and eval.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "predict": ("mosear.predict", "answer for single clips"),
    "calibrate": ("mosear.commands.calibrate", "steering settings from validation clips"),
    "export": ("mosear.commands.export", "a MoSE adapter as a plain LoRA"),
    "prepare": ("mosear.data.prepare", "a published data set as a manifest"),
    "cache": ("mosear.data.cache.__main__", "encode the clips of manifests ahead of a run"),
    "import-predictions": ("mosear.evaluation.import_predictions", "score predictions of another system"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in COMMANDS:
        print("usage: python -m mosear NAME [--help] ...\n")
        print("\n".join(f"  {name:20}{told}" for name, (_, told) in COMMANDS.items()))
        return 0 if given[:1] in ([], ["--help"], ["-h"]) else 2
    status = import_module(COMMANDS[given[0]][0]).main(given[1:])
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
