"""MSE-Adapter: pseudo tokens, made of audio and video under the guidance of the text, instead of media tokens."""

from mosear.experts.mse.config import MSEConfig
from mosear.experts.mse.mixer import PseudoTokenMixer
from mosear.experts.mse.model import MSEModel

__all__ = ["MSEConfig", "MSEModel", "PseudoTokenMixer"]
