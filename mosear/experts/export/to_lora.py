"""A MoSE adapter as a plain LoRA: constants in place of gate, token masks and router.

Shape legend: r rank of a group, K experts of a group, J = 3K experts of a projection (j = mK + k), R rows of A (3r, or
r with ``share_a='all'``), m(j) the block of A that expert j reads, T real tokens of the observed passes.

For one projection, with h_t = A x_t, expert j of a MoSE adapter adds (alpha / r) a_j(t) B_j h_t[m(j)] with the
coefficient a_mk(t) = 3 w_m(s) mu_m(t) g_mk(t). A LoRA sees neither sample nor role: its update is linear in h_t,

    y'_t = (alpha / r) B M h_t        B = [B_1 .. B_J],  M [Jr, R] constant

so its rank is R, whatever K is. The fits choose M from second moments over the observed tokens:

    mean            M puts c_j on the block of expert j, c_j = mean over t of a_j(t)
    least-squares   as above, but c minimises  sum over t of ||y_t - y'_t||^2
    refit           M itself minimises it (h_t tells roles apart in part, and a free M uses that), with a ridge that
                    pulls towards the M of least-squares where the observed tokens say little
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from peft import LoraConfig
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from mosear.backbones.sequences import SequenceState
from mosear.experts.config import METHOD
from mosear.experts.hooks import mose_hooks
from mosear.experts.layer import MoSELinear
from mosear.experts.passes import GROUPS
from mosear.experts.record import gate_weights

if TYPE_CHECKING:
    from peft import PeftModel

Fit = Literal["mean", "least-squares", "refit"]
FITS: tuple[Fit, ...] = get_args(Fit)
NEGLIGIBLE = 1e-10
"""Eigenvalues below this share of the largest are directions that the observed tokens do not have."""
RIDGE = 0.01
"""Of ``refit``, in units of the mean square of h_t's entries. Only a manifest of a few clips feels it."""


@dataclass
class Moments:
    """What the fits need to know of one projection's tokens, in float64.

    With q_t [Jr] = the numbers h_t[m(j)] a_j(t) that go into B, and z_t = [h_t ; q_t]:

    Attributes:
        tokens: T.
        coefficients: ``[J]``, sum over t of a_j(t).
        joint: ``[R + Jr, R + Jr]``, sum over t of z_t z_t^T.
    """

    tokens: int = 0
    coefficients: Tensor | float = 0.0
    joint: Tensor | float = 0.0

    def add(self, layer: MoSELinear, name: str, x: Tensor, weights: Tensor, masks: Tensor) -> None:
        """Take in the tokens of one call of a projection.

        Args:
            layer: the projection.
            name: of its adapter.
            x: ``[B, L, in]``.
            weights: ``w [B, 3]``.
            masks: ``mu [B, L, 3]``.
        """
        settings, a = layer.settings[name], layer.mose_A[name]
        scale = (len(GROUPS) * weights.to(x.device)[:, None] * masks.to(x.device)).flatten(0, -2)
        real = masks[..., -1].bool().flatten().to(x.device)
        x, scale = x.flatten(0, -2)[real].to(a.dtype), scale[real][..., None]
        if settings.experts > 1:
            router = F.linear(x, layer.mose_R[name]).unflatten(-1, (len(GROUPS), -1))
            scale = scale * router.float().softmax(-1)
        scale = scale.flatten(1).double()
        hidden = F.linear(x, a).double()
        blocks = hidden.unflatten(-1, (-1, settings.r))[:, _blocks_read(layer, name)]
        joint = torch.cat([hidden, (scale[..., None] * blocks).flatten(1)], dim=-1)
        self.tokens += len(x)
        self.coefficients = self.coefficients + scale.sum(0)
        self.joint = self.joint + joint.T @ joint


def _blocks_read(layer: MoSELinear, name: str) -> list[int]:
    """m(j) for every expert."""
    settings = layer.settings[name]
    return [0 if settings.shared else group for group in range(len(GROUPS)) for _ in range(settings.experts)]


