"""Answers for single clips, with the settings of the run that trained the adapter."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mosear.backbones import load_backbone
from mosear.backbones.backbone import OmniBackbone
from mosear.data.clip import Clip
from mosear.data.media import MediaBudget, decode, probe
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import Prompt
from mosear.data.sample import SampleBuilder, collate
from mosear.evaluation.fusion import jensen_shannon
from mosear.evaluation.scoring import LabelTrie, label_log_probs, unimodal_distributions

TINY_BUDGET = MediaBudget(num_frames=8, max_pixels=112 * 112)


@dataclass(frozen=True)
class Answer:
    """What the model says about one clip.

    Attributes:
        label: the most likely label.
        distribution: probability per label.
        readings: per modality that the clip has (``visual``, ``audio``, ``text``), the distribution read from it alone.
        conflict: Jensen-Shannon divergence of the visual and the audio reading in [0, 1]; ``None`` if one is absent.
        seconds: time spent, decoding included.
    """

    label: str
    distribution: dict[str, float]
    readings: dict[str, dict[str, float]]
    conflict: float | None
    seconds: float


class Predictor:
    """A loaded backbone that answers for clips.

    Args:
        backbone: with an adapter injected, if any.
        prompt: the question and the labels.
        budget: what is decoded at most.
        max_pixels: pixels per frame for the backbone; ``None`` = the checkpoint's own.
        interleave: put the audio track inside its video's token span.
    """

    def __init__(
        self,
        backbone: OmniBackbone,
        prompt: Prompt,
        budget: MediaBudget,
        *,
        max_pixels: int | None = None,
        interleave: bool = False,
    ) -> None:
        self.backbone, self.prompt, self.budget = backbone, prompt, budget
        self.media_processor = MediaProcessor(backbone.processor, max_pixels=max_pixels)
        self.builder = SampleBuilder(backbone.processor, backbone.family, prompt, interleave=interleave)
        self.trie = LabelTrie.of(prompt.labels, backbone.processor.tokenizer)

    @classmethod
    def from_adapter(cls, directory: str | Path, backbone: str | None = None) -> Predictor:
        """Load the adapter of a run with the run's own backbone, prompt and budgets (``config.yaml`` beside it).

        Args:
            directory: the run's ``adapter/``.
            backbone: overrides the backbone's name or path, e.g. where a local copy lies elsewhere.
        """
        from omegaconf import OmegaConf

        from mosear.runtime.assemble import load_adapter

        directory = Path(directory)
        if not (directory / "adapter_config.json").is_file():
            raise ValueError(f"{directory} is not a trained adapter: it has no adapter_config.json. Give RUN/adapter.")
        path = directory.parent / "config.yaml"
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: it says which backbone, prompt and budgets {directory} was trained with."
            )
        saved: Any = OmegaConf.to_container(OmegaConf.load(path))
        options = {k: v for k, v in saved["backbone"].items() if k not in ("_target_", "name")}
        loaded = load_backbone(backbone or saved["backbone"]["name"], **options)
        if backbone is not None:
            loaded.name = saved["backbone"]["name"]
        load_adapter(loaded, directory)
        data = saved["data"]
        prompt = Prompt(**{k: v for k, v in data["prompt"].items() if k != "_target_"})
        budget = MediaBudget(**{k: v for k, v in data["budget"].items() if k != "_target_"})
        return cls(loaded, prompt, budget, max_pixels=data["max_pixels"], interleave=data["interleave"])

    @classmethod
    def bare(cls, backbone: str = "tiny-omni") -> Predictor:
        """An embedded backbone without an adapter."""
        return cls(load_backbone(backbone, dtype="fp32"), Prompt(), TINY_BUDGET)

    @torch.no_grad()
    def __call__(self, path: str | Path, *, text: str | None = None) -> Answer:
        """Answer for one media file (its video, its audio track, or both) and an optional transcript."""
        start = time.perf_counter()
        path = Path(path)
        info = probe(path)
        clip = Clip(
            id=path.name,
            video=path.name if info.has_video else None,
            audio=("video" if info.has_video else path.name) if info.has_audio else None,
            text=text,
        )
        sources = (path if info.has_video else None, "video" if info.has_video else path)
        media = decode(sources[0], sources[1] if info.has_audio else None, self.budget)
        sample = self.builder.build(clip, self.backbone.encode(self.media_processor(media).to(self.backbone.device)))
        batch = collate([sample], self.builder.pad_id).to(self.backbone.device)
        scores = label_log_probs(self.backbone, batch, self.trie).softmax(-1)[0]
        alone = unimodal_distributions(self.backbone, batch, self.trie)
        readings = {name: self._named(value[0]) for name, value in alone.items() if not value[0].isnan().any()}
        conflict = None
        if "visual" in readings and "audio" in readings:
            conflict = float(jensen_shannon(alone["visual"].cpu().numpy(), alone["audio"].cpu().numpy())[0])
        label = self.prompt.labels[int(scores.argmax())]
        return Answer(label, self._named(scores), readings, conflict, time.perf_counter() - start)

    def _named(self, distribution: torch.Tensor) -> dict[str, float]:
        return dict(zip(self.prompt.labels, distribution.double().tolist(), strict=True))
