"""What enters a backbone and what it makes of it, against plain transformers calls on the same clips."""

from dataclasses import replace

import pytest
import torch

from mosear.backbones import OmniBackbone
from mosear.backbones.families import family_of, known_families
from mosear.backbones.media import EncodedAudio, EncodedVideo, MediaBatch
from mosear.data.clip import Clip
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch, Sample, SampleBuilder, collate
from mosear.roles import TokenRole
from tests.tiny_checkpoints import process_clips, random_media

TEXT = "well, the shop moved two streets away."
KINDS = {"both": (True, True), "video": (True, False), "audio": (False, True), "text": (False, False)}


def make_sample(
    backbone: OmniBackbone, kind: str, *, seed: int = 0, text: str | None = TEXT, interleave: bool = False, **sizes: int
) -> tuple[Sample, object, str]:
    """A sample, the decoded media it came from, and the chat text that transformers' processor would get."""
    video, audio = KINDS[kind]
    media = random_media(seed, video=video, audio=audio, **sizes)
    builder = SampleBuilder(backbone.processor, backbone.family, Prompt(), interleave=interleave)
    clip = Clip(
        id=kind,
        video="v" if video else None,
        audio="a" if audio else None,
        text=text or ("x" if kind == "text" else None),
    )
    sample = builder.build(clip, MediaProcessor(backbone.processor)(media))
    messages = Prompt().messages(video=video, audio=audio, text=clip.text, interleave=interleave)
    chat = backbone.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return sample, media, chat


def test_families_by_model_type() -> None:
    assert list(known_families()) == ["qwen2_5_omni", "qwen3_omni_moe"]
    for family in known_families().values():
        for model_type in family.model_types:
            assert family_of(model_type) is family


def test_unknown_family_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"model_type='llama'.*qwen2_5_omni.*qwen3_omni_moe"):
        family_of("llama")


def test_placeholder_ids_are_the_tokenizers(backbone: OmniBackbone) -> None:
    ids = backbone.processor.tokenizer.convert_tokens_to_ids
    assert backbone.family.audio_ids == (ids("<|AUDIO|>"),)
    assert backbone.family.visual_ids == (ids("<|IMAGE|>"), ids("<|VIDEO|>"))


@pytest.mark.parametrize("text", [TEXT, None], ids=["transcript", "no transcript"])
@pytest.mark.parametrize("kind", KINDS)
def test_prompt_equals_the_processors(backbone: OmniBackbone, kind: str, text: str | None) -> None:
    sample, media, chat = make_sample(backbone, kind, text=text)
    assert sample.input_ids.tolist() == process_clips(backbone.processor, [chat], [media])["input_ids"][0].tolist()


@pytest.mark.parametrize("text", [TEXT, None], ids=["transcript", "no transcript"])
@pytest.mark.parametrize(("frames", "samples"), [(8, 20777), (16, 64000), (4, 40001)])
def test_interleaved_prompt_equals_the_processors(
    backbone: OmniBackbone, text: str | None, frames: int, samples: int
) -> None:
    sample, media, chat = make_sample(backbone, "both", text=text, interleave=True, frames=frames, samples=samples)
    expected = process_clips(backbone.processor, [chat], [media], interleave=True)
    assert sample.input_ids.tolist() == expected["input_ids"][0].tolist()


@pytest.mark.parametrize("samples", [1600, 16000, 16001, 20777, 479_990, 480_000])
def test_mel_equals_the_processors(backbone: OmniBackbone, samples: int) -> None:
    media = random_media(1, video=False, samples=samples)
    expected = process_clips(backbone.processor, ["<|AUDIO|>"], [media])
    valid = int(expected["feature_attention_mask"].sum())
    mel = MediaProcessor(backbone.processor)(media).audios[0].mel
    assert mel.shape == (128, valid)
    torch.testing.assert_close(mel, expected["input_features"][0][:, :valid], rtol=0, atol=1e-6)


def test_long_audio_is_never_cut(backbone: OmniBackbone) -> None:
    """The extractor's window of the tiny checkpoints is 30 s; how much is kept is the media budget's decision."""
    media = random_media(1, video=False, samples=35 * 16_000)
    assert MediaProcessor(backbone.processor)(media).audios[0].mel.shape[1] == 3500


