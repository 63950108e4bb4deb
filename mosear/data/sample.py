"""From a clip and its media to token ids, roles, positions and labels; and from samples to a padded batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mosear.backbones.media import AudioInput, EncodedAudio, EncodedVideo, MediaBatch, VideoInput
from mosear.data.layouts import Layout, Layouts
from mosear.data.media_processor import audio_token_count
from mosear.roles import TokenRole, token_roles
from mosear.tensor_buffer import Packer, Place

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from mosear.backbones.families.base import OmniFamily
    from mosear.data.clip import Clip
    from mosear.data.prompt import Prompt

IGNORE = -100


class TooLongError(ValueError):
    """A clip whose question, transcript and media are longer than allowed.

    Attributes:
        tokens: that it needs.
        limit: on them.
    """

    cause = "too_long"

    def __init__(self, clip: str, tokens: int, limit: int, transcript: int) -> None:
        self.clip, self.tokens, self.limit, self.transcript = clip, tokens, limit, transcript
        super().__init__(
            f"Clip {clip!r} needs {tokens} tokens, more than max_tokens={limit}. Lower num_frames, max_pixels or "
            f"max_seconds, shorten its text ({transcript} tokens), or raise max_tokens."
        )

    def __reduce__(self) -> tuple[type[TooLongError], tuple[str, int, int, int]]:
        # Loader workers send it to the process that reads.
        return type(self), (self.clip, self.tokens, self.limit, self.transcript)


@dataclass(frozen=True)
class Sample:
    """One unpadded sequence.

    Attributes:
        clip: where it came from.
        input_ids: ``[L]``; the prompt, then the answer when there is one.
        position_ids: ``[3, L]``.
        roles: ``[L]`` :class:`TokenRole`.
        transcript: ``[L]`` bool, True on tokens of the transcript line and of earlier turns.
        labels: ``[L]``; answer tokens and the end token at their own places, else ``IGNORE``.
        prompt_length: tokens before the answer.
        media: the clip's media.
    """

    clip: Clip
    input_ids: Tensor
    position_ids: Tensor
    roles: Tensor
    transcript: Tensor
    labels: Tensor
    prompt_length: int
    media: MediaBatch


@dataclass(frozen=True)
class OmniBatch:
    """Left-padded samples. Shapes as in :class:`Sample` with a batch dimension (``position_ids [3, B, L]``)."""

    clips: list[Clip]
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    roles: Tensor
    transcript: Tensor
    labels: Tensor
    prompt_mask: Tensor
    media: MediaBatch

    def to(self, device: torch.device | str, non_blocking: bool = False) -> OmniBatch:
        """Move to ``device`` (Lightning calls this)."""
        return self._map(
            lambda t: t.to(device, non_blocking=non_blocking), self.media.to(device, non_blocking=non_blocking)
        )

    def pin_memory(self) -> OmniBatch:
        """Pin for asynchronous copies (the DataLoader calls this)."""
        features, others, places = self._packed()
        return _unpacked(features.pin_memory(), others.pin_memory(), places)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled for another process with two tensors instead of hundreds."""
        return _unpacked, self._packed()

    def _packed(self) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Bytes of the media's features, bytes of everything else, and the attributes with places in their stead.

        In two, so that who keeps ids or grids of a batch does not keep its pixels.
        """
        features, others = Packer(), Packer()
        places = {k: others.take(v) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        media = self.media.map(lambda t: (features if t.is_floating_point() else others).take(t))
        places["media"] = (media.videos, media.audios)
        return features.content(), others.content(), places

    def _map(self, fn: Callable[[Tensor], Tensor], media: MediaBatch) -> OmniBatch:
        tensors: dict[str, Any] = {k: fn(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, media=media, **tensors)

    def __len__(self) -> int:
        return len(self.clips)

    def model_inputs(self) -> dict[str, Tensor]:
        """What transformers' own ``forward`` and ``generate`` take; media must not be encoded yet.

        Raises:
            ValueError: if they are.
        """
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        videos = [video for video in self.media.videos if isinstance(video, VideoInput)]
        mels = [audio.mel for audio in self.media.audios if isinstance(audio, AudioInput)]
        if len(videos) < len(self.media.videos) or len(mels) < len(self.media.audios):
            raise ValueError("These media are encoded already (a batch from the cache): transformers encodes its own.")
        if videos:
            inputs["pixel_values_videos"] = torch.cat([video.pixels for video in videos])
            inputs["video_grid_thw"] = torch.stack([video.grid for video in videos])
            inputs["video_second_per_grid"] = torch.tensor([video.seconds_per_grid for video in videos])
        if mels:
            longest = max(mel.shape[1] for mel in mels)
            pads = [longest - mel.shape[1] for mel in mels]
            inputs["input_features"] = torch.stack([F.pad(mel, (0, pad)) for mel, pad in zip(mels, pads, strict=True)])
            ends = torch.tensor([longest - pad for pad in pads], device=self.input_ids.device)
            inputs["feature_attention_mask"] = (torch.arange(longest, device=ends.device) < ends[:, None]).long()
        return inputs

    def hidden_keys(self, *modalities: str) -> Tensor:
        """``[B, L]`` True on tokens that carry one of ``visual``, ``audio`` or ``text`` (the transcript)."""
        hidden = torch.zeros_like(self.transcript)
        for modality in modalities:
            if modality == "text":
                hidden = hidden | self.transcript
            elif modality in ("visual", "audio"):
                hidden = hidden | (self.roles == int(TokenRole[modality.upper()]))
            else:
                raise ValueError(f"Unknown modality {modality!r}. Use 'visual', 'audio' or 'text'.")
        return hidden


def _unpacked(features: Tensor, others: Tensor, places: dict[str, Any]) -> OmniBatch:
    """The batch, whose tensors are views."""
    known: dict[str, Any] = {k: v.view(others) if isinstance(v, Place) else v for k, v in places.items()}
    media = MediaBatch(*places["media"])
    known["media"] = media.map(lambda place: place.view(features if place.dtype.is_floating_point else others))
    return OmniBatch(**known)


class SampleBuilder:
    """Builds samples with the real processor's own components.

    The processor's parts are called one by one instead of through ``processor(...)`` so that encoder outputs from the
    cache can stand in for decoded media: the placeholders are expanded by the same code from the same counts (a test
    compares both).

    Args:
        processor: the checkpoint's processor.
        family: the backbone's family.
        prompt: what to ask.
        interleave: put the audio track inside the video's span when a clip has both.
        max_tokens: longest sequence allowed. Longer ones are an error that names the clip: media spans are never cut.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        family: OmniFamily,
        prompt: Prompt,
        *,
        interleave: bool = False,
        max_tokens: int = 8192,
    ) -> None:
        self.processor = processor
        self.family = family
        self.prompt = prompt
        self.interleave = interleave
        self.max_tokens = max_tokens
        self.layouts = Layouts()
        self.end_id = processor.tokenizer.eos_token_id
        self.pad_id = processor.tokenizer.pad_token_id

    def build(self, clip: Clip, media: MediaBatch, *, answer: str | None = None) -> Sample:
        """Assemble one sample; with ``answer`` (a label, or more) its tokens and the end token follow the prompt."""
        video = media.videos[0] if media.videos else None
        audio = media.audios[0] if media.audios else None
        # All that the tokens depend on, beside what this builder was made with.
        key = (clip.text, tuple(clip.context), _video_size(video), self._audio_size(audio), answer)
        layout = self.layouts.get(key, lambda: self._lay_out(clip, video, audio, answer))
        if len(layout.input_ids) > self.max_tokens:
            raise TooLongError(clip.id, len(layout.input_ids), self.max_tokens, int(layout.transcript.sum()))
        self._check_counts(clip, layout, media)
        return Sample(
            clip=clip,
            input_ids=layout.input_ids,
            position_ids=layout.position_ids,
            roles=layout.roles,
            transcript=layout.transcript,
            labels=layout.labels,
            prompt_length=layout.prompt_length,
            media=media,
        )

    def _lay_out(self, clip: Clip, video: Any, audio: Any, answer: str | None) -> Layout:
        interleaved = self.interleave and video is not None and audio is not None
        text, span = self._expanded_prompt(clip, video, audio, interleaved)
        encoded = self.processor.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        prompt_ids = encoded["input_ids"]
        answer_ids = self.answer_ids(answer) if answer is not None else []
        ids = torch.tensor(prompt_ids + answer_ids)
        inside = [start >= span[0] and end <= span[1] and end > start for start, end in encoded["offset_mapping"]]
        roles = token_roles(ids, None, audio_ids=self.family.audio_ids, visual_ids=self.family.visual_ids)
        return Layout(
            input_ids=ids,
            position_ids=self.family.position_ids(
                ids,
                [(video.grid.cpu(), video.seconds_per_grid)] if video else [],
                [_mel_frames(audio)] if audio else [],
                audio_in_video=interleaved,
            ),
            roles=roles,
            transcript=torch.tensor(inside + [False] * len(answer_ids)),
            labels=torch.tensor([IGNORE] * len(prompt_ids) + answer_ids),
            prompt_length=len(prompt_ids),
            placeholders={
                "video": int((roles == int(TokenRole.VISUAL)).sum()),
                "audio": int((roles == int(TokenRole.AUDIO)).sum()),
            },
        )

    def _audio_size(self, audio: AudioInput | EncodedAudio | None) -> tuple[int, int] | None:
        return None if audio is None else (_audio_tokens(self.processor, audio), _mel_frames(audio))

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer, with the end token."""
        return [*self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"], self.end_id]

    def written(self, label: str, reason: str | None) -> str:
        """The answer that is to be learned, see :meth:`Prompt.written`."""
        return self.prompt.written(label, _without_special_tokens(reason, self.processor.tokenizer))

    def _expanded_prompt(self, clip: Clip, video: Any, audio: Any, interleaved: bool) -> tuple[str, tuple[int, int]]:
        """Chat text with as many placeholders as there are features, and the character span of what was spoken."""
        processor = self.processor
        text = _without_special_tokens(clip.text, processor.tokenizer)
        context = [_without_special_tokens(turn, processor.tokenizer) or "" for turn in clip.context]
        messages = self.prompt.messages(
            video=video is not None, audio=audio is not None, text=text, context=context, interleave=self.interleave
        )
        chat = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        audio_tokens = [_audio_tokens(processor, audio)] if audio is not None else []
        videos = []
        if video is not None:
            videos.append(
                processor.replace_video_token(
                    {"video_grid_thw": video.grid[None], "video_second_per_grid": [video.seconds_per_grid]},
                    video_idx=0,
                    processed_audio={"num_audio_tokens": audio_tokens},
                    video_to_audio_indices=[0 if interleaved else None],
                    load_audio_from_video=interleaved,
                    seconds_per_chunk=processor.seconds_per_chunk,
                    position_id_per_seconds=processor.position_id_per_seconds,
                )
            )
        audios = [processor.audio_token * count for count in audio_tokens] if not interleaved else []
        expanded = processor.get_text_with_replacements([chat], [], videos, audios)[0][0]
        user_text, (start, end) = self.prompt.user_text(text, context)
        offset = expanded.rindex(user_text)
        return expanded, (offset + start, offset + end)

    def _check_counts(self, clip: Clip, layout: Layout, media: MediaBatch) -> None:
        """Placeholders must equal features: the 'features and tokens do not match' error, but with the clip's name."""
        for kind, items in (("video", media.videos), ("audio", media.audios)):
            placeholders = layout.placeholders[kind]
            features = sum(self._feature_count(item) for item in items)
            if placeholders != features:
                raise ValueError(
                    f"Clip {clip.id!r}: {placeholders} {kind} placeholders in the prompt but {features} {kind} "
                    "features. The processor and the weights are probably from different checkpoints."
                )

    def _feature_count(self, item: Any) -> int:
        if isinstance(item, EncodedVideo | EncodedAudio):
            return item.features.shape[0]
        if isinstance(item, VideoInput):
            return int(item.grid.prod()) // self.processor.video_processor.merge_size**2
        return _audio_tokens(self.processor, item)


