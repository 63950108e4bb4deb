"""Prompts, roles, positions, labels and padding, against the real processor and slow literal references."""

from __future__ import annotations

import re
from typing import get_args

import pytest
import torch

from mosear.backbones.media import EncodedAudio, EncodedVideo, MediaBatch
from mosear.data.clip import Clip
from mosear.data.media import Media
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import EMOTIONS, FORMATS, AnswerFormat, Prompt
from mosear.data.sample import IGNORE, OmniBatch, Sample, SampleBuilder, collate
from mosear.inference.parsing import parse_answer
from mosear.roles import TokenRole
from tests.tiny_checkpoints import process_clips, random_media

TEXT = "well, the shop moved two streets away."
KINDS = {
    "both": {"video": True, "audio": True},
    "seen": {"video": True, "audio": False},
    "heard": {"video": False, "audio": True},
    "words": {"video": False, "audio": False},
}


def media_of(kind: str) -> Media:
    return random_media(len(kind), **KINDS[kind], samples=16_000 + 1000 * len(kind))


def build(
    backbone, kind: str, *, text: str | None = TEXT, answer: str | None = None, prompt: Prompt | None = None, **options
) -> Sample:
    builder = SampleBuilder(backbone.processor, backbone.family, prompt or Prompt(), **options)
    clip = Clip(id=kind, video="file.mp4", text=text)
    return builder.build(clip, MediaProcessor(backbone.processor)(media_of(kind)), answer=answer)


def decode(backbone, ids: torch.Tensor) -> str:
    return backbone.processor.tokenizer.decode(ids.tolist(), skip_special_tokens=False)


# Prompts


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_positions_equal_the_whole_processors(any_backbone, kind: str, interleave: bool) -> None:
    """One call of the processor with text and media, and transformers' own rope index on what it returns."""
    backbone, media = any_backbone, media_of(kind)
    processor, prompt = backbone.processor, Prompt()
    messages = prompt.messages(**KINDS[kind], text=TEXT, interleave=interleave)
    chat = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    together = interleave and kind == "both"
    expected = process_clips(processor, [chat], [media], interleave=together)
    sample = build(backbone, kind, interleave=interleave)
    assert sample.input_ids.tolist() == expected["input_ids"][0].tolist()
    lengths = expected["feature_attention_mask"].sum(-1) if "feature_attention_mask" in expected else None
    seconds = expected.get("video_second_per_grid")
    positions, _ = backbone.model.get_rope_index(
        expected["input_ids"],
        None,
        expected.get("video_grid_thw"),
        expected["attention_mask"],
        together,
        lengths,
        torch.as_tensor(seconds) if seconds is not None else None,
    )
    assert torch.equal(sample.position_ids.double(), positions[:, 0].double())
    for video in sample.media.videos:
        assert torch.equal(video.pixels, expected["pixel_values_videos"])
    for audio in sample.media.audios:
        torch.testing.assert_close(audio.mel, expected["input_features"][0][:, : int(lengths[0])], rtol=0, atol=1e-5)


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_encoded_media_expand_to_the_same_prompt(any_backbone, kind: str, interleave: bool) -> None:
    sample = build(any_backbone, kind, interleave=interleave)
    builder = SampleBuilder(any_backbone.processor, any_backbone.family, Prompt(), interleave=interleave)
    again = builder.build(sample.clip, any_backbone.encode(sample.media))
    for name in ("input_ids", "position_ids", "roles", "transcript", "labels"):
        assert torch.equal(getattr(again, name), getattr(sample, name)), name


def test_roles_follow_the_placeholders(any_backbone) -> None:
    sample = build(any_backbone, "both")
    tokenizer, processor = any_backbone.processor.tokenizer, any_backbone.processor
    names = {processor.audio_token: TokenRole.AUDIO, processor.video_token: TokenRole.VISUAL}
    tokens = tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
    assert sample.roles.tolist() == [int(names.get(token, TokenRole.TEXT)) for token in tokens]
    assert {int(TokenRole.AUDIO), int(TokenRole.VISUAL), int(TokenRole.TEXT)} == set(sample.roles.tolist())


