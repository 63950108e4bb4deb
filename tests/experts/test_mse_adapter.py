"""MSE-Adapter in a backbone: pseudo tokens in the place of media tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.labels import LabelTrie
from mosear.backbones.sequences import sequence_state
from mosear.data.prompt import EMOTIONS, Prompt
from mosear.data.sample import OmniBatch
from mosear.experts import MoSEConfig, MSEConfig
from mosear.experts.mse.hooks import ATTRIBUTE
from mosear.experts.mse.model import LAYER
from mosear.inference.generation import generate
from mosear.inference.prompts import Prompts
from mosear.inference.scoring import label_log_probs
from mosear.inference.unimodal import predictions_alone
from mosear.methods.answer_tuning.loss import AnswerRows
from mosear.methods.answer_tuning.method import answer_pass
from mosear.roles import TokenRole
from mosear.steering.policies.reallocation import AttentionReallocation
from mosear.steering.session import SteeringSession
from tests.helpers.omni_samples import MIXED, fresh, make_batch

N = 3
SMALL = {"tokens": N, "audio_hidden": 4, "video_hidden": 5, "mixed": 8}


def adapted(backbone: OmniBackbone, **settings: Any) -> tuple[OmniBackbone, PeftModel]:
    """A copy of the backbone with an adapter whose tokens are as large as words."""
    own = fresh(backbone).freeze()
    model = peft.get_peft_model(own.model, MSEConfig(**{**SMALL, **settings}))
    with torch.no_grad():
        for parameter in trained(model).values():
            torch.nn.init.normal_(parameter, std=0.3)
    return own, model.eval()


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trie(backbone: OmniBackbone) -> LabelTrie:
    return LabelTrie.of(EMOTIONS, backbone.processor.tokenizer)


@torch.no_grad()
def scores(backbone: OmniBackbone, batch: OmniBatch, hide: Sequence[str] = ()) -> Tensor:
    return label_log_probs(backbone, batch, trie(backbone), hide=hide)


@torch.no_grad()
def states(backbone: OmniBackbone, batch: OmniBatch) -> Tensor:
    embeds, extra = backbone.embed(batch.input_ids, batch.media)
    with sequence_state(backbone, roles=batch.roles, prompt_mask=batch.prompt_mask, transcript=batch.transcript):
        return backbone.hidden_states(embeds, batch.attention_mask, batch.position_ids, **extra)


# -- what the decoder reads --------------------------------------------------------------------------------------------


@torch.no_grad()
def literal_states(bare: OmniBackbone, own: OmniBackbone, batch: OmniBatch, row: int) -> Tensor:
    """Of one clip: the prompt written anew, with pseudo tokens where the first media tokens were."""
    network = getattr(own.language_model, LAYER).mse_networks["default"]
    embeds, _ = bare.embed(batch.input_ids, batch.media)
    parts: dict[str, list[Tensor]] = {"audio": [], "video": [], "text": []}
    for token in range(embeds.shape[1]):
        role = int(batch.roles[row, token])
        if role in (int(TokenRole.AUDIO), int(TokenRole.VISUAL)):
            parts["audio" if role == int(TokenRole.AUDIO) else "video"].append(embeds[row, token])
        elif bool(batch.transcript[row, token]):
            parts["text"].append(embeds[row, token])
    given = []
    for own_part in parts.values():
        given += [torch.stack(own_part or [torch.zeros(embeds.shape[-1])])[None], torch.tensor([len(own_part)])]
    pseudo = iter(network(*given)[0])
    kept, positions = [], []
    for token in range(embeds.shape[1]):
        role = int(batch.roles[row, token])
        if role == int(TokenRole.PAD):
            continue
        is_media = role in (int(TokenRole.AUDIO), int(TokenRole.VISUAL))
        value = next(pseudo, None) if is_media else embeds[row, token]
        if value is not None:
            kept.append(value)
            positions.append(batch.position_ids[:, row, token])
    whole = torch.stack(kept)[None]
    mask = torch.ones(whole.shape[:2], dtype=torch.long)
    return bare.hidden_states(whole, mask, torch.stack(positions, dim=-1)[:, None])[0, -1]


def test_the_decoder_reads_pseudo_tokens_instead_of_media(backbone: OmniBackbone) -> None:
    own, _ = adapted(backbone)
    batch = make_batch(backbone)
    found = states(own, batch)
    for row in range(len(batch)):
        torch.testing.assert_close(found[row, -1], literal_states(backbone, own, batch, row), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[:1, -1], states(backbone, batch)[:1, -1], atol=1e-2)


def test_a_clip_with_fewer_media_tokens_gets_fewer_pseudo_tokens(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone, [("video", "text")])
    own, _ = adapted(backbone, tokens=1 + int(batch.hidden_keys("visual").sum()))
    torch.testing.assert_close(states(own, batch)[0, -1], literal_states(backbone, own, batch, 0), rtol=1e-4, atol=1e-4)


def test_a_clip_is_answered_on_its_own(backbone: OmniBackbone) -> None:
    own, _ = adapted(backbone)
    together = scores(own, make_batch(backbone))
    for row, kinds in enumerate(MIXED):
        alone = make_batch(backbone, [("text",)] * row + [kinds])  # the clip's seed is its place
        torch.testing.assert_close(scores(own, alone)[row], together[row], rtol=1e-4, atol=1e-4)


def test_a_hidden_modality_is_not_read(backbone: OmniBackbone) -> None:
    own, _ = adapted(backbone)
    batch = make_batch(backbone, [("video", "audio", "text")])
    batch = OmniBatch(**{**vars(batch), "media": backbone.encode(batch.media)})
    other = OmniBatch(**{**vars(batch), "media": batch.media.map(lambda t: t + 1.0 if t.is_floating_point() else t)})
    for hide in (("visual", "audio"), ("visual",), ("audio",), ()):
        same = torch.allclose(scores(own, batch, hide), scores(own, other, hide), atol=1e-5)
        assert same == (hide == ("visual", "audio"))
    assert not torch.allclose(scores(own, batch, ("text",)), scores(own, batch), atol=1e-4)
    alone = predictions_alone(own, batch, trie(own))
    assert all(bool(alone[name].isfinite().all()) for name in ("visual", "audio", "text"))


def test_cached_passes_go_on_without_the_media(backbone: OmniBackbone) -> None:
    own, _ = adapted(backbone)
    batch = make_batch(backbone, [("video", "audio", "text"), ("audio",)])
    tokenizer = backbone.processor.tokenizer
    found = generate(own, batch, max_new_tokens=4, end_id=-1, pad_id=tokenizer.pad_token_id)
    for step in range(1, 4):  # without a cache: prompt and answer so far in one pass
        written = found.ids[:, :step]
        grown = {
            "input_ids": torch.cat([batch.input_ids, written], dim=1),
            "attention_mask": torch.cat([batch.attention_mask, torch.ones_like(written)], dim=1),
            "roles": torch.cat([batch.roles, torch.full_like(written, int(TokenRole.TEXT))], dim=1),
            "transcript": torch.cat([batch.transcript, torch.zeros_like(written).bool()], dim=1),
            "prompt_mask": torch.cat([batch.prompt_mask, torch.zeros_like(written).bool()], dim=1),
        }
        after = batch.position_ids.amax(dim=(0, 2))[:, None] + torch.arange(1, step + 1)
        grown["position_ids"] = torch.cat([batch.position_ids, after.expand(3, -1, -1)], dim=-1)
        logits = own.lm_head(states(own, OmniBatch(**{**vars(batch), **grown}))[:, -1]).float().log_softmax(-1)
        expected = logits.gather(-1, found.ids[:, step : step + 1])[:, 0]
        torch.testing.assert_close(found.log_probs[:, step], expected, rtol=1e-3, atol=1e-4)


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_weight_learns_from_the_answers(qwen25: OmniBackbone, checkpointing: bool) -> None:
    own, model = adapted(qwen25)
    if checkpointing:
        own.model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    own.towers_eval()
    batch = make_batch(qwen25, answer="happy")
    rows = AnswerRows.of(batch.labels)
    loss, _ = answer_pass(own.model, own.language_model, Prompts.of(own, batch), rows, batch.attention_mask)
    loss.backward()
    assert len(trained(model)) == 32 and all("mse_" in name for name in trained(model))
    assert [name for name, p in trained(model).items() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is None for p in own.model.parameters() if not p.requires_grad)


def test_scores_are_learned_and_read_as_labels_of_one_decimal(qwen25: OmniBackbone) -> None:
    labels = [f"{tenth / 10:.1f}" for tenth in range(-30, 31)]
    own, _ = adapted(qwen25)
    batch = make_batch(qwen25, [("video", "audio", "text")], answer="-0.4", prompt=Prompt(labels=labels))
    rows = AnswerRows.of(batch.labels)
    loss, _ = answer_pass(own.model, own.language_model, Prompts.of(own, batch), rows, batch.attention_mask)
    written = qwen25.processor.tokenizer("-0.4", add_special_tokens=False)["input_ids"]
    assert loss.isfinite() and rows.count == len(written) + 1  # and the end token
    asked = make_batch(qwen25, [("video", "audio", "text")], prompt=Prompt(labels=labels))
    with torch.no_grad():
        found = label_log_probs(own, asked, LabelTrie.of(labels, qwen25.processor.tokenizer))
    assert found.shape == (1, 61) and bool(found.isfinite().all())


# -- as a citizen of PEFT ----------------------------------------------------------------------------------------------


def test_save_and_load(backbone: OmniBackbone, tmp_path: Path) -> None:
    own, model = adapted(backbone)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == len(trained(model)) and all("mse_" in name for name in saved)
    config = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(config, MSEConfig) and config.tokens == N
    other = fresh(backbone)
    loaded = PeftModel.from_pretrained(other.model, tmp_path)
    batch = make_batch(backbone)
    torch.testing.assert_close(scores(other, batch), scores(own, batch), rtol=0, atol=0)
    assert trained(loaded) == {}


def test_the_backbone_comes_back(backbone: OmniBackbone) -> None:
    own, model = adapted(backbone)
    batch = make_batch(backbone)
    base, on = scores(backbone, batch), scores(own, batch)
    assert not torch.equal(base, on)
    with model.disable_adapter():
        assert torch.equal(scores(own, batch), base)
    assert torch.equal(scores(own, batch), on)
    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_and_unload()
    model.unload()
    assert torch.equal(scores(own, batch), base)
    assert not hasattr(own.model, ATTRIBUTE) and not hasattr(own.language_model, LAYER)


def test_several_adapters_side_by_side(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25)
    batch = make_batch(qwen25)
    first = scores(own, batch)
    model.add_adapter("other", MSEConfig(**{**SMALL, "tokens": 1}))
    assert torch.equal(scores(own, batch), first)
    model.set_adapter("other")
    assert not torch.equal(scores(own, batch), first)
    model.delete_adapter("other")
    model.set_adapter("default")
    assert torch.equal(scores(own, batch), first)


def test_what_needs_tokens_of_one_modality_is_refused(qwen25: OmniBackbone) -> None:
    own, _ = adapted(qwen25)
    with pytest.raises(ValueError, match="fuses audio and picture"):
        SteeringSession(own, AttentionReallocation(), EMOTIONS)
    with pytest.raises(ValueError, match="fuses audio and picture"):
        peft.get_peft_model(own.model, MoSEConfig(r=2))


def test_passes_must_say_what_was_spoken(qwen25: OmniBackbone) -> None:
    own, _ = adapted(qwen25)
    batch = make_batch(qwen25)
    embeds, extra = own.embed(batch.input_ids, batch.media)
    with pytest.raises(ValueError, match="which tokens were spoken"), sequence_state(own, roles=batch.roles):
        own.hidden_states(embeds, batch.attention_mask, batch.position_ids, **extra)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"tokens": 0}, "tokens"), ({"dropout": 1.0}, "dropout"), ({"bias": "all"}, "trains no weight of the backbone")],
)
def test_settings_that_cannot_work_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MSEConfig(**settings)