def collate(samples: Sequence[Sample], pad_id: int) -> OmniBatch:
    """Left-pad samples into a batch, so that every prompt ends in the same column and generation can follow."""
    length = max(len(s.input_ids) for s in samples)

    def pad(rows: list[Tensor], value: int | bool) -> Tensor:
        return torch.stack([torch.nn.functional.pad(row, (length - row.shape[-1], 0), value=value) for row in rows])

    return OmniBatch(
        clips=[s.clip for s in samples],
        input_ids=pad([s.input_ids for s in samples], pad_id),
        attention_mask=pad([torch.ones_like(s.input_ids) for s in samples], 0),
        position_ids=pad([s.position_ids for s in samples], 1).transpose(0, 1).contiguous(),
        roles=pad([s.roles for s in samples], int(TokenRole.PAD)),
        transcript=pad([s.transcript for s in samples], False),
        labels=pad([s.labels for s in samples], IGNORE),
        prompt_mask=pad([torch.arange(len(s.input_ids)) < s.prompt_length for s in samples], False),
        media=MediaBatch([v for s in samples for v in s.media.videos], [a for s in samples for a in s.media.audios]),
    )


def _video_size(video: VideoInput | EncodedVideo | None) -> tuple[int | float, ...] | None:
    return None if video is None else (*video.grid.tolist(), video.seconds_per_grid)


def _mel_frames(audio: AudioInput | EncodedAudio) -> int:
    return audio.mel.shape[-1] if isinstance(audio, AudioInput) else audio.mel_frames


def _audio_tokens(processor: ProcessorMixin, audio: AudioInput | EncodedAudio) -> int:
    if isinstance(audio, EncodedAudio):
        return audio.features.shape[0]
    return audio_token_count(processor, audio.mel.shape[-1])


def _without_special_tokens(text: str | None, tokenizer: Any) -> str | None:
    """A transcript is data: special tokens spelled out in it (``<|im_end|>``) are broken up, never interpreted."""
    if not text:
        return None
    for token in tokenizer.get_added_vocab():  # not `all_special_tokens`, which lacks <|im_start|>
        text = text.replace(token, token[:1] + " " + token[1:])
    return text
