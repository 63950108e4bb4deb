"""The role map against the processor's own account of its tokens, in every layout that a batch can have."""

import pytest
import torch
from transformers import BatchFeature

from mosear.backbones import OmniBackbone
from mosear.roles import TokenRole, token_roles
from tests.tiny_checkpoints import process, random_media

T, A, V, P = (int(role) for role in (TokenRole.TEXT, TokenRole.AUDIO, TokenRole.VISUAL, TokenRole.PAD))
PROCESSOR_TYPES = {0: T, 1: V, 2: V, 3: A}  # `mm_token_type_ids`: text, image, video, audio


def test_by_hand() -> None:
    ids = torch.tensor([[0, 7, 5, 5, 1, 8, 9, 2], [7, 5, 2, 0, 0, 0, 0, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0]])
    roles = token_roles(ids, mask, audio_ids=(5,), visual_ids=(8, 9))
    assert roles.tolist() == [[P, T, A, A, T, V, V, T], [T, A, T, P, P, P, P, P]]
    assert roles.dtype == torch.long


def test_without_a_mask_nothing_is_padding() -> None:
    assert token_roles(torch.tensor([0, 5, 8]), None, audio_ids=(5,), visual_ids=(8,)).tolist() == [T, A, V]


def test_a_masked_placeholder_is_padding() -> None:
    roles = token_roles(torch.tensor([[5, 5]]), torch.tensor([[0, 1]]), audio_ids=(5,), visual_ids=(8,))
    assert roles.tolist() == [[P, A]]


VIDEO = "<|vision_bos|><|VIDEO|><|vision_eos|>"
AUDIO = "<|audio_bos|><|AUDIO|><|audio_eos|>"
IMAGE = "<|vision_bos|><|IMAGE|><|vision_eos|>"
BATCHES = {
    "video and audio": [VIDEO + AUDIO + "which emotion"],
    "missing modalities": [VIDEO + AUDIO + "a", AUDIO + "which emotion does", VIDEO + "the", "text alone, no media"],
    "several media per clip": [VIDEO + AUDIO + "then" + VIDEO + AUDIO + AUDIO + "?", AUDIO + VIDEO + "which"],
    "images": [IMAGE + "a" + IMAGE + AUDIO, VIDEO + IMAGE + "which emotion"],
    "no media": ["which", "which emotion does the person show"],
}


def call(backbone: OmniBackbone, texts: list[str], side: str) -> BatchFeature:
    """Media of different sizes for each placeholder, in order."""
    joined = "".join(texts)
    videos = [random_media(i, frames=(4, 8, 6)[i % 3]).frames for i in range(joined.count("<|VIDEO|>"))]
    lengths = (8000, 20777, 16000, 35001)
    audios = [random_media(i, samples=lengths[i % 4]).audio for i in range(joined.count("<|AUDIO|>"))]
    images = [random_media(i).frames[0] for i in range(joined.count("<|IMAGE|>"))]
    return process(backbone.processor, texts, videos, audios, images, side=side, return_mm_token_type_ids=True)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("texts", BATCHES.values(), ids=BATCHES.keys())
def test_equals_the_processors_token_types(backbone: OmniBackbone, texts: list[str], side: str) -> None:
    inputs = call(backbone, texts, side)
    roles = backbone.roles(inputs["input_ids"], inputs["attention_mask"])
    expected = inputs["mm_token_type_ids"].clone().apply_(PROCESSOR_TYPES.get)
    expected[inputs["attention_mask"] == 0] = P
    assert torch.equal(roles, expected)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("texts", BATCHES.values(), ids=BATCHES.keys())
def test_counts_are_those_of_the_media(backbone: OmniBackbone, texts: list[str], side: str) -> None:
    """Per clip: visual tokens = grid / merge^2 of its videos and images, audio tokens = what the tower puts out."""
    inputs = call(backbone, texts, side)
    roles = backbone.roles(inputs["input_ids"], inputs["attention_mask"])
    merged = backbone.processor.video_processor.merge_size**2
    videos, images = (
        [int(g.prod()) // merged for g in inputs.get(k, [])] for k in ("video_grid_thw", "image_grid_thw")
    )
    audios = [
        _tower_tokens(backbone, n) for n in inputs.get("feature_attention_mask", torch.zeros(0, 1)).sum(-1).tolist()
    ]
    for row, text in zip(roles, texts, strict=True):
        visual = sum(videos.pop(0) for _ in range(text.count("<|VIDEO|>")))
        visual += sum(images.pop(0) for _ in range(text.count("<|IMAGE|>")))
        audio = sum(audios.pop(0) for _ in range(text.count("<|AUDIO|>")))
        assert (int((row == V).sum()), int((row == A).sum())) == (visual, audio)
    assert not videos and not images and not audios


def _tower_tokens(backbone: OmniBackbone, frames: int) -> int:
    mel, mask = torch.zeros(1, 128, frames), torch.ones(1, frames, dtype=torch.long)
    with torch.no_grad():
        return len(
            backbone.model.get_audio_features(mel, feature_attention_mask=mask, return_dict=True).last_hidden_state
        )


@pytest.mark.parametrize("side", ["left", "right"])
def test_audio_interleaved_with_video(backbone: OmniBackbone, side: str) -> None:
    texts = [VIDEO + "which emotion does", VIDEO + "which"]
    videos = [random_media(i, frames=n).frames for i, n in enumerate((16, 4))]
    audios = [random_media(i, samples=n).audio for i, n in enumerate((64000, 16000))]
    inputs = process(
        backbone.processor,
        texts,
        videos,
        audios,
        side=side,
        load_audio_from_video=True,
        audio_from_video_indices=[0, 1],
        return_mm_token_type_ids=True,
    )
    roles = backbone.roles(inputs["input_ids"], inputs["attention_mask"])
    expected = inputs["mm_token_type_ids"].clone().apply_(PROCESSOR_TYPES.get)
    expected[inputs["attention_mask"] == 0] = P
    assert torch.equal(roles, expected)
    media = roles[0][(roles[0] == A) | (roles[0] == V)]
    assert int((media[1:] != media[:-1]).sum()) >= 3, "this clip should switch between modalities several times"
