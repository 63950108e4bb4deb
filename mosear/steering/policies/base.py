"""What a steering policy is: a pure function of attention probabilities, key modalities, layer and state."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from mosear.steering.rows import Keys

if TYPE_CHECKING:
    from mosear.steering.policies.detection import Detection


@dataclass(frozen=True)
class AttentionView:
    """What a policy knows beside the probabilities it edits.

    Attributes:
        layer: index of the decoder layer.
        keys: what each key carries.
        mass: float32 ``[B, H, T, 3]``, the probabilities summed over the keys of each modality.
        answer: bool ``[B, T]``, True on rows of answer tokens, False on the prompt's tail.
        state: what the policy decided about these sequences, ``[B, ...]``; ``None`` if nothing.
    """

    layer: int
    keys: Keys
    mass: Tensor
    answer: Tensor
    state: Tensor | None = None

    @classmethod
    def of(cls, probabilities: Tensor, keys: Keys, answer: Tensor, *, layer: int, state: Tensor | None) -> Self:
        """The view of ``probabilities [B, H, T, K]``."""
        return cls(layer, keys, modality_mass(probabilities, keys), answer, state)

    def spread(self, values: Tensor) -> Tensor:
        """A finite value per modality, ``[B, H, T, 3]``, to its keys: ``[B, H, T, K]``."""
        batch, heads, rows, _ = values.shape
        if values.device.type == "cpu":  # exact, since a key has one modality, and several times as fast there
            return (values.flatten(1, 2) @ self.keys.masks.transpose(1, 2)).unflatten(1, (heads, rows))
        return values.gather(-1, self.keys.kinds[:, None, None].expand(batch, heads, rows, -1))

    def scaled(self, probabilities: Tensor, factors: Tensor) -> Tensor:
        """``p'_j = p_j * factor of j's modality``, from ``[B, H, T, K]`` and ``[B, H, T, 3]``."""
        spread = self.spread(factors)
        return spread * probabilities if spread.requires_grad else spread.mul_(probabilities)


def modality_mass(probabilities: Tensor, keys: Keys) -> Tensor:
    """``[B, H, T, 3]``: sums of ``[B, H, T, K]`` over the keys of each modality."""
    return (probabilities.flatten(1, 2) @ keys.masks).unflatten(1, probabilities.shape[1:3])


Edit = tuple[Tensor, Tensor]
"""New probabilities ``[B, H, T, K]``, and bool ``[B, H, T]``: where they are the policy's doing."""


KEYED: dict[str, type[Policy]] = {}
"""Every class with a key that was defined so far; see :func:`mosear.steering.known.known_policies`."""


class Policy(ABC):
    """Edits the attention of steered rows. Policies hold settings alone, never tensors: frozen dataclasses.

    Attributes:
        key: names the policy in settings files; lower-case letters and digits. Without one, a policy can be used but
            not be saved.
        needs_both: clips without face or without voice are never changed. Calibration then spares their passes.

    Raises:
        ValueError: when a class is defined whose key is malformed, or belongs to another class.
    """

    key: ClassVar[str] = ""
    needs_both: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        key = vars(cls).get("key", "")
        if not key:
            return
        if not isinstance(key, str) or not re.fullmatch("[a-z][a-z0-9]*", key):
            raise ValueError(
                f"{cls.__qualname__}.key={key!r} must consist of lower-case letters and digits, such as 'ar': names "
                "of several policies are joined with an underscore."
            )
        other = KEYED.get(key, cls)
        # A notebook defines the same class again whenever its cell is run.
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"{cls.__qualname__}.key={key!r} belongs to {other.__module__}.{other.__qualname__}. Choose another."
            )
        KEYED[key] = cls

    @property
    def steps(self) -> tuple[Policy, ...]:
        """The policies to apply, one after the other."""
        return (self,)

    @property
    def detection(self) -> Detection | None:
        """What this policy needs to decide about a clip; ``None`` if it treats all clips alike."""
        return None

    def once_decided(self) -> Policy:
        """The same edits, given the state: settings that act through the decision alone have their defaults.

        Calibration runs a pass once for all policies for which this, and the state, is equal.
        """
        return self

    def as_json(self) -> dict[str, Any]:
        """The settings, as a settings file holds them; given to the class, they make an equal policy.

        Raises:
            ValueError: if JSON cannot hold them.
        """
        settings: Any = self
        if not is_dataclass(settings):
            raise ValueError(f"{type(self).__name__} is no dataclass")
        return asdict(settings)  # type: ignore[arg-type]

    def problems(self, layers: int, heads: int) -> list[str]:
        """Why these settings do not fit a decoder with so many layers and heads per layer."""
        return []

    @abstractmethod
    def acts_in(self, layer: int) -> bool:
        """May this policy change anything in a decoder layer?"""

    def idle(self, state: Tensor | None) -> bool:
        """Is it certain that nothing will change, given what was decided?"""
        return False

    def edit(self, probabilities: Tensor, view: AttentionView) -> Edit:
        """New probabilities; rows go on adding up to what they added up to.

        Args:
            probabilities: float32 ``[B, H, T, K]``; not changed in place.
            view: what they are about.
        """
        if not self.acts_in(view.layer):
            return probabilities, torch.zeros_like(view.mass[..., 0], dtype=torch.bool)
        return self.apply(probabilities, view)

    @abstractmethod
    def apply(self, probabilities: Tensor, view: AttentionView) -> Edit:
        """:meth:`edit` in a layer in which this policy acts."""


def outside(name: str, indices: list[int] | tuple[int, ...], count: int, what: str) -> list[str]:
    """A complaint about indices that are not in ``[0, count)``, as a list of none or one."""
    wrong = sorted({index for index in indices if not 0 <= index < count})
    return [f"{name}: there is no {what} {', '.join(map(str, wrong))}, they go from 0 to {count - 1}"] if wrong else []
