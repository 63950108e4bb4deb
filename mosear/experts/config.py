"""Settings of a MoSE adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, Literal

from peft import PeftConfig


class MethodName(str):
    """A string that has what PEFT and transformers ask members of PEFT's enum for."""

    __slots__ = ()

    @property
    def value(self) -> str:
        """The plain string."""
        return self[:]

    name = value

    def __str__(self) -> str:
        return f"PeftType.{self[:]}"  # PEFT takes the part behind the dot

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)


METHOD = MethodName("MOSE")
"""Our entry in PEFT's tables. A string: PEFT's enum of method types is closed, its tables are not."""


@dataclass
class MoSEConfig(PeftConfig):
    """Visual, non-visual and omni LoRA experts under a gate per decoder layer and sample.

    Attributes:
        r: rank of each group; three groups cost what one LoRA of rank ``3 r`` costs.
        alpha: the update is scaled by ``alpha / r``.
        dropout: on the input of the low-rank path.
        experts_per_group: K. With more than one, each group gets a dense token router.
        share_a: ``group`` gives each group its own ``A``; ``all`` lets the three groups share one.
        target_modules: names (``q_proj``, or a full path), one regular expression over full paths, or ``all-linear``.
            Only linear layers of the language model's decoder ever match.
        exclude_modules: names or one regular expression; what it matches is left alone.
        layers_to_transform: indices of the decoder layers to adapt; ``None`` means all.
        gate: ``learned``, or ``uniform`` (every weight 1/3, no parameters: the ablation).
        gate_norm: divide each pooled mean by its root mean square before the gate. For large backbones, whose residual
            stream has outlier channels that would saturate the softmax.
        balance_weight: of ``(w_v - w_n)^2`` in the loss.
        kl_weight: of ``KL(w || uniform)`` in the loss.
        kl_scope: ``sample`` = mean of the samples' KL; ``global`` = KL of the mean ``w`` over the batch and all
            processes, which lets samples differ as long as they balance.
        load_balance_weight: of the token router's imbalance over the K experts in the loss.
        modality_dropout: probability with which a training clip with video and audio loses one of them for a step.
        bias: only ``none``: the backbone stays frozen.
        modules_to_save: only ``None``, for the same reason.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    experts_per_group: int = 1
    share_a: Literal["group", "all"] = "group"
    target_modules: list[str] | str | None = "all-linear"
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    gate: Literal["learned", "uniform"] = "learned"
    gate_norm: bool = False
    balance_weight: float = 0.0
    kl_weight: float = 0.0
    kl_scope: Literal["sample", "global"] = "sample"
    load_balance_weight: float = 0.0
    modality_dropout: float = 0.0
    peft_type: str | None = field(default=METHOD, init=True)
    bias: InitVar[str] = "none"
    modules_to_save: InitVar[Any] = None

    def __post_init__(self, bias: str, modules_to_save: Any) -> None:  # type: ignore[override,unused-ignore]
        super().__post_init__()
        self.peft_type = METHOD
        problems = [
            f"{name}={value!r} must be a positive whole number"
            for name, value in (("r", self.r), ("experts_per_group", self.experts_per_group))
            if not isinstance(value, int) or value < 1
        ]
        for name in ("dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name}={getattr(self, name)!r} must lie in [0, 1)")
        for name in ("balance_weight", "kl_weight", "load_balance_weight"):
            if getattr(self, name) < 0:
                problems.append(f"{name}={getattr(self, name)!r} must not be negative")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                problems.append(f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}")
        if not self.alpha > 0:
            problems.append(f"alpha={self.alpha!r} must be positive")
        if not self.target_modules:
            problems.append(f"target_modules={self.target_modules!r} must name something; 'all-linear' is the default")
        if bias != "none":
            problems.append(f"bias={bias!r} must be 'none': MoSE trains no weight of the backbone")
        if modules_to_save:
            problems.append(f"modules_to_save={modules_to_save!r} must be None: MoSE trains no weight of the backbone")
        if problems:
            raise ValueError("MoSEConfig: " + "; ".join(problems) + ".")

    @property
    def regulariser_weights(self) -> Mapping[str, float]:
        """Weight of each regulariser in the loss, by the name under which it is logged."""
        return {
            "gate_balance": self.balance_weight,
            "gate_kl": self.kl_weight,
            "load_balance": self.load_balance_weight,
        }


CHOICES = {"share_a": ("group", "all"), "gate": ("learned", "uniform"), "kl_scope": ("sample", "global")}
