"""Settings of a MoSE adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, Literal

from peft import PeftConfig

from mosear.settings import AtLeastOne, NotNegative, Positive, Share, check


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

    r: AtLeastOne = 16
    alpha: Positive = 32.0
    dropout: Share = 0.0
    experts_per_group: AtLeastOne = 1
    share_a: Literal["group", "all"] = "group"
    target_modules: list[str] | str | None = "all-linear"
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    gate: Literal["learned", "uniform"] = "learned"
    gate_norm: bool = False
    balance_weight: NotNegative = 0.0
    kl_weight: NotNegative = 0.0
    kl_scope: Literal["sample", "global"] = "sample"
    load_balance_weight: NotNegative = 0.0
    modality_dropout: Share = 0.0
    peft_type: str | None = field(default=METHOD, init=True)
    bias: InitVar[str] = "none"
    modules_to_save: InitVar[Any] = None

    def __post_init__(self, bias: str, modules_to_save: Any) -> None:  # type: ignore[override,unused-ignore]
        super().__post_init__()
        self.peft_type = METHOD
        for name in ("target_modules", "exclude_modules", "layers_to_transform"):
            if isinstance(given := getattr(self, name), set | frozenset):  # PEFT's configs take sets as well
                setattr(self, name, sorted(given))
        self._refused = []
        if bias != "none":
            self._refused.append(f"bias={bias!r} must be 'none': MoSE trains no weight of the backbone")
        if modules_to_save:
            self._refused.append(
                f"modules_to_save={modules_to_save!r} must be None: MoSE trains no weight of the backbone"
            )
        check(self)

    def further_problems(self) -> list[str]:
        """Nothing to adapt, or weights of the backbone."""
        if self.target_modules:
            return self._refused
        named = f"target_modules={self.target_modules!r} must name something; 'all-linear' is the default"
        return [*self._refused, named]

    @property
    def regulariser_weights(self) -> Mapping[str, float]:
        """Weight of each regulariser in the loss, by the name under which it is logged."""
        return {
            "gate_balance": self.balance_weight,
            "gate_kl": self.kl_weight,
            "load_balance": self.load_balance_weight,
        }
