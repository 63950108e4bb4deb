"""Times, losses and memory of a training run, in whatever environment it runs in (numpy and torch are all it needs)."""

from __future__ import annotations

import json
import re
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("mosear", "llamafactory", "ms-swift", "torch", "transformers", "peft", "accelerate", "lightning")
ADAPTED = re.compile(r"layers\.(\d+)\.(?:self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj\.lora_A\.")


class Recorder:
    """Measures from outside the step: each stamp is taken when a step has ended, loading of its batch included.

    Args:
        path: JSON file to write when training has ended.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.found: dict[str, Any] = {"wall": [], "cpu": [], "loss": []}

    def begin(self, model: Any) -> None:
        """Adapters are there and nothing has been trained yet."""
        self.found["adapted"] = same_start(model)
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.found["trainable"] = sum(p.numel() for p in trainable)
        self.found["dtypes"] = sorted({str(p.dtype) for p in model.parameters()})
        self.found["before_mib"] = resident_mib("VmRSS")
        self.found["loading_mib"] = resident_mib("VmHWM")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from what is resident
        self._stamp()

    def step(self) -> None:
        """A step has ended."""
        self._stamp()

    def loss(self, value: float) -> None:
        """The loss of the step that has just ended."""
        self.found["loss"].append(value)

    def end(self) -> None:
        """Training has ended; saving and testing do not count."""
        self.found["training_mib"] = resident_mib("VmHWM")
        self.found["peak_mib"] = max(self.found["training_mib"], self.found["loading_mib"])
        self.found["versions"] = versions()
        self.path.write_text(json.dumps(self.found), encoding="utf-8")

    def _stamp(self) -> None:
        self.found["wall"].append(time.perf_counter())
        self.found["cpu"].append(time.process_time())


def same_start(model: Any) -> int:
    """Give every LoRA matrix A a value that depends on its place alone; B is zero in every library.

    Returns:
        How many matrices were set.
    """
    import numpy as np
    import torch

    count = 0
    for name, parameter in model.named_parameters():
        place = ADAPTED.search(name)
        if place is None or not parameter.requires_grad:
            continue
        layer, projection = int(place[1]), sum(map(ord, place[2]))
        values = np.random.default_rng([layer, projection]).standard_normal(tuple(parameter.shape))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values / parameter.shape[1] ** 0.5).to(parameter))
        count += 1
    return count


def resident_mib(key: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (highest) of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {key}: memory can be measured on Linux alone.")


def versions() -> dict[str, str]:
    """Of the libraries that are installed here."""
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
