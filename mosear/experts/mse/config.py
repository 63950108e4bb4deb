"""Settings of an MSE adapter."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import Any

from peft import PeftConfig

from mosear.experts.config import MethodName, Share
from mosear.settings import AtLeastOne, check

METHOD = MethodName("MSE")
"""Our entry in PEFT's tables."""


@dataclass
class MSEConfig(PeftConfig):
    """Pseudo tokens in the place of media tokens.

    Attributes:
        tokens: n, how many a clip gets.
        audio_hidden: width of the audio's LSTM.
        video_hidden: width of the video's LSTM.
        mixed: width in which audio, video and text are mixed.
        dropout: of the LSTMs' last states.
        bias: only ``none``: the backbone stays frozen.
        modules_to_save: only ``None``, for the same reason.
    """

    tokens: AtLeastOne = 4
    audio_hidden: AtLeastOne = 64
    video_hidden: AtLeastOne = 32
    mixed: AtLeastOne = 256
    dropout: Share = 0.0
    peft_type: str | None = field(default=METHOD, init=True)
    bias: InitVar[str] = "none"
    modules_to_save: InitVar[Any] = None

    def __post_init__(self, bias: str, modules_to_save: Any) -> None:  # type: ignore[override,unused-ignore]
        super().__post_init__()
        self.peft_type = METHOD
        given = {"bias": (bias, "none"), "modules_to_save": (modules_to_save, None)}
        self._refused = [
            f"{name}={value!r} must be {only!r}: MSE-Adapter trains no weight of the backbone"
            for name, (value, only) in given.items()
            if value != only
        ]
        check(self)

    def further_problems(self) -> list[str]:
        """Weights of the backbone."""
        return self._refused