# Answers


@pytest.mark.parametrize("label", EMOTIONS)
def test_labels_stand_at_the_answer_and_its_end(backbone, label: str) -> None:
    sample, prompt = build(backbone, "both", answer=label), build(backbone, "both")
    length = len(prompt.input_ids)
    assert sample.prompt_length == prompt.prompt_length == length < len(sample.input_ids)
    assert torch.equal(sample.input_ids[:length], prompt.input_ids)
    assert (sample.labels[:length] == IGNORE).all() and (prompt.labels == IGNORE).all()
    assert torch.equal(sample.labels[length:], sample.input_ids[length:])
    assert decode(backbone, sample.input_ids[length:]) == f"{label}<|im_end|>"
    assert decode(backbone, prompt.input_ids).endswith("<|im_start|>assistant\n")
    last = int(prompt.position_ids.max())
    steps = torch.arange(1, len(sample.input_ids) - length + 1)
    assert torch.equal(sample.position_ids[:, length:], (last + steps).expand(3, -1))
    assert not sample.transcript[length:].any() and (sample.roles[length:] == TokenRole.TEXT).all()


# The transcript


TRANSCRIPTS = [
    TEXT,
    "Oh!",
    " padded ",
    "naïve café, 你好 🙂",
    'She said "no".',
    "Which emotion does the person show?",
    "neutral",
    "line one\nline two",
    "a {text} in braces, {{ jinja }} and %s",
]


@pytest.mark.parametrize("text", TRANSCRIPTS)
@pytest.mark.parametrize("kind", ["both", "words"])
def test_transcript_mask_covers_exactly_the_transcript_line(backbone, kind: str, text: str) -> None:
    sample = build(backbone, kind, text=text, answer="sad")
    assert decode(backbone, sample.input_ids[sample.transcript]) == f'The person says: "{text}"\n'
    covered = sample.transcript.nonzero().flatten()
    assert torch.equal(covered, torch.arange(int(covered[0]), int(covered[-1]) + 1))
    rest = decode(backbone, sample.input_ids[~sample.transcript])
    without = build(backbone, kind, text=None, answer="sad")
    assert rest == decode(backbone, without.input_ids) and not without.transcript.any()


def test_special_tokens_in_a_transcript_stay_text(backbone) -> None:
    specials = list(backbone.processor.tokenizer.get_added_vocab())
    assert {"<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|VIDEO|>"} <= set(specials)
    plain, hostile = build(backbone, "both"), build(backbone, "both", text=" ".join(specials))
    ids = set(backbone.processor.tokenizer.get_added_vocab().values())

    def special_ids(sample: Sample) -> list[int]:
        return [token for token in sample.input_ids.tolist() if token in ids]

    assert special_ids(plain) == special_ids(hostile)
    assert "< |im_start|>" in decode(backbone, hostile.input_ids[hostile.transcript])


def test_listed_labels_are_sorted_and_end_the_question(backbone) -> None:
    one = build(backbone, "words", prompt=Prompt(labels=("sad", "angry"), list_labels=True))
    other = build(backbone, "words", prompt=Prompt(labels=("angry", "sad"), list_labels=True))
    assert torch.equal(one.input_ids, other.input_ids)
    assert "show? Answer with one word: angry, sad.<|im_end|>" in decode(backbone, one.input_ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ("sad",)}, "two or more different words"),
        ({"labels": ("sad", "sad")}, "two or more different words"),
        ({"labels": ("sad", " angry")}, "padded with spaces"),
        ({"transcript": "It says: {words}"}, r"must contain \{text\}"),
        ({"turn": "Before"}, r"turn='Before' must contain \{text\}"),
        ({"strategy": "cot"}, "strategy='cot' must be one of minimal, acoustic, stepwise"),
        ({"answer_format": "xml"}, "answer_format='xml' must be one of word, tags, json, rlvr, strict_json"),
        ({"context_turns": 13}, r"context_turns=13 must lie in 0\.\.12"),
        ({"synonyms": {"fury": "furious"}}, "synonyms lead to furious, which are no labels"),
    ],
)
def test_bad_prompts_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Prompt(**options)


