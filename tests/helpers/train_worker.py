"""Trains recipes one after the other in this process, alone or as one of several; saves their adapters.

    python tests/helpers/train_worker.py SPEC.json OUT RANK PROCESSES PORT

SPEC is ``{name: [overrides of train.py]}``. ``OUT/<name>/adapter`` is what ``PeftModel.from_pretrained`` loads, and
``OUT/<name>/facts.<rank>.json`` holds what this process saw.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


def main(spec: Path, out: Path) -> None:
    import warnings

    warnings.simplefilter("ignore")
    for name, overrides in json.loads(spec.read_text()).items():
        train(overrides, out / name)
        gc.collect()  # the settings of ZeRO-3 must not outlive their recipe


def train(overrides: list[str], directory: Path) -> None:
    """One recipe, from a composed config, through the same assembly as train.py."""
    from hydra import compose, initialize_config_dir

    from mosear.callbacks import AdapterCheckpoint
    from mosear.methods.processes import rank
    from mosear.runtime import assemble as build

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[f"run_dir={directory}", "callbacks=none", "logger=none", *overrides])
    parts = build.assemble(cfg)
    system: Any = parts.system
    if cfg.zero_shot:  # an evaluation before and after training: engines come and go
        with system.untuned():
            parts.trainer.test(system, datamodule=system.data, verbose=False)
    spy = Spy()
    parts.trainer.callbacks.append(spy)
    parts.trainer.fit(system, datamodule=system.data)
    AdapterCheckpoint(str(directory / "adapter"), select="last").save(parts.trainer, system)
    parts.trainer.strategy.barrier()
    if cfg.zero_shot:
        parts.trainer.test(system, datamodule=system.data, verbose=False)
        spy.facts["rows"] = {row.id: row.distribution for row in system.rows}
    spy.facts["frozen"] = system.parameter_counts()["frozen"]
    (directory / f"facts.{rank()}.json").write_text(json.dumps(spy.facts))


def spy_class() -> type:
    from lightning.pytorch.callbacks import Callback

    class Spying(Callback):
        """Notes what a process trains on."""

        def __init__(self) -> None:
            self.facts: dict[str, Any] = {"media": [], "clips": [], "losses": [], "held": 0}

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            media = batch.data.media
            self.facts["media"].append([len(media.videos), len(media.audios)])
            for clip, name in zip(batch.data.clips, batch.cache_names, strict=True):  # a name: the cache lacks it
                self.facts["clips"].append((trainer.current_epoch, clip.id, name))
            held = (getattr(p, "ds_tensor", p).numel() for p in pl_module.backbone.language_model.parameters())
            self.facts["held"] = sum(held)

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.facts["losses"].append(float(trainer.callback_metrics["train/loss"]))

    return Spying


def Spy() -> Any:
    return spy_class()()


if __name__ == "__main__":
    number, of, port = sys.argv[3:]
    if of != "1":  # what a launcher sets
        os.environ.update(RANK=number, LOCAL_RANK=number, WORLD_SIZE=of, MASTER_ADDR="localhost", MASTER_PORT=port)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
