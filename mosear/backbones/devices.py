"""Names of devices, as command lines take them."""

from __future__ import annotations

import torch


def chosen_device(name: str | None) -> torch.device:
    """The named device; by default a GPU if there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def device_problems(name: str | None) -> list[str]:
    """A complaint about a name that is none, or a device that is not there, as a list of none or one."""
    kind, _, index = (name or "cpu").partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        return [f"device={name!r} must be cpu, cuda or cuda:N"]
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        return [f"device={name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices"]
    return []
