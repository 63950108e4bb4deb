"""Trains a base that can write reasons: ``python -m mosear.pretraining.reasons --out DIR``.

It goes on from a shipped base with more words (those of the reasons, and the tags that reasoning models write). Every
step asks two questions about the same clips: which emotion, answered by the base's own rule, and what face, voice and
words do, answered by the reference reason. Reason and label never stand in one answer, and tags are only ever copied:
how a reason leads to a label is left to tuning. The decoder is trained first, then the visual tower with it, which
reads brows and lids less finely than a reason needs; the audio tower stays as it is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mosear.backbones import load_backbone
from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.media import EncodedAudio, EncodedVideo, MediaBatch
from mosear.backbones.tiny.extend import extended_processor, extended_thinker
from mosear.data.clip import Clip
from mosear.data.prompt import Prompt
from mosear.data.sample import IGNORE, collate
from mosear.data.synthetic.reasons import phrase_f1
from mosear.files import written_atomically
from mosear.inference.generation import generate_text
from mosear.pretraining.pools import Pool, build_pool, pool_cues
from mosear.pretraining.pretrain import (
    GRID,
    SECONDS_PER_GRID,
    Assembler,
    Curriculum,
    Item,
    Recipe,
    answer_logits,
    decode,
    encode,
    held_out_scores,
    save,
)
from mosear.pretraining.reason_questions import (
    CUE_QUESTION,
    TAGS,
    Copies,
    ReasonAssembler,
    Reasons,
    asked_twice,
    reason_words,
)
from mosear.pretraining.tags import QUESTIONS, set_tags_apart

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

VISUAL_TOWER = "model.visual"
MOST_TOKENS = 28
"""More than the longest reason has, with its end token."""


@dataclass(frozen=True)
class ReasonRecipe(Recipe):
    """Everything that determines the base (with the library versions).

    Attributes:
        base: what training begins from.
        tower_steps: further steps, in which the visual tower is trained as well.
        copies: per step, texts with tags to copy.
        copy_weight: of their loss, beside 1 for each question.
        warmup: share of the steps in which the learning rate rises.
    """

    base: str = "tiny-omni"
    seed: int = 3
    steps: int = 700
    tower_steps: int = 400
    learning_rate: float = 1e-3
    both: int = 32
    face: int = 8
    voice: int = 8
    text: int = 4
    copies: int = 4
    copy_weight: float = 0.2
    warmup: float = 0.05
    faces: int = 6000
    voices: int = 4000
    held_out: int = 600


class EncodedPools:
    """What the base's towers make of all faces and voices: encoded once for the steps in which a tower is fixed."""

    def __init__(self, backbone: OmniBackbone, faces: Pool, voices: Pool, batch: int = 100) -> None:
        backbone.model.eval()
        found: dict[str, list[Tensor]] = {"visual": [], "audio": []}
        with torch.no_grad():
            for kind, pool, modality in (("face", faces, "visual"), ("voice", voices, "audio")):
                for start in range(0, len(pool.emotions), batch):
                    rows = range(start, min(start + batch, len(pool.emotions)))
                    items = [
                        Item(kind, i if kind == "face" else None, i if kind == "voice" else None, None, "")
                        for i in rows
                    ]
                    tokens = encode(backbone, items, faces, voices)[modality]
                    found[modality].append(tokens.reshape(len(items), -1, tokens.shape[-1]))
        self.faces, self.voices = torch.cat(found["visual"]), torch.cat(found["audio"])

    def of(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """As :func:`mosear.pretraining.pretrain.encode`."""
        media = {
            "visual": self.faces[[item.face for item in items if item.face is not None]],
            "audio": self.voices[[item.voice for item in items if item.voice is not None]],
        }
        return {modality: tokens.flatten(0, 1) for modality, tokens in media.items() if len(tokens)}


class Training:
    """A training that goes on where it was interrupted."""

    def __init__(self, recipe: ReasonRecipe, cache: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.cache = recipe, cache
        base = load_backbone(recipe.base, dtype="fp32")
        processor = extended_processor(base.processor, reason_words(), TAGS)
        model = extended_thinker(base.model, base.processor.tokenizer, processor)
        self.backbone = OmniBackbone("tiny-omni-reasons", model, processor, base.family)
        self.faces = build_pool("face", "pretrain", recipe.faces, recipe.seed, cache)
        self.voices = build_pool("voice", "pretrain", recipe.voices, recipe.seed, cache)
        self.reasons = Reasons(
            pool_cues("face", "pretrain", recipe.faces, recipe.seed),
            pool_cues("voice", "pretrain", recipe.voices, recipe.seed),
        )
        self.curriculum = Curriculum(recipe, self.faces, self.voices)
        self.media = EncodedPools(self.backbone, self.faces, self.voices)
        frames = self.voices.features.shape[-1]
        self.labels = ReasonAssembler(processor, base.family, frames)
        self.cues = ReasonAssembler(processor, base.family, frames, Prompt(question=CUE_QUESTION))
        self.copies = Copies(recipe, self.labels)
        for path in base.family.tower_paths:
            model.get_submodule(path).requires_grad_(False)
        self.optimiser, self.schedule = self._optimise(recipe.steps)
        self.done = 0

    def _optimise(self, steps: int) -> tuple[Optimizer, LRScheduler]:
        recipe = self.recipe
        weights = [weight for weight in self.backbone.model.parameters() if weight.requires_grad]
        optimiser = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, recipe.learning_rate, total_steps=steps, pct_start=recipe.warmup
        )
        return optimiser, schedule

    def _train_the_visual_tower(self) -> None:
        """From now on faces are encoded anew in every step; each part of the training has its own schedule."""
        self.backbone.model.get_submodule(VISUAL_TOWER).requires_grad_(True)
        self.optimiser, self.schedule = self._optimise(self.recipe.tower_steps)

    def media_of(self, items: list[Item]) -> dict[str, Tensor]:
        """What the towers make of the items' media, with gradients where a tower is trained."""
        media = self.media.of(items)
        if self.done >= self.recipe.steps and "visual" in media:
            silent = [replace(item, voice=None) for item in items]
            media |= encode(self.backbone, silent, self.faces, self.voices)
        return media

    def step(self) -> dict[str, float]:
        """One step; its losses by question."""
        if self.done == self.recipe.steps:
            self._train_the_visual_tower()
        losses = {**self.questions(self.curriculum.step(self.done)), "copy": self._copying()}
        self.optimiser.zero_grad()
        (losses["label"] + losses["cues"] + self.recipe.copy_weight * losses["copy"]).backward()
        torch.nn.utils.clip_grad_norm_(self.backbone.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.done += 1
        return {name: loss.item() for name, loss in losses.items()}

    def questions(self, items: list[Item]) -> dict[str, Tensor]:
        """Losses of the label and of the reason, from one pass over both questions about each clip."""
        states, targets, of = self.answer_states(items)
        losses = F.cross_entropy(self.backbone.lm_head(states), targets, reduction="none")
        return {"label": losses[of == 1].mean(), "cues": losses[of == 2].mean()}

    @torch.no_grad()
    def name_tags(self) -> float:
        """Make each tag the answer to its own question; see :mod:`mosear.pretraining.tags`."""
        self.backbone.model.eval()
        asked = [self.copies.asked(question, tag) for tag, question in QUESTIONS.items()]
        batch = collate(asked, self.labels.builder.pad_id)
        hidden = decode(self.backbone, batch, [Item("text", None, None, None, "") for _ in asked], {})
        first = (batch.labels != IGNORE).int().argmax(1)
        rows = torch.arange(len(asked))
        others = self.answer_states(self.curriculum.step(self.done))[0]
        with torch.enable_grad():
            return set_tags_apart(self.backbone.lm_head, batch.labels[rows, first], hidden[rows, first - 1], others)

    def answer_states(self, items: list[Item]) -> tuple[Tensor, Tensor, Tensor]:
        """Decoder states ``[N, D]`` from which answers to both questions are read, their tokens, and the questions."""
        pairs = [asked_twice(self.labels.sample(item), self.cues.sample(self.reasons.asked(item))) for item in items]
        batch = collate([sample for sample, _ in pairs], self.labels.builder.pad_id)
        width = batch.input_ids.shape[1]
        question = torch.stack([F.pad(own, (width - len(own), 0)) for _, own in pairs])
        unseen = (question == 2)[:, :, None] & (question == 1)[:, None, :]
        hidden = decode(self.backbone, batch, items, self.media_of(items), unseen)
        kept = batch.labels[:, 1:] != IGNORE
        return hidden[:, :-1][kept], batch.labels[:, 1:][kept], question[:, 1:][kept]

    def _copying(self) -> Tensor:
        copies = self.copies.samples(self.done)
        batch = collate(copies, self.labels.builder.pad_id)
        texts = [Item("text", None, None, None, "") for _ in copies]
        logits, targets = answer_logits(self.backbone, decode(self.backbone, batch, texts, {}), batch.labels)
        return F.cross_entropy(logits, targets)

    def keep(self, path: Path) -> None:
        """Write what is needed to go on."""
        state = {
            "model": self.backbone.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "done": self.done,
        }
        with written_atomically(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> None:
        """Go on from what :meth:`keep` wrote, if it did."""
        if path.is_file():
            state = torch.load(path, weights_only=True)
            self.backbone.model.load_state_dict(state["model"])
            if state["done"] > self.recipe.steps:
                self._train_the_visual_tower()
            self.optimiser.load_state_dict(state["optimiser"])
            self.schedule.load_state_dict(state["schedule"])
            self.done = state["done"]


def train(recipe: ReasonRecipe, out: Path, cache: Path, *, keep_every: int = 25) -> dict[str, Any]:
    """Train the base, save it to ``out`` and return its scores on held-out pools."""
    training = Training(recipe, cache)
    kept = cache / f"reasons-{recipe.seed}-{recipe.steps}.pt"
    training.resume(kept)
    training.backbone.model.train()
    start, first, last = time.perf_counter(), training.done, recipe.steps + recipe.tower_steps
    while training.done < last:
        losses = training.step()
        if training.done % keep_every == 0 or training.done == last:
            training.keep(kept)
            told = "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            each = (time.perf_counter() - start) / (training.done - first)
            print(f"step {training.done:4d}/{last}  {told}  {each:.2f} s per step", flush=True)
    print(f"each tag behind its question: at least {training.name_tags():.2f}", flush=True)
    save(training.backbone, recipe, out)
    scores: dict[str, Any] = dict(held_out_scores(training.backbone, training.labels, recipe, cache))
    scores["cue_f1"] = held_out_cues(training.backbone, training.cues, recipe, cache)
    print(json.dumps(scores, allow_nan=False), flush=True)
    return scores


def held_out_cues(
    backbone: OmniBackbone, assembler: Assembler, recipe: ReasonRecipe, cache: Path, count: int = 300
) -> dict[str, float]:
    """F1 of written phrases by modality, on faces and voices of speakers that training never saw."""
    faces = build_pool("face", "pretrain_val", recipe.held_out, recipe.seed, cache)
    voices = build_pool("voice", "pretrain_val", recipe.held_out, recipe.seed, cache)
    reasons = Reasons(
        pool_cues("face", "pretrain_val", recipe.held_out, recipe.seed),
        pool_cues("voice", "pretrain_val", recipe.held_out, recipe.seed),
    )
    curriculum = Curriculum(replace(recipe, both=count, face=0, voice=0, text=0), faces, voices, "test")
    items = curriculum.step(0)
    backbone.model.eval()
    written = write_reasons(backbone, assembler, items, faces, voices)
    return phrase_f1(written, [reasons.cues(item) for item in items])


@torch.no_grad()
def write_reasons(
    backbone: OmniBackbone, assembler: Assembler, items: Sequence[Item], faces: Pool, voices: Pool, batch: int = 50
) -> list[str]:
    """What the base answers to the cue question about clips with face and voice."""
    written = []
    for start in range(0, len(items), batch):
        part = list(items[start : start + batch])
        media = encode(backbone, part, faces, voices)
        visual = media["visual"].reshape(len(part), -1, media["visual"].shape[-1])
        audio = media["audio"].reshape(len(part), -1, media["audio"].shape[-1])
        samples = [
            assembler.builder.build(
                Clip(id=str(i), video="v", audio="a", text=item.text),
                MediaBatch(
                    [EncodedVideo(visual[i], GRID, SECONDS_PER_GRID)],
                    [EncodedAudio(audio[i], voices.features.shape[-1])],
                ),
            )
            for i, item in enumerate(part)
        ]
        written += generate_text(backbone, collate(samples, assembler.builder.pad_id), max_new_tokens=MOST_TOKENS)
    return written


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument("--base", default=ReasonRecipe.base, help="embedded base to go on from")
    parser.add_argument("--seed", type=int, default=ReasonRecipe.seed)
    parser.add_argument("--steps", type=int, default=ReasonRecipe.steps)
    parser.add_argument("--faces", type=int, default=ReasonRecipe.faces, help="rendered faces in the pool")
    parser.add_argument("--voices", type=int, default=ReasonRecipe.voices, help="rendered voices in the pool")
    parser.add_argument(
        "--cache", type=Path, default=Path("data/pretrain"), help="where pools and an interrupted training are kept"
    )
    args = parser.parse_args()
    recipe = ReasonRecipe(base=args.base, seed=args.seed, steps=args.steps, faces=args.faces, voices=args.voices)
    train(recipe, args.out, args.cache)


if __name__ == "__main__":
    main()
