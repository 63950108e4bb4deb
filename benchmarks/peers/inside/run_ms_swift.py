"""ms-swift's training with a recorder: ``python run_ms_swift.py SETTINGS.json RECORD.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Run in this process; `sft_main` is what ``swift sft`` calls."""
    settings, record = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2]
    from swift.callbacks import callbacks_map
    from swift.pipelines import sft_main
    from trainer_callback import Record

    def build(args: Any, trainer: Any) -> Record:
        return Record(record)

    callbacks_map["record"] = build
    options = [f"--{key}={json.dumps(value) if isinstance(value, bool) else value}" for key, value in settings.items()]
    sft_main([*options, "--callbacks", "record"])


if __name__ == "__main__":
    main()