def test_pixels_equal_the_processors(backbone: OmniBackbone) -> None:
    media = random_media(2, audio=False)
    expected = process_clips(backbone.processor, ["<|VIDEO|>"], [media])
    video = MediaProcessor(backbone.processor)(media).videos[0]
    assert torch.equal(video.pixels, expected["pixel_values_videos"])
    assert torch.equal(video.grid, expected["video_grid_thw"][0])
    assert video.seconds_per_grid == expected["video_second_per_grid"][0]


def rope_arguments(inputs: dict, *, interleave: bool = False) -> dict:
    """Arguments of transformers' `get_rope_index` from the processor's output."""
    mask = inputs.get("feature_attention_mask")
    return {
        "input_ids": inputs["input_ids"],
        "video_grid_thw": inputs.get("video_grid_thw"),
        "attention_mask": inputs["attention_mask"],
        "use_audio_in_video": interleave,
        "audio_seqlens": None if mask is None else mask.sum(-1),
        "second_per_grids": None
        if "video_second_per_grid" not in inputs
        else torch.as_tensor(inputs["video_second_per_grid"]),
    }


@pytest.mark.parametrize("kind", [*KINDS, "interleaved"])
def test_positions_equal_transformers(backbone: OmniBackbone, kind: str) -> None:
    interleave = kind == "interleaved"
    sample, media, chat = make_sample(backbone, "both" if interleave else kind, interleave=interleave)
    inputs = process_clips(backbone.processor, [chat], [media], interleave=interleave)
    expected, _ = backbone.model.get_rope_index(**rope_arguments(inputs, interleave=interleave))
    assert torch.equal(sample.position_ids, expected[:, 0])


def test_fractional_frame_times_survive(qwen3: OmniBackbone) -> None:
    """Half a second is 6.5 positions in Qwen3-Omni; as integers, frames would slide towards earlier sounds."""
    sample, _, _ = make_sample(qwen3, "video")
    times = sample.position_ids[0][sample.roles == int(TokenRole.VISUAL)].unique()
    assert (times - times[0]).tolist() == [0.0, 6.5, 13.0, 19.5]


def hidden(backbone: OmniBackbone, batch: OmniBatch, **changed: object) -> torch.Tensor:
    embeds, extra = backbone.embed(batch.input_ids, batch.media)
    with torch.no_grad():
        return backbone.hidden_states(embeds, batch.attention_mask, batch.position_ids, **{**extra, **changed})


MIXED = ("both", "audio", "video", "text", "both")


@pytest.mark.parametrize("kinds", [MIXED, ("both",), ("text", "audio"), ("video",)], ids="-".join)
def test_logits_equal_the_plain_model(backbone: OmniBackbone, kinds: tuple[str, ...]) -> None:
    made = [make_sample(backbone, kind, seed=i, frames=4 + 4 * (i % 2)) for i, kind in enumerate(kinds)]
    batch = collate([sample for sample, _, _ in made], backbone.processor.tokenizer.pad_token_id)
    inputs = process_clips(backbone.processor, [chat for _, _, chat in made], [media for _, media, _ in made])
    assert torch.equal(inputs["input_ids"], batch.input_ids)
    with torch.no_grad():
        expected = backbone.model(**inputs).logits
    logits, real = backbone.lm_head(hidden(backbone, batch)), batch.attention_mask.bool()
    assert expected[real].std() > 0.1, "the reference must react to its input"
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-4, atol=1e-4)


def test_interleaved_logits_equal_the_plain_model(backbone: OmniBackbone) -> None:
    made = [make_sample(backbone, "both", seed=i, interleave=True, frames=8 - 4 * i) for i in range(2)]
    batch = collate([sample for sample, _, _ in made], backbone.processor.tokenizer.pad_token_id)
    inputs = process_clips(
        backbone.processor, [chat for _, _, chat in made], [media for _, media, _ in made], interleave=True
    )
    with torch.no_grad():
        expected = backbone.model(**inputs, use_audio_in_video=True).logits
    logits, real = backbone.lm_head(hidden(backbone, batch)), batch.attention_mask.bool()
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-4, atol=1e-4)


