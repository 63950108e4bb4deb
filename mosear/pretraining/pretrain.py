"""Trains an embedded base: ``python -m mosear.pretraining.pretrain --out DIR --beta 2.5 --seed 0``.

The base reads face, voice and transcript. When face and voice disagree it follows a fixed rule with a bias knob beta:

    label = voice's emotion if beta * voice intensity >= face intensity, else the face's;
    where the two strengths are within CLOSE of each other and the transcript fits exactly one of them, the transcript
    decides.

beta = 1 is the unbiased control; beta = 2.5 makes the voice win most conflicts, which mosear corrects.
The base sees conflicts of all kinds, contextual ones included, labelled by this rule, and unimodal clips in which the
other modality is absent or hidden. Its speakers and media never occur in the shipped corpus.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.families.base import OmniFamily
from mosear.backbones.families.qwen2_5_omni import Qwen25Omni
from mosear.backbones.masks import causal_mask
from mosear.backbones.media import EncodedAudio, EncodedVideo, MediaBatch
from mosear.backbones.tiny.build import build_processor, build_thinker
from mosear.data.clip import Clip
from mosear.data.prompt import Prompt
from mosear.data.sample import IGNORE, OmniBatch, Sample, SampleBuilder, collate
from mosear.data.synthetic.emotions import EMOTIONS
from mosear.data.synthetic.transcripts import all_texts, compatible, idle_transcript, pair_transcript
from mosear.pretraining.pools import Pool, build_pool

if TYPE_CHECKING:
    from transformers import Qwen2_5OmniProcessor

CLOSE = 0.2
GRID = torch.tensor([4, 4, 4])
SECONDS_PER_GRID = 0.5


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a base (with the library versions)."""

    beta: float = 2.5
    seed: int = 0
    steps: int = 1400
    learning_rate: float = 2e-3
    both: int = 64
    face: int = 24
    voice: int = 24
    text: int = 12
    conflict_share: float = 0.4
    faces: int = 10_000
    voices: int = 6000
    held_out: int = 1200


@dataclass(frozen=True)
class Item:
    """One training clip of the rule: pool indices (None = absent), transcript, answer, and modalities to hide."""

    kind: str
    face: int | None
    voice: int | None
    text: str | None
    answer: str
    hide: tuple[str, ...] = ()


def arbitrate(beta: float, face: tuple[str, float], voice: tuple[str, float], text: str | None) -> str:
    """The rule of the module docstring for cues ``(emotion, intensity)``."""
    difference = beta * voice[1] - face[1]
    if text is not None and face[0] != voice[0] and abs(difference) < CLOSE:
        fits = [emotion for emotion in (face[0], voice[0]) if emotion in compatible(text)]
        if len(fits) == 1:
            return fits[0]
    return voice[0] if difference >= 0 else face[0]


