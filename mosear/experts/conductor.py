"""Hooks that bring roles and gate weights to the adapted projections of one model.

    thinker's inner model     notes the input ids, from which roles can be derived (backbones/hooks.py)
      language model          starts a pass: new sequences, or the continuation of a cache
        decoder layer         runs its gate, puts the result into its own arguments
          attention           takes it out again and shows it to the projections of its decoder layer

transformers checkpoints a decoder layer's ``forward``, not its ``__call__``: layer hooks run once, outside. What they
put into the arguments is kept by the checkpoint, and the attention hook, which is inside, finds it again in backward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from mosear.backbones.hooks import InputRoles, arguments
from mosear.experts.gate import MoSEGate
from mosear.experts.layer import LayerSlot
from mosear.experts.passes import ForwardPass, bind, bound
from mosear.experts.state import SequenceState, open_states

if TYPE_CHECKING:
    from mosear.backbones.families.base import OmniFamily
    from mosear.experts.config import MoSEConfig

ARGUMENT = "mose_layer_pass"

NO_PROMPT_MASK = (
    "In training mode MoSE must know where the prompt ends: answer tokens in the gate would leak the label. Wrap the "
    "forward in `with mosear.experts.sequence_state(model, roles=..., prompt_mask=...):`, or call model.eval()."
)
NO_ROLES = (
    "MoSE cannot tell which token carries which modality: this pass has embeddings but no input ids (or a mask that is "
    "not [B, L]). Wrap it in `with mosear.experts.sequence_state(model, roles=..., prompt_mask=...):`."
)
NO_GATE_WEIGHTS = (
    "This KV cache holds tokens but no gate weights: its prompt was read without the adapter, or it was cropped. "
    "MoSE's gate needs the whole prompt in one pass with the adapter on."
)
CHUNKED = (
    "A pass with {length} new tokens on a filled KV cache looks like chunked prefill, which MoSE refuses: the gate "
    "needs the whole prompt in one pass. Drop prefill_chunk_size. If these are answer tokens, wrap prompt and answer "
    "passes in `with mosear.experts.sequence_state(model, roles=..., prompt_mask=...):`."
)
REENTRANT = (
    "MoSE needs gradient checkpointing with use_reentrant=False: the reentrant variant gives the gate no gradient. "
    "Call gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})."
)


class Conductor:
    """Hooks of one model; one object, not a module, so it owns no weights.

    Args:
        model: the thinker.
        family: knows where the language model sits and which ids carry which modality.
        configs: the adapters' settings by name, PEFT's own dictionary.
    """

    def __init__(self, model: nn.Module, family: OmniFamily, configs: dict[str, MoSEConfig]) -> None:
        self.configs = configs
        self.language_model = model.get_submodule(family.language_model_path)
        self.states = open_states(model)
        self.gates: dict[int, MoSEGate] = {}
        self.listeners: list[Callable[[SequenceState], None]] = []  # told after each prompt pass
        self._input = InputRoles(model, family)
        self._current: ForwardPass | None = None
        self._started: SequenceState | None = None
        self._handles: list[Any] = []
        self._hook(self.language_model, self._begin, self._end)

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
        self._input.detach()

    def _hook(self, module: nn.Module, before: Any, after: Any = None) -> None:
        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        if after is not None:
            self._handles.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))

    # -- the language model -----------------------------------------------------------------------------------------

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._current = None
        adapter = self._adapter()
        if adapter is None:
            return
        self._refuse_reentrant()
        given = arguments(module, args, kwargs)
        tokens = given.get("inputs_embeds")
        if tokens is None:
            tokens = given["input_ids"]
            self._input.note(given)
        batch, length = tokens.shape[:2]
        key_values = given.get("past_key_values")
        if key_values is not None and int(key_values.get_seq_length()) > 0:
            self._current = self._continue(key_values, batch, length, adapter)
        else:
            self._current = self._start(batch, length, adapter)

    def _end(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        current, self._current = self._current, None
        started, self._started = self._started, None
        if current is None or current.pooling is None or output is None:  # off, a continuation, or an exception
            return
        key_values = arguments(module, args, kwargs).get("past_key_values")
        if key_values is None:
            key_values = getattr(output, "past_key_values", None)
        if key_values is not None and int(key_values.get_seq_length()) > 0:
            bind(key_values, current)
        assert started is not None
        for listener in [] if started.quiet else self.listeners:
            listener(started)

    def _adapter(self) -> str | None:
        return next((gate.active_name() for gate in self.gates.values()), None)

    def active_config(self) -> MoSEConfig | None:
        """Settings of the adapter that applies now; ``None`` when adapters are disabled."""
        adapter = self._adapter()
        return None if adapter is None else self.configs[adapter]

    def _start(self, batch: int, length: int, adapter: str) -> ForwardPass:
        state = self.states[-1] if self.states else SequenceState()
        if self.language_model.training and state.prompt_mask is None:
            raise ValueError(NO_PROMPT_MASK)
        described = state.described(self._input.of(batch, length), batch, length)
        if described is None:
            raise ValueError(NO_ROLES)
        self._started = state
        state.config = self.configs[adapter]
        state.last = ForwardPass.over_prompt(*described, adapter)
        return state.last

    def _continue(self, key_values: Any, batch: int, length: int, adapter: str) -> ForwardPass:
        if length > 1 and not self.states:
            raise ValueError(CHUNKED.format(length=length))
        gates = bound(key_values)
        if gates is None:
            raise ValueError(NO_GATE_WEIGHTS)
        if gates.note != adapter:
            raise ValueError(f"This KV cache was filled under adapter {gates.note!r}, but {adapter!r} is active.")
        if len(gates) != batch:
            raise ValueError(
                f"The KV cache holds {len(gates)} prompts, but the pass continues {batch} sequences. Expand the cache "
                "with its own batch_repeat_interleave or batch_select_indices, which take the gate weights along."
            )
        return ForwardPass.after_prompt(gates.tensors, batch, length, adapter)

    def _refuse_reentrant(self) -> None:
        layer: Any = next(iter(self.language_model.get_submodule("layers").children()))
        if layer.training and getattr(layer, "gradient_checkpointing", False):
            options = getattr(layer._gradient_checkpointing_func, "keywords", {})
            if options.get("use_reentrant", True):  # torch's default, too
                raise ValueError(REENTRANT)

    # -- decoder layers ---------------------------------------------------------------------------------------------

    def _enter_layer(self, gate: MoSEGate, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if self._current is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        return args, {**kwargs, ARGUMENT: self._current.enter(gate.index, gate, hidden)}

    def _leave_layer(self, slot: LayerSlot, *_: Any) -> None:
        slot.current = None

    def _enter_attention(self, slot: LayerSlot, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        slot.current = kwargs.get(ARGUMENT)
        return args, {name: value for name, value in kwargs.items() if name != ARGUMENT}