@dataclass
class Observation:
    """Moments by projection (full name in the thinker), and the gate's mean over the observed prompts.

    Attributes:
        moments: see :class:`Moments`.
        prompts: rows of the prompt passes.
        gate: ``[layers, 3]``, sum over prompts of w.
    """

    moments: dict[str, Moments] = field(default_factory=dict)
    prompts: int = 0
    gate: Tensor | float = 0.0

    def hear(self, state: SequenceState) -> None:
        """After a prompt pass."""
        weights = gate_weights(state).double()
        self.prompts += weights.shape[1]
        self.gate = self.gate + weights.sum(1)

    def mean_gate(self) -> list[list[float]]:
        """Per decoder layer, the mean weight of the visual, non-visual and omni group."""
        means: list[list[float]] = (torch.as_tensor(self.gate) / max(1, self.prompts)).tolist()
        return means

    def see(self, name: str, index: int, layer: MoSELinear, args: tuple[Any, ...]) -> None:
        """Before a projection of decoder layer ``index`` runs."""
        adapter = layer.active_name()
        if adapter is None or adapter not in layer.settings:
            return
        assert layer.slot.current is not None, "a projection runs inside a pass of the language model"
        whole = layer.slot.current.whole
        with torch.no_grad(), torch.autocast(args[0].device.type, enabled=False):
            moments = self.moments.setdefault(name, Moments())
            moments.add(layer, adapter, args[0], whole.weights[index], whole.masks)


@contextmanager
def observed(model: PeftModel) -> Iterator[Observation]:
    """Observe every pass of a MoSE model inside the block, prompts and answer tokens alike.

    Raises:
        ValueError: if the model has no MoSE adapter.
    """
    hooks = mose_hooks(model)
    if hooks is None:
        raise ValueError(f"The model ({type(model).__name__}) has no MoSE adapter: there is nothing to freeze.")
    observation = Observation()
    indices = {id(gate.slot): index for index, gate in hooks.gates.items()}
    handles = [
        layer.register_forward_pre_hook(partial(observation.see, name, indices[id(layer.slot)]))
        for name, layer in _projections(model).items()
    ]
    hooks.observers.append(observation.hear)
    try:
        yield observation
    finally:
        hooks.observers.remove(observation.hear)
        for handle in handles:
            handle.remove()


def _projections(model: PeftModel) -> dict[str, MoSELinear]:
    base: nn.Module = model.get_base_model()
    return {name: module for name, module in base.named_modules() if isinstance(module, MoSELinear)}


@dataclass(frozen=True)
class Frozen:
    """One projection as a LoRA.

    Attributes:
        a: ``[R, in]``.
        b: ``[out, R]``, every scale inside.
        energy: sum over t of ||y_t||^2, what MoSE added.
        error: sum over t of ||y_t - y'_t||^2.
    """

    a: Tensor
    b: Tensor
    energy: float
    error: float


def freeze_projection(layer: MoSELinear, name: str, moments: Moments, fit: Fit) -> Frozen:
    """The LoRA of one projection.

    Args:
        layer: the projection.
        name: of its adapter.
        moments: of its tokens.
        fit: see the module's docstring.
    """
    settings, a = layer.settings[name], layer.mose_A[name].detach()
    b = settings.scaling * layer.mose_B[name].detach().double()
    joint = torch.as_tensor(moments.joint)
    rows = a.shape[0]
    hh, qh, qq = joint[:rows, :rows], joint[rows:, :rows], joint[rows:, rows:]
    gram = b.T @ b
    reads = _blocks_read(layer, name)
    if fit == "mean":
        constants = torch.as_tensor(moments.coefficients) / moments.tokens
    else:
        constants = _least_squares(gram, hh, qh, reads, settings.r)
    mixing = _on_blocks(constants, reads, settings.r, rows)
    if fit == "refit":
        ridge = RIDGE * hh.trace() / rows * torch.eye(rows).to(hh)
        mixing = mixing + (qh - mixing @ hh) @ torch.linalg.pinv(hh + ridge, hermitian=True)
    energy = float((gram * qq).sum())
    cross, own = float((gram * (mixing @ qh.T)).sum()), float((gram * (mixing @ hh @ mixing.T)).sum())
    return Frozen(a.clone(), (b @ mixing).to(a.dtype), energy, max(0.0, energy - 2 * cross + own))