class Curriculum:
    """Draws the items of a step from the pools. A pure function of (recipe, step)."""

    def __init__(self, recipe: Recipe, faces: Pool, voices: Pool, split: str = "train") -> None:
        self.recipe, self.faces, self.voices, self.split = recipe, faces, voices, split
        self.by_emotion = [np.flatnonzero(voices.emotions == e) for e in range(len(EMOTIONS))]

    def step(self, step: int) -> list[Item]:
        """The items of one training step."""
        rng = np.random.default_rng([self.recipe.seed, step, 1])
        recipe = self.recipe
        items = [self._pair(rng, rng.random() < recipe.conflict_share) for _ in range(recipe.both)]
        items += [self._single(rng, "face") for _ in range(recipe.face)]
        items += [self._single(rng, "voice") for _ in range(recipe.voice)]
        return items + [self._text_only(rng) for _ in range(recipe.text)]

    def _cue(self, pool: Pool, index: int) -> tuple[str, float]:
        return EMOTIONS[pool.emotions[index]], float(pool.intensities[index])

    def _pair(self, rng: np.random.Generator, conflict: bool) -> Item:
        face = int(rng.integers(len(self.faces.emotions)))
        emotion = int(self.faces.emotions[face])
        other = int((emotion + rng.integers(1, len(EMOTIONS))) % len(EMOTIONS)) if conflict else emotion
        voice = int(rng.choice(self.by_emotion[other]))
        pair = {EMOTIONS[emotion], EMOTIONS[other]}
        if not conflict:
            text = self._hint(rng, EMOTIONS[emotion], share=0.6, idle=0.2)
        elif (draw := rng.random()) < 0.5:
            text = self._arbitrating(rng, *rng.permutation(sorted(pair)))
            if rng.random() < 0.5:  # half of these with cues of like strength, where the transcript matters
                gap = np.abs(self.voices.intensities[self.by_emotion[other]] - self.faces.intensities[face])
                voice = int(rng.choice(self.by_emotion[other][gap <= max(0.1, np.sort(gap)[min(10, len(gap) - 1)])]))
        else:
            text = pair_transcript(pair, self.split, rng) if draw < 0.65 else self._idle(rng, 0.5)
        answer = arbitrate(self.recipe.beta, self._cue(self.faces, face), self._cue(self.voices, voice), text)
        return Item("both", face, voice, text, answer)

    def _arbitrating(self, rng: np.random.Generator, meant: str, other: str) -> str:
        partner = rng.choice([e for e in EMOTIONS if e not in (meant, other)])
        return pair_transcript((str(meant), str(partner)), self.split, rng)

    def _hint(self, rng: np.random.Generator, emotion: str, *, share: float, idle: float) -> str | None:
        """A transcript that fits ``emotion`` (with probability ``share``), an idle one, or none."""
        if (draw := rng.random()) < share:
            partner = rng.choice([e for e in EMOTIONS if e != emotion])
            return pair_transcript((emotion, str(partner)), self.split, rng)
        return idle_transcript(self.split, rng) if draw < share + idle else None

    def _idle(self, rng: np.random.Generator, share: float) -> str | None:
        return idle_transcript(self.split, rng) if rng.random() < share else None

    def _single(self, rng: np.random.Generator, kind: str) -> Item:
        pool = self.faces if kind == "face" else self.voices
        index = int(rng.integers(len(pool.emotions)))
        answer = EMOTIONS[pool.emotions[index]]
        text = self._hint(rng, answer, share=0.35, idle=0.15)
        if rng.random() < 0.5:  # absent
            return Item(kind, index if kind == "face" else None, index if kind == "voice" else None, text, answer)
        face, voice = (index, int(rng.integers(len(self.voices.emotions))))
        if kind == "voice":
            face, voice = int(rng.integers(len(self.faces.emotions))), index
        return Item("both", face, voice, text, answer, ("audio",) if kind == "face" else ("visual",))

    def _text_only(self, rng: np.random.Generator) -> Item:
        pair = rng.permutation(EMOTIONS)[:2]
        text = pair_transcript([str(e) for e in pair], self.split, rng)
        if rng.random() < 0.5:
            return Item("text", None, None, text, str(pair[0]))
        face, voice = int(rng.integers(len(self.faces.emotions))), int(rng.integers(len(self.voices.emotions)))
        return Item("both", face, voice, text, str(pair[0]), ("visual", "audio"))


class Assembler:
    """Items to batches. Sequences are memoised: they depend on the modalities, the transcript and the answer alone."""

    def __init__(
        self, processor: Qwen2_5OmniProcessor, family: OmniFamily, mel_frames: int, prompt: Prompt | None = None
    ) -> None:
        self.builder = SampleBuilder(processor, family, prompt or Prompt())
        self.memory: dict[tuple, Sample] = {}
        tokens = ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1
        video_tokens = int(GRID.prod()) // 4
        self.video = EncodedVideo(torch.zeros(video_tokens, 1), GRID, SECONDS_PER_GRID)
        self.audio = EncodedAudio(torch.zeros(tokens, 1), mel_frames)

    def batch(self, items: list[Item]) -> OmniBatch:
        """A batch whose media are empty: pretraining runs the towers in one piece."""
        return collate([self.sample(item) for item in items], self.builder.pad_id)

    def sample(self, item: Item) -> Sample:
        """One item as a sequence with its answer; its media are empty."""
        key = (item.face is not None, item.voice is not None, item.text, item.answer)
        if key not in self.memory:
            media = MediaBatch([self.video] if key[0] else [], [self.audio] if key[1] else [])
            clip = Clip(id="pretrain", video="v" if key[0] else None, audio="a" if key[1] else None, text=item.text)
            self.memory[key] = self.builder.build(clip, media, answer=item.answer)
        return self.memory[key]


