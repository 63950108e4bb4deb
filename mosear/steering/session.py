"""A steering session: installs a policy in a model's language model, and takes it out again."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.labels import LabelTrie
from mosear.backbones.prompt_cache import PromptRows
from mosear.backbones.sequence_hooks import PassCall, PassListener, SequenceHooks
from mosear.backbones.sequences import SequenceState, family_with_separate_modalities, thinker_of
from mosear.inference.prompts import Prompts
from mosear.steering.attention import NAME, kernel_for
from mosear.steering.caches import check_empty, check_filled
from mosear.steering.conflict_detector import ConflictDetector
from mosear.steering.passes import SteeredPass
from mosear.steering.policies.base import Policy
from mosear.steering.policies.detection import Decision
from mosear.steering.policies.reliability import Readings
from mosear.steering.rows import SteeredRows
from mosear.steering.stats import SequenceRecord, SteeringStats, Totals

ATTRIBUTE = "steering_session"

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
OTHER_THREAD = (
    "This model is steered by a session of another thread ({owner}), and this pass runs in {here}. A session steers "
    "the passes of the thread that opened it: open it in the thread that runs the model, or wait until it is left."
)
FOREIGN_CACHE = (
    "This KV cache was not filled in this steering session (or was cropped into its prompt): nothing says which of its "
    "keys carry which modality. Read the prompt inside the session."
)

_numbers = itertools.count()


class SteeringSession(PassListener):
    """One policy in one model.

    A session belongs to the thread that opens it. While it is open, passes of other threads through the same model are
    refused: which of them are meant to be steered is not known.

    Use :func:`steer`; or, where a ``with`` block does not fit (callbacks), :meth:`install` and :meth:`remove`.

    Args:
        model: an ``OmniBackbone``, a ``PeftModel`` or a thinker, in eval mode.
        policy: what to do with the attention of steered rows.
        labels: candidate labels, for a policy that decides, such as CHASE; a :class:`LabelTrie` if the model comes
            without its tokenizer.
        record: keep statistics. Without them, layers and passes in which the policy does nothing cost nothing.

    Attributes:
        last: the prompts that were read last, per sample. Passes that hide a modality are readings: they are steered
            like any other, but not recorded.

    Raises:
        ValueError: if the policy does not fit the model.
    """

    owner: ClassVar[str] = "steering"
    title: ClassVar[str] = "Steering"
    lost: ClassVar[str] = FOREIGN_CACHE

    def __init__(
        self, model: Any, policy: Policy, labels: Sequence[str] | LabelTrie | None = None, *, record: bool = True
    ) -> None:
        self.thinker = thinker_of(model)
        self.family = family_with_separate_modalities(self.thinker, self.title, "Set steering=none for this backbone.")
        self.language_model: Any = self.thinker.get_submodule(self.family.language_model_path)
        config = self.language_model.config
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        if problems := policy.problems(self.layers, self.heads):
            raise ValueError("The policy does not fit this model: " + "; ".join(problems) + ".")
        self.policy, self.record, self.trie = policy, record, _trie(model, labels)
        self.detector: ConflictDetector | None = None
        if (detection := policy.detection) is not None:
            self.detector = ConflictDetector(
                detection, self.thinker, self.language_model, self.trie, self.layers, self.heads
            )
        self.last: SequenceRecord | None = None
        self._id, self._prompts = next(_numbers), 0
        self._installed = ExitStack()
        self._kernel = ""
        self._thread = _this_thread()
        self.reset_stats()

    # -- in and out -------------------------------------------------------------------------------------------------

    def install(self) -> Self:
        """Steer from now on.

        Raises:
            ValueError: if a session is open for this model.
        """
        if getattr(self.thinker, ATTRIBUTE, None) is not None:
            raise ValueError(NESTED)
        config = self.language_model.config
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
            hooks = SequenceHooks.of(self.thinker, self.family)
            hooks.add(self)
            stack.callback(hooks.remove, self)
            self._kernel, self._thread = implementation, _this_thread()
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
        """What is known already about the clips of the passes in a block; policies that decide nothing ignore it.

        Args:
            readings: label distributions ``[B, C]`` for ``audio``, ``visual`` and, if it counts, ``text``, with NaN
                rows where absent, as :func:`mosear.inference.unimodal.unimodal_predictions` gives them. CHASE then
                needs no passes of its own.
            directions: per clip the modality that is right (``audio``, ``visual``, ``None`` for neither; or their
                :class:`TokenRole` and -1), for ``Chase(target='oracle')``.
        """
        if self.detector is None:
            yield
            return
        with self.detector.given(readings, directions):
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

    def listens(self, module: nn.Module) -> bool:
        """To all passes but those that look for evidence.

        Raises:
            ValueError: if the language model is in training mode, or the pass runs in another thread.
        """
        if threading.get_ident() != self._thread[0]:
            raise ValueError(OTHER_THREAD.format(owner=self._thread[1], here=_this_thread()[1]))
        if self.detector is not None and self.detector.busy:
            return False
        if module.training:
            raise ValueError(TRAINING)
        return True

    def start(self, call: PassCall) -> SteeredPass:
        """Which rows are steered, and what the policy decides about them."""
        check_empty(call.given.get("past_key_values"), self._kernel)
        roles, prompt = call.described(self.title)
        record = self._new_record(call.state)
        steering = SteeredPass(self.policy, SteeredRows.after_media(roles, prompt), roles)
        if record is not None:
            steering.note = partial(self._note, record)
            steering.counted = self._prompts
        if self.detector is not None:
            embeds = call.given.get("inputs_embeds")
            if embeds is None:
                embeds = self.thinker.get_input_embeddings()(call.given["input_ids"])
            extra = {name: value for name, value in call.given.items() if name not in CONSUMED}
            positions = _positions(call.given.get("position_ids"), roles)
            prompts = Prompts(embeds, positions, roles, prompt, call.state.transcript_of(call.batch), extra)
            steering.known_behind = self.detector.known_behind
            steering.state, steering.reading = self.detector.about(prompts, partial(self._hear, record))
        return steering

    def resume(self, call: PassCall, rows: PromptRows) -> SteeredPass:
        """The same for answer tokens."""
        session, counted = rows.note
        if session != self._id:
            raise ValueError(FOREIGN_CACHE)
        check_filled(call.given["past_key_values"], call.length)
        roles = rows.tensors["roles"]
        steering = SteeredPass(
            self.policy, SteeredRows.after_prompt(roles, call.length), roles, state=rows.tensors.get("state")
        )
        if self.detector is not None:
            steering.known_behind = self.detector.known_behind
        if counted is not None:
            steering.note = partial(self._note, self.last if counted == self._prompts else None)
        return steering

    def arguments(self, own: SteeredPass) -> dict[str, Any]:
        """The pass travels down to the attention function."""
        return {"steering": own}

    def finish(self, call: PassCall, own: SteeredPass) -> PromptRows:
        """What a KV cache must carry: which keys carry which modality, and what was decided."""
        tensors = {"roles": own.roles}
        if own.state is not None:
            tensors["state"] = own.state
        return PromptRows(tensors, own.roles.shape[1], note=(self._id, own.counted))


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


def _this_thread() -> tuple[int, str]:
    """Number and name: a thread object itself would keep a model with an open session from being copied."""
    return threading.get_ident(), threading.current_thread().name


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