def _least_squares(gram: Tensor, hh: Tensor, qh: Tensor, reads: list[int], r: int) -> Tensor:
    """``c [J]`` minimising ||y_t - sum_j c_j u_j(t)||^2 over tokens, u_j(t) = (alpha / r) B_j h_t[m(j)].

    The normal equations are  sum_j <u_i, u_j> c_j = <u_i, y>  with inner products summed over tokens.
    """
    experts = len(reads)
    blocks = hh.unflatten(0, (-1, r)).unflatten(-1, (-1, r))[reads][:, :, reads]
    inner = (gram.unflatten(0, (experts, r)).unflatten(-1, (experts, r)) * blocks).sum((1, 3))
    onto = (gram @ qh).unflatten(0, (experts, r)).unflatten(-1, (-1, r))
    target = torch.stack([onto[j, :, block].diagonal().sum() for j, block in enumerate(reads)])
    return torch.linalg.pinv(inner, rtol=NEGLIGIBLE, hermitian=True) @ target


def _on_blocks(constants: Tensor, reads: list[int], r: int, rows: int) -> Tensor:
    """M ``[Jr, R]`` with ``c_j`` times the identity where expert j meets the block of A that it reads."""
    mixing = constants.new_zeros(len(reads), r, rows // r, r)
    mixing[range(len(reads)), :, reads] = constants[:, None, None] * torch.eye(r).to(constants)
    return mixing.flatten(0, 1).flatten(1)


@dataclass(frozen=True)
class PlainLora:
    """A whole adapter as a LoRA.

    Attributes:
        config: for plain PEFT; scaling 1.
        projections: by full name in the thinker.
    """

    config: LoraConfig
    projections: Mapping[str, Frozen]

    @property
    def relative_error(self) -> float:
        """Share of the experts' update that the LoRA gets wrong: sqrt(sum ||y - y'||^2 / sum ||y||^2)."""
        energy = sum(frozen.energy for frozen in self.projections.values())
        return (sum(frozen.error for frozen in self.projections.values()) / energy) ** 0.5 if energy else 0.0

    def save(self, directory: Path) -> None:
        """Write what ``PeftModel.save_pretrained`` would write."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, frozen in self.projections.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = frozen.a.cpu().contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = frozen.b.cpu().contiguous()
        # Not save_file, whose result other users of a shared directory could not read.
        (directory / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        self.config.save_pretrained(directory)


def freeze_experts(model: PeftModel, observation: Observation, fit: Fit = "refit") -> PlainLora:
    """The active MoSE adapter as a plain LoRA.

    Args:
        model: with the adapter that was observed.
        observation: of the passes whose tokens count.
        fit: see the module's docstring.

    Raises:
        ValueError: if nothing was observed, or if the fit is unknown.
    """
    if fit not in FITS:
        raise ValueError(f"fit={fit!r} is not one of {', '.join(FITS)}.")
    adapter = model.active_adapter
    config = model.peft_config[adapter]
    assert config.peft_type == METHOD, "only a MoSE model can be observed"
    layers = {name: layer for name, layer in _projections(model).items() if adapter in layer.settings}
    if unseen := [name for name in layers if name not in observation.moments]:
        raise ValueError(
            f"{len(unseen)} projections ran on no token (the first: {unseen[0]}). Score at least one clip inside "
            "`with observed(model) as observation:`."
        )
    frozen = {name: freeze_projection(layer, adapter, observation.moments[name], fit) for name, layer in layers.items()}
    rank = len(next(iter(frozen.values())).a)
    lora = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        bias="none",
        # Full names: for Qwen3-Omni, PEFT cuts a regular expression down to its last part, which the audio tower has
        # too.
        target_modules=sorted(frozen),
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        inference_mode=True,
    )
    return PlainLora(lora, frozen)
