"""Hooks that bring roles and gate weights to the adapted projections of one model.

    language model          a pass starts or resumes (:mod:`mosear.backbones.sequences`)
      decoder layer         runs its gate, puts the result into its own arguments
        attention           takes it out again and shows it to the projections of its decoder layer

transformers checkpoints a decoder layer's ``forward``, not its ``__call__``: layer hooks run once, outside. What they
put into the arguments is kept by the checkpoint, and the attention hook, which is inside, finds it again in backward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from mosear.backbones.prompt_cache import PromptRows
from mosear.backbones.sequence_hooks import PassCall, PassListener, SequenceHooks
from mosear.backbones.sequences import SequenceState, thinker_of
from mosear.experts.gate import MoSEGate
from mosear.experts.layer import LayerSlot
from mosear.experts.passes import OWNER, ForwardPass
from mosear.experts.record import GateRecord

if TYPE_CHECKING:
    from mosear.backbones.families.base import OmniFamily
    from mosear.experts.config import MoSEConfig

ATTRIBUTE = "mose_hooks"
"""Where a thinker with MoSE layers keeps its hooks."""
ARGUMENT = "mose_layer_pass"

NO_PROMPT_MASK = (
    "In training mode MoSE must know where the prompt ends: answer tokens in the gate would leak the label. Wrap the "
    "forward in `with mosear.backbones.sequence_state(model, roles=..., prompt_mask=...):`, or call model.eval()."
)
NO_GATE_WEIGHTS = (
    "This KV cache holds tokens but no gate weights: its prompt was read without the adapter, or it was cropped. "
    "MoSE's gate needs the whole prompt in one pass with the adapter on."
)
REENTRANT = (
    "MoSE needs gradient checkpointing with use_reentrant=False: the reentrant variant gives the gate no gradient. "
    "Call gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})."
)


class MoSEHooks(PassListener):
    """Hooks of one model; one object, not a module, so it owns no weights.

    Args:
        model: the thinker.
        family: knows where the language model sits.

    Attributes:
        configs: the adapters' settings by name. Not PEFT's own dictionary: a second ``get_peft_model`` makes a new one.
        observers: told of the state after each pass that read prompts.
    """

    owner: ClassVar[str] = OWNER
    title: ClassVar[str] = "MoSE"
    lost: ClassVar[str] = NO_GATE_WEIGHTS

    def __init__(self, model: nn.Module, family: OmniFamily) -> None:
        self.configs: dict[str, MoSEConfig] = {}
        self.language_model = model.get_submodule(family.language_model_path)
        self.gates: dict[int, MoSEGate] = {}
        self.observers: list[Callable[[SequenceState], None]] = []
        self._handles: list[Any] = []
        self._passes = SequenceHooks.of(model, family)
        self._passes.add(self)

    def add_gate(self, gate: MoSEGate, decoder_layer: Any) -> None:
        """Put a gate in front of a decoder layer."""
        self.gates[gate.index] = gate
        self._hook(decoder_layer, partial(self._enter_layer, gate), partial(self._leave_layer, gate.slot))
        self._hook(decoder_layer.self_attn, partial(self._enter_attention, gate.slot))

    def detach(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._passes.remove(self)

    def _hook(self, module: nn.Module, before: Any, after: Any = None) -> None:
        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        if after is not None:
            self._handles.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))

    # -- the language model -----------------------------------------------------------------------------------------

    def _adapter(self) -> str | None:
        return next((gate.active_name() for gate in self.gates.values()), None)

    def active_config(self) -> MoSEConfig | None:
        """Settings of the adapter that applies now; ``None`` when adapters are disabled."""
        adapter = self._adapter()
        return None if adapter is None else self.configs[adapter]

    def listens(self, module: nn.Module) -> bool:
        """While an adapter is active."""
        if self._adapter() is None:
            return False
        self._refuse_reentrant()
        return True

    def start(self, call: PassCall) -> ForwardPass:
        """Token masks and the weights of the gate's means."""
        if self.language_model.training and call.state.prompt_mask is None:
            raise ValueError(NO_PROMPT_MASK)
        adapter = self._adapter()
        assert adapter is not None, "it listens only while an adapter is active"
        started = ForwardPass.over_prompt(*call.described(self.title), adapter)
        call.state.records[OWNER] = GateRecord(self.configs[adapter], started)
        return started

    def resume(self, call: PassCall, rows: PromptRows) -> ForwardPass:
        """The gate weights of the cached prompts."""
        adapter = self._adapter()
        assert adapter is not None, "it listens only while an adapter is active"
        if rows.note != adapter:
            raise ValueError(f"This KV cache was filled under adapter {rows.note!r}, but {adapter!r} is active.")
        return ForwardPass.after_prompt(rows.tensors, call.batch, call.length, adapter)

    def finish(self, call: PassCall, own: ForwardPass) -> PromptRows:
        """Tell observers; a cache is to carry the gate weights."""
        for observer in [] if call.state.quiet else self.observers:
            observer(call.state)
        return PromptRows(dict(own.weights), own.prompt_length, note=own.adapter)

    def _refuse_reentrant(self) -> None:
        layer: Any = next(iter(self.language_model.get_submodule("layers").children()))
        if layer.training and getattr(layer, "gradient_checkpointing", False):
            options = getattr(layer._gradient_checkpointing_func, "keywords", {})
            if options.get("use_reentrant", True):  # torch's default, too
                raise ValueError(REENTRANT)

    # -- decoder layers ---------------------------------------------------------------------------------------------

    def _enter_layer(self, gate: MoSEGate, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        current: ForwardPass | None = self._passes.current(self)
        if current is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        return args, {**kwargs, ARGUMENT: current.enter(gate.index, gate, hidden)}

    def _leave_layer(self, slot: LayerSlot, *_: Any) -> None:
        slot.current = None

    def _enter_attention(self, slot: LayerSlot, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        slot.current = kwargs.get(ARGUMENT)
        return args, {name: value for name, value in kwargs.items() if name != ARGUMENT}


def mose_hooks(model: Any) -> MoSEHooks | None:
    """The hooks of an ``OmniBackbone``, a ``PeftModel`` or a thinker; ``None`` if it has no MoSE layers."""
    found: MoSEHooks | None = getattr(thinker_of(model), ATTRIBUTE, None)
    return found
