"""Makes PEFT know the methods.

PEFT's own ``register_peft_method`` accepts only members of its ``PeftType`` enum, which is closed. But the enum's
members are strings, and PEFT looks methods up in four plain dictionaries keyed by them: entries under a plain string
are found by every path (``get_peft_model``, ``PeftConfig.from_pretrained``, saving, loading) and change nothing else.
"""

from __future__ import annotations

from typing import Any

from peft import mapping

from mosear.experts import config as mose
from mosear.experts.model import MoSEModel
from mosear.experts.mse import config as mse
from mosear.experts.mse.model import MSEModel

METHODS: dict[str, tuple[type, Any]] = {
    mose.METHOD: (mose.MoSEConfig, MoSEModel),
    mse.METHOD: (mse.MSEConfig, MSEModel),
}


def register() -> None:
    """Enter them into PEFT's tables; doing it again is harmless.

    Raises:
        RuntimeError: if this version of PEFT keeps its methods elsewhere.
    """
    for method, (config, tuner) in METHODS.items():
        entries = {
            "PEFT_TYPE_TO_CONFIG_MAPPING": config,
            "PEFT_TYPE_TO_TUNER_MAPPING": tuner,
            "PEFT_TYPE_TO_PREFIX_MAPPING": tuner.prefix,
        }
        for name, value in entries.items():
            _enter(name, method, value)


def _enter(name: str, method: str, value: Any) -> None:
    table = getattr(mapping, name, None)
    if not isinstance(table, dict):
        import peft

        raise RuntimeError(
            f"peft {peft.__version__} has no table peft.mapping.{name}, where mosear registers its methods. Install "
            "peft>=0.20,<=0.21, or adapt mosear/experts/register.py."
        )
    if table.get(method, value) is not value:
        raise RuntimeError(f"peft.mapping.{name} already has a method {method!r}: {table[method]!r}.")
    table[method] = value