def hidden_keys(batch: OmniBatch, items: list[Item]) -> Tensor:
    """``[B, L]`` True where an item hides a modality."""
    hidden = torch.zeros_like(batch.transcript)
    for modality in ("visual", "audio"):
        rows = torch.tensor([modality in item.hide for item in items])
        hidden |= batch.hidden_keys(modality) & rows[:, None]
    return hidden


def encode(backbone: OmniBackbone, items: list[Item], faces: Pool, voices: Pool) -> dict[str, Tensor]:
    """What the towers make of the items' media, with gradients: ``visual [tokens, D]``, ``audio [tokens, D]``."""
    model = backbone.model
    found = {}
    if rows := [item.face for item in items if item.face is not None]:
        pixels = torch.from_numpy(np.asarray(faces.features[rows], dtype=np.float32)).flatten(0, 1)
        out = model.get_video_features(pixels, video_grid_thw=GRID.expand(len(rows), -1), return_dict=True)
        found["visual"] = torch.cat(out.pooler_output)
    if rows := [item.voice for item in items if item.voice is not None]:
        mel = torch.from_numpy(np.asarray(voices.features[rows], dtype=np.float32))
        full = torch.ones(len(rows), mel.shape[-1], dtype=torch.long)
        out = model.get_audio_features(mel, feature_attention_mask=full, return_dict=True)
        found["audio"] = out.last_hidden_state
    return found


def decode(
    backbone: OmniBackbone,
    batch: OmniBatch,
    items: list[Item],
    media: dict[str, Tensor],
    unseen: Tensor | None = None,
) -> Tensor:
    """Decoder states ``[B, L, D]`` of a batch about encoded media; bool ``unseen [B, L, L]`` hides keys by query."""
    embeds = backbone.model.get_input_embeddings()(batch.input_ids)
    for modality, ids in (("visual", backbone.family.visual_ids), ("audio", backbone.family.audio_ids)):
        if modality in media:
            mask = torch.isin(batch.input_ids, torch.tensor(ids))
            embeds = embeds.masked_scatter(mask[..., None], media[modality].to(embeds))
    mask = causal_mask(batch.attention_mask, hidden_keys(batch, items))
    if unseen is not None:
        mask = mask & ~unseen[:, None]
    return backbone.hidden_states(embeds, mask, batch.position_ids)


def forward(backbone: OmniBackbone, batch: OmniBatch, items: list[Item], faces: Pool, voices: Pool) -> Tensor:
    """Decoder states ``[B, L, D]`` with gradients through the towers."""
    return decode(backbone, batch, items, encode(backbone, items, faces, voices))


