"""Prompts are laid out once for equal words and sizes of media; the samples are those that would be made anew."""

from __future__ import annotations

import pickle

import pytest
import torch

from mosear.data.clip import Clip
from mosear.data.layouts import Layouts
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import Prompt
from mosear.data.sample import Sample, SampleBuilder
from tests.tiny_checkpoints import random_media

CASES = [
    (text, context, video, audio, frames, samples, answer)
    for text in (None, "I am fine.")
    for context in ((), ("Really?",))
    for video, audio in ((True, True), (True, False), (False, True), (False, False))
    for frames, samples in ((2, 16_000), (4, 20_000))
    for answer in (None, "sad", "happy")
]


def build(builder: SampleBuilder, case: tuple, clip_id: str) -> Sample:
    text, context, video, audio, frames, samples, answer = case
    media = random_media(len(clip_id), video=video, audio=audio, frames=frames, samples=samples)
    clip = Clip(id=clip_id, video="v.mp4", text=text, context=context)
    return builder.build(clip, MediaProcessor(builder.processor)(media), answer=answer)


@pytest.mark.parametrize("interleave", [False, True])
def test_a_kept_layout_is_the_one_that_would_be_made(any_backbone, interleave: bool) -> None:
    def fresh() -> SampleBuilder:
        prompt = Prompt(context_turns=2)
        return SampleBuilder(any_backbone.processor, any_backbone.family, prompt, interleave=interleave)

    one = fresh()
    for round_ in ("first", "second"):
        for case in CASES:
            kept, made = build(one, case, round_), build(fresh(), case, round_)
            assert kept.clip.id == round_ and kept.prompt_length == made.prompt_length
            for name in ("input_ids", "position_ids", "roles", "transcript", "labels"):
                assert torch.equal(getattr(kept, name), getattr(made, name)), (case, name)
    # Sizes of media that a clip does not have make no difference.
    assert len(one.layouts) == len({(t, c, v and f, a and s, v, a, n) for t, c, v, a, f, s, n in CASES})


def test_what_was_used_last_stays(backbone) -> None:
    builder = SampleBuilder(backbone.processor, backbone.family, Prompt())
    size = builder.layouts.kept_bytes
    build(builder, CASES[0], "x")
    builder.layouts = Layouts(kept_bytes=3 * builder.layouts._bytes)
    assert size > builder.layouts.kept_bytes
    for text in ("a", "b", "c", "a", "d"):
        build(builder, (text, *CASES[0][1:]), "x")
    texts = [key[0] for key in builder.layouts._known]  # type: ignore[index]
    assert texts[-1] == "d" and "b" not in texts and builder.layouts._bytes <= builder.layouts.kept_bytes


def test_another_process_gets_it_empty(backbone) -> None:
    builder = SampleBuilder(backbone.processor, backbone.family, Prompt())
    build(builder, CASES[0], "x")
    copied = pickle.loads(pickle.dumps(builder.layouts))
    assert len(builder.layouts) == 1 and len(copied) == 0 and copied.kept_bytes == builder.layouts.kept_bytes
