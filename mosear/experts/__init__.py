"""MoSE: modality-specific experts under a regularised gate, as a PEFT method.

Importing this package registers the method with PEFT:

    import peft
    from mosear.experts import MoSEConfig, sequence_state

    model = peft.get_peft_model(backbone.model, MoSEConfig(r=16))
"""

from mosear.experts.config import MoSEConfig
from mosear.experts.model import MoSEModel
from mosear.experts.register import register
from mosear.experts.state import SequenceState, sequence_state

register()

__all__ = ["MoSEConfig", "MoSEModel", "SequenceState", "sequence_state"]
