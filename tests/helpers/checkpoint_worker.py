"""One of torchrun's workers: saves a ZeRO checkpoint in training, loads it again, and tries to load a foreign one.

torchrun --nproc_per_node=2 tests/helpers/checkpoint_worker.py SPEC.json OUT

SPEC is a list of overrides of train.py for a MoSE adapter; ``OUT/found.<rank>.json`` holds what came out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


def main(overrides: list[str], out: Path) -> None:
    import torch

    from mosear.methods.processes import rank

    first = Run([*overrides, "seed=0"], out / "first")
    first.fit()
    first.trainer.save_checkpoint(out / "state")
    saved = first.weights()
    files = [torch.load(path, weights_only=False) for path in (out / "state").rglob("*model_states.pt")]
    names = sorted({name for states in files for name in states["module"]})
    second = Run([*overrides, "seed=1", "trainer.max_steps=3"], out / "second")
    second.fit(ckpt_path=str(out / "state"))  # as many steps as the checkpoint has: it loads and stops
    restored = second.weights()
    foreign = Run([*overrides, "adapter.experts_per_group=2"], out / "third")
    try:
        foreign.fit(ckpt_path=str(out / "state"))
        message = "accepted"
    except ValueError as error:
        message = str(error)
    found = {
        "saved": names,
        "restored": all(torch.equal(saved[name], restored[name]) for name in saved),
        "foreign": message,
    }
    (out / f"found.{rank()}.json").write_text(json.dumps(found))


class Run:
    """A recipe, assembled as train.py does."""

    def __init__(self, overrides: list[str], directory: Path) -> None:
        from hydra import compose, initialize_config_dir

        from mosear.runtime import assemble as build

        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", overrides=[f"run_dir={directory}", "callbacks=none", "logger=none", *overrides])
        self.parts = build.assemble(cfg)
        self.system: Any = self.parts.system
        self.network, self.trainer = self.system.network, self.parts.trainer

    def fit(self, ckpt_path: str | None = None) -> None:
        self.trainer.fit(self.system, datamodule=self.system.data, ckpt_path=ckpt_path, weights_only=False)

    def weights(self) -> dict[str, Any]:
        """The trainable weights, whole."""
        from mosear.backbones.partitioned import whole

        named = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        with whole(named.values()):
            return {name: p.detach().cpu().clone() for name, p in named.items()}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