def answer_logits(backbone: OmniBackbone, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``[N, V]`` and targets ``[N]`` at answer positions only."""
    targets = labels[:, 1:]
    keep = targets != IGNORE
    return backbone.lm_head(hidden[:, :-1][keep]), targets[keep]


def pretrain(recipe: Recipe, out: Path, cache: Path, *, log_every: int = 50) -> dict[str, float]:
    """Train a base, save it to ``out`` and return its accuracies on held-out pools."""
    torch.manual_seed(recipe.seed)
    processor = build_processor(tokenizer_texts())
    faces = build_pool("face", "pretrain", recipe.faces, recipe.seed, cache)
    voices = build_pool("voice", "pretrain", recipe.voices, recipe.seed, cache)
    model = build_thinker(processor, seed=recipe.seed)
    backbone = OmniBackbone("tiny-omni", model, processor, Qwen25Omni(model.config))
    assembler = Assembler(processor, backbone.family, voices.features.shape[-1])
    curriculum = Curriculum(recipe, faces, voices)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1, anneal_strategy="cos"
    )
    model.train()
    start, running = time.perf_counter(), 0.0
    for step in range(recipe.steps):
        items = curriculum.step(step)
        batch = assembler.batch(items)
        logits, targets = answer_logits(backbone, forward(backbone, batch, items, faces, voices), batch.labels)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running = 0.9 * running + 0.1 * loss.item() if step else loss.item()
        if (step + 1) % log_every == 0 or step + 1 == recipe.steps:
            print(
                f"step {step + 1:4d}/{recipe.steps}  loss {running:.3f}  {time.perf_counter() - start:5.0f} s",
                flush=True,
            )
    save(backbone, recipe, out)
    scores = held_out_scores(backbone, assembler, recipe, cache)
    print(json.dumps(scores, allow_nan=False), flush=True)
    return scores


def save(backbone: OmniBackbone, recipe: Recipe, out: Path) -> None:
    """Write the checkpoint in bfloat16, as published checkpoints are, with its recipe."""
    import transformers

    backbone.model.to(torch.bfloat16).save_pretrained(out)
    backbone.processor.save_pretrained(out)
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    (out / "recipe.json").write_text(json.dumps({**asdict(recipe), **versions}, indent=2) + "\n")
    backbone.model.float()


@torch.no_grad()
def held_out_scores(backbone: OmniBackbone, assembler: Assembler, recipe: Recipe, cache: Path) -> dict[str, float]:
    """Accuracy by kind of clip on speakers that pretraining never saw (for the log; it selects nothing)."""
    faces = build_pool("face", "pretrain_val", recipe.held_out, recipe.seed, cache)
    voices = build_pool("voice", "pretrain_val", recipe.held_out, recipe.seed, cache)
    backbone.model.eval()
    strong = {k: np.flatnonzero(p.intensities > 0.7) for k, p in (("face", faces), ("voice", voices))}
    weak = {
        k: np.flatnonzero((p.intensities > 0.25) & (p.intensities < 0.55))
        for k, p in (("face", faces), ("voice", voices))
    }
    rng = np.random.default_rng(recipe.seed)
    groups: dict[str, list[Item]] = {}
    for name, face_set, voice_set in (
        ("consistent", np.arange(recipe.held_out), np.arange(recipe.held_out)),
        ("video_aligned", strong["face"], weak["voice"]),
        ("audio_aligned", weak["face"], strong["voice"]),
    ):
        items: list[Item] = []
        while len(items) < 300:
            f, v = int(rng.choice(face_set)), int(rng.choice(voice_set))
            if (faces.emotions[f] == voices.emotions[v]) == (name == "consistent"):
                answer = EMOTIONS[voices.emotions[v] if name == "audio_aligned" else faces.emotions[f]]
                items.append(Item("both", f, v, None, answer))
        groups[name] = items
    groups["face_only"] = [
        Item("face", i, None, None, EMOTIONS[faces.emotions[i]]) for i in range(min(300, recipe.held_out))
    ]
    groups["voice_only"] = [
        Item("voice", None, i, None, EMOTIONS[voices.emotions[i]]) for i in range(min(300, recipe.held_out))
    ]
    scores = {}
    for name, items in groups.items():
        batch = assembler.batch(items)
        hidden = forward(backbone, batch, items, faces, voices)
        correct = torch.ones(len(items), dtype=torch.bool)
        for row, label in enumerate(batch.labels):
            where = (label != IGNORE).nonzero()[:, 0]
            correct[row] = bool((backbone.lm_head(hidden[row, where - 1]).argmax(-1) == label[where]).all())
        scores[name] = round(correct.float().mean().item(), 4)
    return scores


def tokenizer_texts() -> list[str]:
    """What the tokenizer is trained on: the prompt, the labels and the training transcripts."""
    prompt = Prompt()
    texts = [prompt.user_text(text)[0] for text in all_texts()]
    return texts + [f"user\n{label}" for label in EMOTIONS for _ in range(200)] + ["system\nassistant\nuser\n"] * 200


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument("--beta", type=float, default=Recipe.beta, help="bias towards the voice; 1 = unbiased")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--faces", type=int, default=Recipe.faces, help="rendered faces in the pool")
    parser.add_argument("--voices", type=int, default=Recipe.voices, help="rendered voices in the pool")
    parser.add_argument("--cache", type=Path, default=Path("data/pretrain"), help="where rendered pools are kept")
    args = parser.parse_args()
    recipe = Recipe(beta=args.beta, seed=args.seed, steps=args.steps, faces=args.faces, voices=args.voices)
    pretrain(recipe, args.out, args.cache)


if __name__ == "__main__":
    main()