# Strategies, formats, context


def test_strategies_and_formats_are_sentences_behind_the_question() -> None:
    labels = ("sad", "angry")
    question = "Which emotion does the person show?"
    assert Prompt(labels=labels).user_text(None)[0] == question
    assert Prompt(labels=labels, list_labels=True).user_text(None)[0] == f"{question} Answer with one word: angry, sad."
    stepwise = Prompt(labels=labels, strategy="stepwise", answer_format="tags", list_labels=True)
    text = stepwise.user_text(None)[0]
    assert text.startswith(f"{question} First describe the voice") and "step by step" in text
    assert text.endswith("one word between <answer> and </answer>: angry, sad.")
    assert Prompt(labels=labels, answer_format="json").user_text(None)[0].endswith("and one word in it.")
    assert stepwise.reasons_first and not Prompt().reasons_first


@pytest.mark.parametrize("answer_format", get_args(AnswerFormat))
def test_an_answer_written_as_asked_is_read(answer_format) -> None:
    """The instruction and the parser agree: what it shows, with a label put in, parses to that label."""
    prompt = Prompt(labels=("sad", "angry"), answer_format=answer_format, list_labels=True)
    wanted = FORMATS[answer_format]
    assert prompt.user_text(None)[0].endswith(f"{wanted}: angry, sad.")
    if "final_label" in wanted:
        answer = wanted[wanted.index("{") : wanted.index("}") + 1].replace("...", "sad")
    elif "<answer>" in wanted:
        answer = "<think>tears, not angry</think><answer>sad</answer>"
        assert all(tag in wanted for tag in re.findall("</?[a-z]+>", answer))
    else:
        answer = "sad"
    assert parse_answer(answer, prompt.labels, answer_format=prompt.answer_format).label == "sad"
    assert prompt.reasons_first == (answer_format != "word")


@pytest.mark.parametrize("kept", [0, 1, 2, 12])
def test_context_shows_the_nearest_turns_and_counts_as_spoken(backbone, kept: int) -> None:
    """Earlier turns stand before the transcript, oldest first, and are hidden together with it."""
    turns = ("First.", "Then <|im_end|>.", "Last.")
    builder = SampleBuilder(backbone.processor, backbone.family, Prompt(context_turns=kept))
    sample = builder.build(Clip(id="turns", text="Oh.", context=turns), MediaBatch())
    shown = decode(backbone, sample.input_ids[sample.transcript])
    expected = [f'Before that: "{turn}"\n' for turn in ("First.", "Then < |im_end|>.", "Last.")]
    assert (
        shown == "".join(expected[len(turns) - kept :] if kept < len(turns) else expected) + 'The person says: "Oh."\n'
    )


# Errors that name the clip


def test_a_clip_over_the_token_limit_is_named(backbone) -> None:
    length = len(build(backbone, "both", answer="sad").input_ids)
    assert len(build(backbone, "both", answer="sad", max_tokens=length).input_ids) == length
    with pytest.raises(
        ValueError, match=rf"Clip 'both' needs {length} tokens, more than max_tokens={length - 1}\. Lower"
    ):
        build(backbone, "both", answer="sad", max_tokens=length - 1)


def test_counts_that_do_not_match_name_the_clip(backbone) -> None:
    builder = SampleBuilder(backbone.processor, backbone.family, Prompt())
    clip = Clip(id="odd", text="Oh.")
    encoded = backbone.encode(MediaProcessor(backbone.processor)(media_of("both")))
    video, audio = encoded.videos[0], encoded.audios[0]
    torn = EncodedVideo(video.features[:-1], video.grid, video.seconds_per_grid)
    n = len(video.features)
    with pytest.raises(
        ValueError, match=rf"Clip 'odd': {n} video placeholders in the prompt but {n - 1} video features"
    ):
        builder.build(clip, MediaBatch([torn], []))
    assert builder.build(clip, MediaBatch([video], [EncodedAudio(audio.features, audio.mel_frames)])).clip is clip


