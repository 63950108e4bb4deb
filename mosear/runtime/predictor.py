"""Answers for media files, with the settings of the run that trained the adapter."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mosear.backbones import load_backbone
from mosear.backbones.backbone import OmniBackbone
from mosear.data.budget import MediaBudget
from mosear.data.clip import Clip
from mosear.data.decode_process import DecodeProcess, Decoder
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import Prompt
from mosear.data.sample import Sample, SampleBuilder, TooLongError, collate
from mosear.inference.answerer import Answer, Answerer
from mosear.inference.distributions import jensen_shannon
from mosear.runtime.run import Run
from mosear.steering.session import steer
from mosear.steering.settings import SteeringSettings
from mosear.steering.telemetry import SteeredEvaluation

TINY_BUDGET = MediaBudget(num_frames=8, max_pixels=112 * 112)


@dataclass(frozen=True)
class Prediction:
    """What the model says about one file.

    Attributes:
        label: the most likely label, or the one that was read from generated text; ``None`` if there is no answer.
        distribution: probability per label; empty if the scores are not finite.
        readings: per modality that the clip has (``visual``, ``audio``, ``text``), the distribution from it alone.
        conflict: Jensen-Shannon divergence of the visual and the audio prediction in [0, 1]; ``None`` if one is absent.
        seconds: time spent per file, decoding included.
        text: what was generated, if anything was.
        steering: what steering did; empty without it.
        reason: why there is no label.
        cut_at: seconds after which the file was not used; ``None`` if all of it was.
    """

    label: str | None
    distribution: dict[str, float]
    readings: dict[str, dict[str, float]]
    conflict: float | None
    seconds: float
    text: str | None = None
    steering: dict[str, Any] | None = None
    reason: str | None = None
    cut_at: float | None = None


class Predictor:
    """A loaded backbone that answers for files.

    Args:
        backbone: with an adapter injected, if any.
        prompt: the question and the labels.
        budget: what is decoded at most.
        max_pixels: pixels per frame for the backbone; ``None`` = the checkpoint's own.
        interleave: put the audio track inside its video's token span.
        max_tokens: longest sequence.
        method: see :class:`Answerer`.
        max_new_tokens: see :class:`Answerer`.
        adapter: directory of the adapter, to which steering settings must belong.
        decoder: decodes the files; ``None`` = a process of its own, which a file may end.
    """

    def __init__(
        self,
        backbone: OmniBackbone,
        prompt: Prompt,
        budget: MediaBudget,
        *,
        max_pixels: int | None = None,
        interleave: bool = False,
        max_tokens: int = 8192,
        method: Literal["score", "generate"] = "score",
        max_new_tokens: int = 16,
        adapter: Path | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.decoder = decoder or DecodeProcess()
        self.backbone, self.budget, self.adapter = backbone, budget, adapter
        self.media_processor = MediaProcessor(backbone.processor, max_pixels=max_pixels)
        self.builder = SampleBuilder(
            backbone.processor, backbone.family, prompt, interleave=interleave, max_tokens=max_tokens
        )
        self.answerer = Answerer(backbone, prompt, method=method, max_new_tokens=max_new_tokens)

    @classmethod
    def from_run(
        cls, path: str | Path, backbone: str | None = None, *, trust_remote_code: bool = False, **options: Any
    ) -> Predictor:
        """With the run's own backbone, adapter, prompt and budgets.

        Args:
            path: the run directory, or its ``adapter/``.
            backbone: where the backbone lies, if not under the run's name for it.
            trust_remote_code: run code that the backbone's checkpoint brings along.
            options: ``method``, ``max_new_tokens`` and ``decoder``.
        """
        options = {"decoder": _started()} | options
        run = Run.open(path, trust_remote_code=trust_remote_code)
        loaded = run.backbone(backbone)
        run.network(loaded)
        data = run.cfg.data
        limits = {"max_pixels": data.max_pixels, "interleave": data.interleave, "max_tokens": data.max_tokens}
        return cls(loaded, run.prompt, run.budget, adapter=run.adapter, **limits, **options)

    @classmethod
    def bare(cls, backbone: str = "tiny-omni", *, trust_remote_code: bool = False, **options: Any) -> Predictor:
        """An embedded backbone without an adapter."""
        options = {"decoder": _started()} | options
        loaded = load_backbone(backbone, dtype="fp32", trust_remote_code=trust_remote_code)
        return cls(loaded, Prompt(), TINY_BUDGET, **options)

    @contextmanager
    def steered(self, settings: str | Path) -> Iterator[None]:
        """Answers inside the block are steered by a calibration file.

        Raises:
            ValueError: if the file belongs to another backbone or adapter.
        """
        found = SteeringSettings.load(settings, backbone=self.backbone.name)
        if not found.fits(self.adapter):
            raise ValueError(
                f"{settings} was calibrated on another adapter (SHA-256 {str(found.adapter)[:12]}...). Give that "
                "adapter, or calibrate again: python -m mosear calibrate --adapter RUN/adapter."
            )
        with steer(self.backbone, found.policy, self.answerer.trie) as session:
            self.answerer.steering = SteeredEvaluation(session)
            try:
                yield
            finally:
                self.answerer.steering = None

    def __call__(self, path: str | Path, *, text: str | None = None) -> Prediction:
        """Answer for one media file (its video, its audio track, or both) and an optional transcript."""
        return self.batch([path], [text])[0]

    @torch.no_grad()
    def batch(self, paths: Sequence[str | Path], texts: Sequence[str | None] | None = None) -> list[Prediction]:
        """Answer for several files in one pass.

        Args:
            paths: media files.
            texts: their transcripts; ``None`` = none has one.
        """
        start = time.perf_counter()
        found = [self._sample(Path(path), text) for path, text in zip(paths, texts or [None] * len(paths), strict=True)]
        samples = [sample for sample, _ in found]
        answers = self.answerer(collate(samples, self.builder.pad_id).to(self.backbone.device))
        seconds = (time.perf_counter() - start) / len(samples)
        return [
            self._prediction(answer, seconds, self.budget.max_seconds if cut else None)
            for answer, (_, cut) in zip(answers, found, strict=True)
        ]

    def _sample(self, path: Path, text: str | None) -> tuple[Sample, bool]:
        """The sample, and whether the file goes on after the budget's end."""
        info = self.decoder.probe(path)
        clip = Clip(
            id=path.name,
            video=path.name if info.has_video else None,
            audio=("video" if info.has_video else path.name) if info.has_audio else None,
            text=text,
        )
        sources = (path if info.has_video else None, "video" if info.has_video else path)
        media = self.decoder.decode(sources[0], sources[1] if info.has_audio else None, self.budget)
        encoded = self.backbone.encode(self.media_processor(media).to(self.backbone.device))
        try:
            return self.builder.build(clip, encoded), media.cut
        except TooLongError as error:
            limit = "an answer without a run may use" if self.adapter is None else "its run allows (data.max_tokens)"
            raise ValueError(
                f"{path} with its question and transcript needs {error.tokens} tokens, and {limit} {error.limit}. "
                "Shorten the transcript, or cut the clip."
            ) from error

    def _prediction(self, answer: Answer, seconds: float, cut_at: float | None) -> Prediction:
        labels = self.answerer.prompt.labels
        alone = {name: dict(zip(labels, value.tolist(), strict=True)) for name, value in answer.unimodal.items()}
        conflict = None
        if "visual" in answer.unimodal and "audio" in answer.unimodal:
            conflict = float(jensen_shannon(answer.unimodal["visual"], answer.unimodal["audio"]))
        shares = [] if answer.distribution is None else zip(labels, answer.distribution.tolist(), strict=True)
        return Prediction(
            answer.label,
            dict(shares),
            alone,
            conflict,
            seconds,
            answer.text,
            dict(answer.steering) or None,
            answer.reason,
            cut_at,
        )


def _started() -> Decoder:
    """A decoder that is ready when the backbone is."""
    decoder = DecodeProcess()
    decoder.start()
    return decoder