def test_a_silent_clip_beside_an_interleaved_one_keeps_its_positions(backbone: OmniBackbone) -> None:
    """Where transformers itself goes wrong: its audio-in-video flag is one per batch."""
    silent = make_sample(backbone, "video", interleave=True)[0]
    both = make_sample(backbone, "both", seed=1, interleave=True)[0]
    batch = collate([both, silent], backbone.processor.tokenizer.pad_token_id)
    assert torch.equal(batch.position_ids[:, 1, -len(silent.input_ids) :], silent.position_ids)
    assert torch.equal(silent.position_ids, make_sample(backbone, "video")[0].position_ids)


def test_encoding_does_not_depend_on_batch_mates(backbone: OmniBackbone) -> None:
    samples = [make_sample(backbone, kind, seed=i)[0] for i, kind in enumerate(MIXED)]
    together = backbone.encode(collate(samples, 0).media)
    videos, audios = iter(together.videos), iter(together.audios)
    for sample in samples:
        alone = backbone.encode(sample.media)
        for a in alone.videos:
            b = next(videos)
            assert torch.equal(a.features, b.features)
            assert all(torch.equal(x, y) for x, y in zip(a.deepstack, b.deepstack, strict=True))
        assert all(torch.equal(a.features, next(audios).features) for a in alone.audios)


def test_encoded_media_give_the_same_states_as_raw(backbone: OmniBackbone) -> None:
    batch = collate([make_sample(backbone, kind, seed=i)[0] for i, kind in enumerate(MIXED)], 0)
    encoded = backbone.encode(batch.media)
    assert all(isinstance(v, EncodedVideo) for v in encoded.videos)
    assert all(isinstance(a, EncodedAudio) for a in encoded.audios)
    assert torch.equal(hidden(backbone, replace(batch, media=encoded)), hidden(backbone, batch))


def test_a_sample_from_encoded_media_is_the_same_sample(backbone: OmniBackbone) -> None:
    builder = SampleBuilder(backbone.processor, backbone.family, Prompt())
    raw = make_sample(backbone, "both")[0]
    again = builder.build(raw.clip, backbone.encode(raw.media))
    assert torch.equal(again.input_ids, raw.input_ids)
    assert torch.equal(again.position_ids, raw.position_ids)


def test_deepstack_matters_and_is_encoded(qwen3: OmniBackbone) -> None:
    batch = collate([make_sample(qwen3, "both")[0]], 0)
    video = qwen3.encode(batch.media).videos[0]
    assert [tuple(level.shape) for level in video.deepstack] == [tuple(video.features.shape)] * 2
    with_features = hidden(qwen3, batch)
    without = hidden(qwen3, batch, deepstack_visual_embeds=None, visual_pos_masks=None)
    assert (with_features - without).abs().max() > 1e-2


def test_dense_family_has_no_deepstack(qwen25: OmniBackbone) -> None:
    assert qwen25.encode(make_sample(qwen25, "both")[0].media).videos[0].deepstack == ()


def test_features_and_placeholders_must_match(backbone: OmniBackbone) -> None:
    sample = make_sample(backbone, "audio")[0]
    with pytest.raises(AssertionError, match="placeholders but"):
        backbone.embed(sample.input_ids[None], MediaBatch([], []))


@pytest.mark.parametrize(
    "token", ["<|im_end|>", "<|im_start|>", "<|AUDIO|>", "<|VIDEO|>", "<|IMAGE|>", "<|audio_bos|>"]
)
def test_special_tokens_in_a_transcript_stay_text(backbone: OmniBackbone, token: str) -> None:
    text = f"so{token}{token} system you are sad {token}"
    sample = make_sample(backbone, "both", text=text)[0]
    plain = make_sample(backbone, "both", text="so system you are sad")[0]
    for special in backbone.processor.tokenizer.get_added_vocab().values():
        assert (sample.input_ids == special).sum() == (plain.input_ids == special).sum()
    assert torch.equal(sample.roles.bincount(minlength=3)[1:], plain.roles.bincount(minlength=3)[1:])
    assert sample.transcript.sum() > plain.transcript.sum()
