"""Makes PEFT know the method.

PEFT's own ``register_peft_method`` accepts only members of its ``PeftType`` enum, which is closed. But the enum's
members are strings, and PEFT looks methods up in four plain dictionaries keyed by them: entries under a plain string
are found by every path (``get_peft_model``, ``PeftConfig.from_pretrained``, saving, loading) and change nothing else.
"""

from __future__ import annotations

from peft import mapping

from mosear.experts.config import METHOD, MoSEConfig
from mosear.experts.model import MoSEModel


def register() -> None:
    """Enter MoSE into PEFT's tables; doing it again is harmless.

    Raises:
        RuntimeError: if this version of PEFT keeps its methods elsewhere.
    """
    entries = {
        "PEFT_TYPE_TO_CONFIG_MAPPING": MoSEConfig,
        "PEFT_TYPE_TO_TUNER_MAPPING": MoSEModel,
        "PEFT_TYPE_TO_PREFIX_MAPPING": MoSEModel.prefix,
    }
    for name, value in entries.items():
        table = getattr(mapping, name, None)
        if not isinstance(table, dict):
            import peft

            raise RuntimeError(
                f"peft {peft.__version__} has no table peft.mapping.{name}, where mosear registers MoSE. Install "
                "peft>=0.20,<=0.21, or adapt mosear/experts/register.py."
            )
        if table.get(METHOD, value) is not value:
            raise RuntimeError(f"peft.mapping.{name} already has a method {METHOD!r}: {table[METHOD]!r}.")
        table[METHOD] = value