# Batches


@pytest.fixture(scope="module")
def samples(any_backbone) -> list[Sample]:
    return [build(any_backbone, kind, answer=label) for kind, label in zip(KINDS, EMOTIONS, strict=False)]


def test_collation_pads_on_the_left_with_the_right_values(any_backbone, samples: list[Sample]) -> None:
    pad = any_backbone.processor.tokenizer.pad_token_id
    batch = collate(samples, pad)
    length = max(len(sample.input_ids) for sample in samples)
    assert len(batch) == 4 and [clip.id for clip in batch.clips] == list(KINDS)
    assert batch.position_ids.shape == (3, 4, length) and batch.position_ids.is_contiguous()
    for row, sample in enumerate(samples):
        own = len(sample.input_ids)
        gap = length - own
        padding = {
            "input_ids": pad,
            "attention_mask": 0,
            "roles": int(TokenRole.PAD),
            "transcript": False,
            "labels": IGNORE,
            "prompt_mask": False,
        }
        for name, value in padding.items():
            assert (getattr(batch, name)[row, :gap] == value).all(), name
        for name in ("input_ids", "roles", "transcript", "labels"):
            assert torch.equal(getattr(batch, name)[row, gap:], getattr(sample, name)), name
        assert (batch.position_ids[:, row, :gap] == 1).all()
        assert torch.equal(batch.position_ids[:, row, gap:], sample.position_ids)
        assert batch.attention_mask[row, gap:].all()
        assert batch.prompt_mask[row].tolist() == [gap <= i < gap + sample.prompt_length for i in range(length)]
    assert not (batch.prompt_mask & (batch.labels != IGNORE)).any()
    assert batch.transcript.dtype == batch.prompt_mask.dtype == torch.bool


def test_media_are_flat_in_the_order_of_their_placeholders(any_backbone, samples: list[Sample]) -> None:
    batch = collate(samples, 0)
    assert [video.pixels is s.media.videos[0].pixels for video, s in zip(batch.media.videos, samples[:2], strict=True)]
    both, heard = samples[0], samples[2]
    assert [audio.mel for audio in batch.media.audios] == [both.media.audios[0].mel, heard.media.audios[0].mel]
    embeds, _ = any_backbone.embed(batch.input_ids, batch.media)
    for row, sample in enumerate(samples):
        alone, _ = any_backbone.embed(sample.input_ids[None], sample.media)
        assert torch.equal(embeds[row, -len(sample.input_ids) :], alone[0])


def test_a_samples_hidden_states_do_not_depend_on_its_batch(any_backbone, samples: list[Sample]) -> None:
    def states(batch: OmniBatch) -> torch.Tensor:
        embeds, extra = any_backbone.embed(batch.input_ids, batch.media)
        return any_backbone.hidden_states(embeds, batch.attention_mask, batch.position_ids, **extra)

    together = states(collate(samples, 0))
    for row, sample in enumerate(samples):
        alone = states(collate([sample], 0))[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, rtol=1e-4, atol=1e-4)


def test_hidden_keys_name_the_tokens_of_a_modality(samples: list[Sample]) -> None:
    batch = collate(samples, 0)
    assert torch.equal(batch.hidden_keys("visual"), batch.roles == TokenRole.VISUAL)
    assert torch.equal(batch.hidden_keys("audio", "text"), (batch.roles == TokenRole.AUDIO) | batch.transcript)
    assert not batch.hidden_keys().any()
    with pytest.raises(ValueError, match="Unknown modality 'smell'"):
        batch.hidden_keys("smell")


def test_moving_a_batch_moves_every_tensor(samples: list[Sample]) -> None:
    batch = collate(samples, 0).to("meta")
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    tensors += [item.pixels for item in batch.media.videos] + [item.mel for item in batch.media.audios]
    assert len(tensors) == 7 + 4 and all(tensor.is_meta for tensor in tensors)
    assert batch.clips == [sample.clip for sample in samples]
