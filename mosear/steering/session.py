"""A steering session: installs a policy in a model's language model, and takes it out again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.families import family_of
from mosear.backbones.families.base import OmniFamily
from mosear.backbones.hooks import InputRoles, arguments
from mosear.backbones.labels import LabelTrie
from mosear.backbones.prompt_cache import PromptRows, attach, attached
from mosear.experts.state import SequenceState, open_states, thinker_of
from mosear.steering.attention import NAME, kernel_for
from mosear.steering.evidence import PromptCall
from mosear.steering.judge import ConflictJudge
from mosear.steering.passes import SteeredPass
from mosear.steering.policies.base import Policy
from mosear.steering.policies.chase import Chase, Decision
from mosear.steering.policies.reliability import Readings
from mosear.steering.rows import SteeredRows
from mosear.steering.stats import SequenceRecord, SteeringStats, Totals

ATTRIBUTE = "steering_session"
OWNER = "steering"
"""Under which a KV cache carries our rows."""

CONSUMED = frozenset(
    ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "past_key_values", "use_cache", "return_dict")
    + ("output_attentions", "output_hidden_states")
)
"""Arguments of the language model for which an extra pass has its own values, or none."""

NESTED = (
    "A steering session is open for this model already. Sessions do not nest: leave it first, or join the policies in "
    "Policies((first, second))."
)
TRAINING = "Steering is for inference, and the language model is in training mode. Call model.eval()."
NO_ROLES = (
    "Steering cannot tell which token carries which modality: this pass has embeddings but no input ids (or a mask "
    "that is not [B, L]). Wrap it in `with mosear.experts.sequence_state(model, roles=..., prompt_mask=...):`."
)
FOREIGN_CACHE = (
    "This KV cache was not filled in this steering session (or was cropped into its prompt): nobody knows which of its "
    "keys carry which modality. Read the prompt inside the session."
)
CHUNKED = (
    "A pass with {length} new tokens on a filled KV cache looks like chunked prefill, which steering refuses: it needs "
    "the whole prompt in one pass. Drop prefill_chunk_size. If these are answer tokens, wrap prompt and answer passes "
    "in `with mosear.experts.sequence_state(model, roles=..., prompt_mask=...):`."
)

_numbers = itertools.count()


class SteeringSession:
    """One policy in one model.

    Use :func:`steer`; or, where a ``with`` block does not fit (callbacks), :meth:`install` and :meth:`remove`.

    Args:
        model: an ``OmniBackbone``, a ``PeftModel`` or a thinker, in eval mode.
        policy: what to do with the attention of steered rows.
        labels: candidate labels, for CHASE; a :class:`LabelTrie` if the model comes without its tokenizer.
        record: keep statistics. Without them, layers and passes in which the policy does nothing cost nothing.

    Attributes:
        last: the prompts that were read last, per sample. Passes that hide a modality are readings: they are steered
            like any other, but not recorded.

    Raises:
        ValueError: if the policy does not fit the model.
    """

    def __init__(
        self, model: Any, policy: Policy, labels: Sequence[str] | LabelTrie | None = None, *, record: bool = True
    ) -> None:
        self.thinker = thinker_of(model)
        self.family = _separate_family(self.thinker)
        self.language_model: Any = self.thinker.get_submodule(self.family.language_model_path)
        config = self.language_model.config
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        if problems := policy.problems(self.layers, self.heads):
            raise ValueError("The policy does not fit this model: " + "; ".join(problems) + ".")
        self.policy, self.record, self.trie = policy, record, _trie(model, labels)
        self.judge: ConflictJudge | None = None
        if chase := next((step for step in policy.steps if isinstance(step, Chase)), None):
            self.judge = ConflictJudge(chase, self.thinker, self.language_model, self.trie, self.layers, self.heads)
        self.last: SequenceRecord | None = None
        self._id, self._prompts = next(_numbers), 0
        self._started: SteeredPass | None = None
        self._installed = ExitStack()
        self.reset_stats()

    # -- in and out -------------------------------------------------------------------------------------------------

    def install(self) -> Self:
        """Steer from now on.

        Raises:
            ValueError: if a session is open for this model.
        """
        if getattr(self.thinker, ATTRIBUTE, None) is not None:
            raise ValueError(NESTED)
        language_model, config = self.language_model, self.language_model.config
        implementation = config._attn_implementation
        inner = self.thinker.get_submodule(self.family.language_model_path.rpartition(".")[0])
        with ExitStack() as stack:
            setattr(self.thinker, ATTRIBUTE, self._id)
            stack.callback(delattr, self.thinker, ATTRIBUTE)
            if hasattr(inner, "rope_deltas"):
                stack.callback(setattr, inner, "rope_deltas", inner.rope_deltas)
            stack.enter_context(kernel_for(config, implementation))
            # The text config alone: the towers keep their attention.
            stack.callback(self.thinker.set_attn_implementation, {"text_config": implementation})
            self.thinker.set_attn_implementation({"text_config": NAME})
            self._input = InputRoles(self.thinker, self.family)
            stack.callback(self._input.detach)
            # First of all hooks: extra passes must be over before others (experts) take note of this one.
            before = language_model.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True)
            stack.callback(before.remove)
            after = language_model.register_forward_hook(self._end, with_kwargs=True, always_call=True)
            stack.callback(after.remove)
            self._installed = stack.pop_all()
        return self

    def remove(self) -> None:
        """Put the model back as it was; harmless when nothing is installed."""
        self._installed.close()

    @contextmanager
    def given(
        self,
        *,
        readings: Mapping[str, Tensor] | None = None,
        directions: Sequence[str | None] | Tensor | None = None,
    ) -> Iterator[None]:
        """What is known already about the clips of the passes in a block; without CHASE nobody asks.

        Args:
            readings: label distributions ``[B, C]`` for ``audio``, ``visual`` and, if it counts, ``text``, with NaN
                rows where absent, as :func:`mosear.evaluation.scoring.unimodal_distributions` gives them. CHASE then
                needs no passes of its own.
            directions: per clip the modality that is right (``audio``, ``visual``, ``None`` for neither; or their
                :class:`TokenRole` and -1), for ``Chase(target='oracle')``.
        """
        if self.judge is None:
            yield
            return
        with self.judge.given(readings, directions):
            yield

    # -- statistics -------------------------------------------------------------------------------------------------

    @property
    def stats(self) -> SteeringStats:
        """Means over everything since the session began; see :class:`SteeringStats`."""
        return self._totals.stats()

    def reset_stats(self) -> None:
        """Count from zero."""
        self._totals = Totals(self.layers, self.heads)

    def _new_record(self, state: SequenceState) -> SequenceRecord | None:
        if not self.record or state.quiet or state.hidden is not None:
            return None
        self._prompts += 1
        self.last = SequenceRecord(self.layers, self.heads)
        return self.last

    def _note(self, record: SequenceRecord | None, layer: int, sums: Tensor, counts: Tensor) -> None:
        self._totals.add(layer, sums, counts)
        if record is not None:
            record.add(layer, sums, counts)

    def _hear(self, record: SequenceRecord | None, decision: Decision, readings: Readings) -> None:
        if record is not None:
            record.decision, record.readings = decision, readings
            self._totals.conflicts.append(decision.conflict)

    # -- the language model -----------------------------------------------------------------------------------------

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if self.judge is not None and self.judge.busy:
            return None
        self._started = None
        if module.training:
            raise ValueError(TRAINING)
        given = arguments(module, args, kwargs)
        tokens = given.get("inputs_embeds")
        if tokens is None:
            tokens = given["input_ids"]
            self._input.note(given)
        batch, length = tokens.shape[:2]
        key_values = given.get("past_key_values")
        if key_values is not None and int(key_values.get_seq_length()) > 0:
            steering = self._continue(key_values, batch, length)
        else:
            steering = self._started = self._start(given, batch, length)
        return args, {**kwargs, "steering": steering}

    def _start(self, given: dict[str, Any], batch: int, length: int) -> SteeredPass:
        states = open_states(self.thinker)
        state = states[-1] if states else SequenceState()
        described = state.described(self._input.of(batch, length), batch, length)
        if described is None:
            raise ValueError(NO_ROLES)
        roles, prompt = described
        record = self._new_record(state)
        steering = SteeredPass(self.policy, SteeredRows.after_media(roles, prompt), roles)
        if record is not None:
            steering.note = partial(self._note, record)
        if self.judge is not None:
            embeds = given.get("inputs_embeds")
            if embeds is None:
                embeds = self.thinker.get_input_embeddings()(given["input_ids"])
            extra = {name: value for name, value in given.items() if name not in CONSUMED}
            positions = _positions(given.get("position_ids"), roles)
            call = PromptCall(embeds, positions, roles, prompt, state.transcript_of(batch), extra)
            steering.known_behind = self.judge.known_behind
            steering.state, steering.reading = self.judge.about(call, partial(self._hear, record))
        return steering

    def _continue(self, key_values: Any, batch: int, length: int) -> SteeredPass:
        if length > 1 and not open_states(self.thinker):
            raise ValueError(CHUNKED.format(length=length))
        own = attached(key_values, OWNER)
        if own is None or own.note[0] != self._id:
            raise ValueError(FOREIGN_CACHE)
        if len(own) != batch:
            raise ValueError(
                f"The KV cache holds {len(own)} prompts, but the pass continues {batch} sequences. Expand the cache "
                "with its own batch_repeat_interleave or batch_select_indices, which take the roles of its keys along."
            )
        roles = own.tensors["roles"]
        steering = SteeredPass(
            self.policy, SteeredRows.after_prompt(roles, length), roles, state=own.tensors.get("state")
        )
        if self.judge is not None:
            steering.known_behind = self.judge.known_behind
        if own.note[1] is not None:
            steering.note = partial(self._note, self.last if own.note[1] == self._prompts else None)
        return steering

    def _end(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if self.judge is not None and self.judge.busy:
            return
        steering, self._started = self._started, None
        if steering is None or output is None:  # a continuation, or an exception
            return
        key_values = arguments(module, args, kwargs).get("past_key_values")
        if key_values is None:
            key_values = getattr(output, "past_key_values", None)
        if key_values is None or not int(key_values.get_seq_length()):
            return
        tensors = {"roles": steering.roles}
        if steering.state is not None:
            tensors["state"] = steering.state
        counted = self._prompts if steering.note is not None else None
        attach(key_values, OWNER, PromptRows(tensors, steering.roles.shape[1], note=(self._id, counted)))


@contextmanager
def steer(
    model: Any, policy: Policy, labels: Sequence[str] | LabelTrie | None = None, *, record: bool = True
) -> Iterator[SteeringSession]:
    """Steer a model's attention inside a ``with`` block; afterwards, or after an exception, it is as before.

        with steer(backbone, AttentionReallocation(threshold=0.6, portion=0.5)) as session:
            backbone.model.generate(**batch)
        session.stats.before, session.stats.after       # [layers, heads, 3]

    Args:
        model: see :class:`SteeringSession`.
        policy: see :class:`SteeringSession`.
        labels: see :class:`SteeringSession`.
        record: see :class:`SteeringSession`.

    Raises:
        ValueError: if the policy does not fit the model, or a session is open for it already.
    """
    session = SteeringSession(model, policy, labels, record=record).install()
    try:
        yield session
    finally:
        session.remove()


def _positions(given: Tensor | None, roles: Tensor) -> Tensor:
    """``[3, B, L]`` from what a language model takes: nothing, ``[B, L]``, or 3 or 4 of these (text in front)."""
    if given is None:
        return torch.arange(roles.shape[1], device=roles.device).expand(3, *roles.shape)
    if given.ndim == 2:
        return given.expand(3, *roles.shape)
    return given[-3:].expand(3, *roles.shape)


def _trie(model: Any, labels: Sequence[str] | LabelTrie | None) -> LabelTrie | None:
    if labels is None or isinstance(labels, LabelTrie):
        return labels
    if not isinstance(model, OmniBackbone):
        raise ValueError(
            f"To spell labels={list(labels)} the session needs the tokenizer, which {type(model).__name__} does not "
            "have. Pass the OmniBackbone as the model, or labels=LabelTrie.of(labels, tokenizer)."
        )
    return LabelTrie.of(tuple(labels), model.processor.tokenizer)


def _separate_family(thinker: Any) -> OmniFamily:
    family = family_of(getattr(getattr(thinker, "config", None), "model_type", None))
    if not isinstance(thinker, family.model_class()):
        raise ValueError(
            f"Steering works on the thinker ({family.model_class().__name__}), not on {type(thinker).__name__}. Load "
            "it with mosear.backbones.load_backbone."
        )
    if not family.separate_modalities:
        raise ValueError(
            f"The tokens of {family.name} carry audio and picture fused: there is no attention to move from one to the "
            "other. Set steering=none for this backbone."
        )
    return family(thinker.config)
