"""LLaMA-Factory's training with a recorder: ``python run_llamafactory.py SETTINGS.json RECORD.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Run in this process; `run_exp` is what ``llamafactory-cli train`` calls."""
    settings, record = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2]
    read_sound_with_soundfile()
    from llamafactory.train.tuner import run_exp
    from trainer_callback import Record

    run_exp(settings, callbacks=[Record(record)])


def read_sound_with_soundfile() -> None:
    """torchaudio reads files through torchcodec and FFmpeg's libraries, which need not be there: the files are wav."""
    import soundfile
    import torch
    import torchaudio

    def load(path: str) -> tuple[torch.Tensor, int]:
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return torch.from_numpy(sound.T.copy()), rate

    torchaudio.load = load


if __name__ == "__main__":
    main()
