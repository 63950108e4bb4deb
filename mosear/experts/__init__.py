"""PEFT methods of our own: MoSE, modality-specific experts under a regularised gate; and MSE-Adapter (``mse/``).

Importing this package registers them with PEFT:

    import peft
    from mosear.experts import MoSEConfig

    model = peft.get_peft_model(backbone.model, MoSEConfig(r=16))
"""

from mosear.experts.config import MoSEConfig
from mosear.experts.model import MoSEModel
from mosear.experts.mse import MSEConfig, MSEModel
from mosear.experts.record import GateRecord, gate_record, gate_weights
from mosear.experts.register import register
from mosear.moved import missing

register()

__all__ = ["GateRecord", "MSEConfig", "MSEModel", "MoSEConfig", "MoSEModel", "gate_record", "gate_weights"]


def __getattr__(name: str) -> object:
    raise missing(__name__, name)
