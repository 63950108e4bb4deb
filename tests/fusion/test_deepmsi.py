"""Contrastive fusion on a compressed visual sequence.

Golden numbers: what the modules of github.com/ZMW-DW/DeepMSI-MER (commit edd9546) gave in evaluation mode for the same
weights and inputs, all of them made by ``tests/helpers/formula_weights.py``.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from mosear.data.clip import Clip
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.models.deepmsi import DeepMSI, compressed, same_class, supervised_contrast
from mosear.fusion.tasks.label import LabelTask
from tests.helpers.formula_weights import fill, wave
from tests.helpers.fusion_models import (
    DIMENSIONS,
    assert_depends_on_its_own_clip_alone,
    assert_every_parameter_learns,
    assert_missing_modalities_are_not_read,
    outputs,
    random_batch,
)

LABELS = ["angry", "happy", "sad"]
SMALL: dict[str, Any] = {"guide": [7], "channels": [8, 8, 9], "projection": 6, "classifier": [8, 7]}
CONFIG = Path(__file__).parents[2] / "conf/model/deepmsi.yaml"

PUBLISHED_MERGED = [
    [[-0.4750195, -0.7409002, -1.1204623], [-0.1237263, -0.3526756, -0.5653953]]
    + [[-0.7445379, -0.8222013, -0.8144524], [-0.7488750, -0.6988266, -0.3449282]],
    [[-0.3622817, -1.0019865, -0.7063410], [-1.1786460, -0.8105175, -0.7594810]]
    + [[0.7166696, 0.0318813, -0.0047589], [-0.3870060, -0.0705109, 0.3659093]],
]
PUBLISHED_VIDEO = [
    [0.0628725, -0.3471065, 0.0306307, -0.2540428, -0.3730479, -0.2117311],
    [0.1098878, -0.2990578, 0.0234293, -0.2565897, -0.3752711, -0.1619371],
]
PUBLISHED_LOGITS = [[-0.2588702, -0.3555208, -0.1500252, -0.4582413], [-0.2589941, -0.3555009, -0.1499351, -0.4584146]]
PUBLISHED_CONTRAST = 0.6378629


def model(**settings: Any) -> DeepMSI:
    torch.manual_seed(0)
    own = DeepMSI(DIMENSIONS, len(LABELS), **{**SMALL, "keep": [0.7, 3], "similarity": 0.1, **settings})
    for _ in range(3):
        own.train()(random_batch(seed=5))  # running means
    return own


def labelled(batch: FeatureBatch) -> FeatureBatch:
    clips = [Clip(id=str(i), text="x", label=LABELS[i % 2]) for i in range(len(batch))]
    return FeatureBatch(batch.features, batch.lengths, clips, LabelTask(LABELS).targets(clips))


# -- literal reference -------------------------------------------------------------------------------------------------


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / max(float(a.norm()) * float(b.norm()), 1e-12)


def literal_compression(tokens: list[Tensor], guide: Tensor, keep: float, tau: float, alpha: float) -> list[Tensor]:
    count = math.ceil(keep * len(tokens) - 1e-9) if isinstance(keep, float) else min(keep, len(tokens))
    focus = torch.stack(tokens).mean(0) + guide
    best = sorted(range(len(tokens)), key=lambda n: -cosine(focus, tokens[n]))[:count]
    kept, dropped = sorted(best), [n for n in range(len(tokens)) if n not in best]
    result = []
    for r in kept:
        taken, matched = torch.zeros_like(guide), False
        for d in dropped:
            if cosine(tokens[d], tokens[r]) > tau:
                theta = math.exp(cosine(tokens[d], tokens[r])) / sum(
                    math.exp(cosine(tokens[d], tokens[q])) for q in kept
                )
                taken, matched = taken + theta * tokens[d], True
        result.append(alpha * tokens[r] + (1 - alpha) * taken if matched else tokens[r])
    return result


def literal_mlp(layers: Any, x: Tensor) -> Tensor:
    for at in range(0, len(layers) - 1, 4):
        linear, norm = layers[at], layers[at + 1]
        x = (linear.weight @ x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        x = torch.where(x > 0, x, 0.01 * x)
    return layers[-1].weight @ x + layers[-1].bias


def literal_convolution(own: DeepMSI, tokens: list[Tensor]) -> Tensor:
    steps = tokens
    for level, block in enumerate(own.convolution):
        hidden = steps
        for layer in block.convolutions:
            dilation, taps = 2**level, layer.weight.shape[-1]
            hidden = [
                torch.relu(
                    layer.bias
                    + sum(
                        layer.weight[:, :, tap] @ hidden[t - (taps - 1 - tap) * dilation]
                        for tap in range(taps)
                        if t - (taps - 1 - tap) * dilation >= 0
                    )
                )
                for t in range(len(hidden))
            ]
        short = block.shortcut
        same = isinstance(short, torch.nn.Identity)
        steps = [
            torch.relu(h + (s if same else short.weight[:, :, 0] @ s + short.bias))
            for h, s in zip(hidden, steps, strict=True)
        ]
    return steps[-1]


def literal_projection(head: Any, x: Tensor) -> Tensor:
    u = head.first.weight @ x + head.first.bias
    gelu = torch.stack([0.5 * v * (1 + torch.erf(v / math.sqrt(2))) for v in u])
    u = u + head.second.weight @ gelu + head.second.bias
    u = (u - u.mean()) / ((u - u.mean()).square().mean() + head.norm.eps).sqrt()
    return u * head.norm.weight + head.norm.bias


@torch.no_grad()
def literal(own: DeepMSI, batch: FeatureBatch, row: int) -> Tensor:
    rows = {name: list(batch.features[name][row, : int(batch.lengths[name][row])]) for name in own.dimensions}
    pooled = {name: torch.stack(rows[name]).mean(0) for name in rows}
    tokens = rows["video"]
    if own.guide is not None:
        guide = literal_mlp(own.guide, torch.cat([pooled["text"], pooled["audio"]]))
        for keep in own.keep:
            tokens = literal_compression(tokens, guide, keep, own.similarity, own.retained)
    pooled["video"] = literal_convolution(own, tokens)
    fused = [literal_projection(own.heads[name], pooled[name]) for name in ("video", "text", "audio")]
    return literal_mlp(own.classifier, torch.cat(fused))


@pytest.mark.parametrize("keep", [[0.7, 3], [2], []])
def test_a_literal_loop_gives_the_same(keep: list[float]) -> None:
    own, batch = model(keep=keep), random_batch()
    for row, found in enumerate(outputs(own, batch)):
        torch.testing.assert_close(found, literal(own, batch, row), rtol=1e-4, atol=1e-5)


# -- figures of the public code ----------------------------------------------------------------------------------------


def test_merging_gives_what_the_public_code_computes_and_drops() -> None:
    tokens = wave((2, 8, 3), 4.0, 1.0) + 0.25 * torch.cos(torch.arange(48.0).reshape(2, 8, 3) ** 1.5)
    found, lengths = compressed(tokens, torch.tensor([8, 8]), wave((2, 3), 9.0), 4, 0.6, 0.9)
    assert lengths.tolist() == [4, 4]
    for own, expected in zip(found, torch.tensor(PUBLISHED_MERGED), strict=True):  # theirs are in the order of scores
        torch.testing.assert_close(own[own[:, 0].argsort()], expected[expected[:, 0].argsort()], rtol=0, atol=2e-6)


def test_the_path_behind_the_video_backbone_gives_the_published_numbers() -> None:
    own = DeepMSI({"video": 6, "text": 5, "audio": 4}, 4, **{**SMALL, "keep": []}).eval()
    parameters = []
    for block in own.convolution:
        for layer in block.convolutions:
            weight = layer.parametrizations.weight
            parameters += [layer.bias, weight.original0, weight.original1]
        parameters += list(block.shortcut.parameters())
    for name in ("video", "text", "audio"):
        head = own.heads[name]
        parameters += [*head.first.parameters(), *head.second.parameters(), *head.norm.parameters()]
    fill([*parameters, *own.classifier.parameters()])
    features = {
        "video": wave((2, 10, 6), 1.5, 1.0),
        "text": wave((2, 1, 5), 2.5, 1.0),
        "audio": wave((2, 1, 4), 3.5, 1.0),
    }
    with torch.no_grad():
        found = own(FeatureBatch(features, {name: torch.full((2,), x.shape[1]) for name, x in features.items()}))
    torch.testing.assert_close(found.extras["video"], torch.tensor(PUBLISHED_VIDEO), rtol=0, atol=2e-6)
    torch.testing.assert_close(found.values, torch.tensor(PUBLISHED_LOGITS), rtol=0, atol=2e-6)


def test_the_contrast_gives_the_published_number() -> None:
    video, text, audio = (wave((6, 5), phase, 1.0) for phase in (1.0, 2.0, 3.0))
    same = same_class({"label": torch.tensor([0, 1, 0, 2, 1, 0])})
    found = (supervised_contrast(video, text, same, 0.5) + supervised_contrast(video, audio, same, 0.5)) / 2
    assert float(found) == pytest.approx(PUBLISHED_CONTRAST, abs=2e-6)


def test_the_published_sizes_give_the_published_number_of_parameters() -> None:
    config = OmegaConf.to_container(OmegaConf.load(CONFIG))
    assert isinstance(config, dict) and config.pop("_target_") == "mosear.fusion.models.deepmsi.DeepMSI"
    # 768 to 1024 channels in front, and the guide of 384 numbers, which the SwinV2 reads in its third stage.
    own = DeepMSI({"video": 768, "text": 1024, "audio": 768}, 6, **config)
    rest = own.convolution, own.heads, own.classifier
    biases_before_norms = 512 + 256 + 128
    published = 18_887_680 + 328_704 + 328_704 + 263_168 + 560_518
    assert sum(p.numel() for part in rest for p in part.parameters()) == published - biases_before_norms


# -- compression -------------------------------------------------------------------------------------------------------


def test_without_compression_the_plain_path_remains() -> None:
    plain, batch = model(keep=[]), random_batch()
    for keep in ([1.0], [100], [1.0, 100, 1.0]):
        own = model(keep=keep)
        own.load_state_dict(plain.state_dict(), strict=False)
        for found, expected in zip(outputs(own, batch), outputs(plain, batch), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert plain.guide is None
    assert plain(batch).extras["compression_ratio"].tolist() == [1.0] * len(batch)


def test_dropped_tokens_are_merged_into_kept_ones() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.1]]])
    guide, lengths = torch.tensor([[5.0, 0.0]]), torch.tensor([4])
    changed = tokens.clone()
    changed[0, 1] = torch.tensor([0.8, 0.1])  # a dropped one
    merged, counts = compressed(tokens, lengths, guide, 2, 0.6, 0.9)
    assert counts.tolist() == [2] and not torch.equal(merged, compressed(changed, lengths, guide, 2, 0.6, 0.9)[0])
    torch.testing.assert_close(compressed(tokens, lengths, guide, 2, 0.6, 1.0)[0], tokens[:, [0, 3]])  # alpha = 1
    torch.testing.assert_close(compressed(tokens, lengths, guide, 2, 1.0, 0.9)[0], tokens[:, [0, 3]])  # none is similar


def test_the_ratio_says_how_many_tokens_are_kept() -> None:
    batch = random_batch()  # 5, 3, 1 and 7 visual tokens
    ratio = model(keep=[0.5]).eval()(batch.without(["video"], torch.tensor([True, False, False, False])))
    torch.testing.assert_close(ratio.extras["compression_ratio"], torch.tensor([1.0, 2 / 3, 1.0, 4 / 7]))


def test_the_guide_learns_and_does_not_scale_tokens() -> None:
    tokens, guide = random_batch().features["video"], torch.randn(4, 12, requires_grad=True)
    found, _ = compressed(tokens, torch.tensor([5, 3, 1, 7]), guide, 0.5, 1.0, 0.9)
    found.square().sum().backward()
    assert guide.grad is not None and guide.grad[[0, 1, 3]].any(1).all()
    kept = {tuple(row) for row in found.detach().reshape(-1, 12).tolist()}
    assert kept <= {tuple(row) for row in tokens.reshape(-1, 12).tolist()} | {(0.0,) * 12}


# -- loss --------------------------------------------------------------------------------------------------------------


def test_a_literal_loop_gives_the_same_contrast() -> None:
    first, second, classes = torch.randn(5, 4), torch.randn(5, 4), [0, 1, 0, 2, 1]
    total = 0.0
    for i in range(5):
        for j in range(5):
            if i != j and classes[i] == classes[j]:
                e = [math.exp(cosine(first[i], second[q]) / 0.5) for q in range(5)]
                total -= math.log(e[j] / (e[j] + sum(e[q] for q in range(5) if classes[q] != classes[i]))) / (5 * 4)
    same = same_class({"label": torch.tensor(classes)})
    assert float(supervised_contrast(first, second, same, 0.5)) == pytest.approx(total, rel=1e-5)


@torch.no_grad()
def test_clips_without_a_modality_take_no_part_in_the_contrast() -> None:
    own, batch, task = model().eval(), labelled(random_batch()), LabelTask(LABELS)
    whole = own.loss(own(batch), batch, task)["contrast"]
    gone = batch.without(["video"], torch.tensor([False, False, False, True]))
    features, lengths = ({n: x[:3] for n, x in part.items()} for part in (batch.features, batch.lengths))
    cut = FeatureBatch(features, lengths, targets={"label": batch.targets["label"][:3]})
    found = own.loss(own(gone), gone, task)["contrast"]
    torch.testing.assert_close(found, own.loss(own(cut), cut, task)["contrast"])
    assert float(found) > 0 and float(found) != float(whole)
    blind = batch.without(["video"])
    assert float(own.loss(own(blind), blind, task)["contrast"]) == 0.0


def test_classes_are_labels_label_sets_or_rounded_scores() -> None:
    sets = same_class({"labels": torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])})
    assert sets.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert same_class({"score": torch.tensor([-0.8, -1.2, 0.2])})[0].tolist() == [True, True, False]


# -- properties --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [[0.7, 3], []])
def test_a_clip_is_judged_on_its_own(keep: list[float]) -> None:
    assert_depends_on_its_own_clip_alone(model(keep=keep))
    assert_missing_modalities_are_not_read(model(keep=keep))


def test_every_weight_learns_and_a_batch_of_one_can_be_trained() -> None:
    own, batch, task = model().train(), labelled(random_batch()), LabelTask(LABELS)
    assert_every_parameter_learns(own, own.loss(own(batch), batch, task)["loss"])
    one = labelled(random_batch(lengths={name: [3] for name in DIMENSIONS}))
    assert own.loss(own(one), one, task)["loss"].isfinite()


def test_one_guiding_modality_is_enough() -> None:
    own = DeepMSI({"video": 12, "audio": 10, "pose": 3}, 3, **SMALL)
    assert list(own.dimensions) == ["video", "audio"]
    assert_missing_modalities_are_not_read(own)


@pytest.mark.parametrize(
    ("dimensions", "settings", "message"),
    [
        ({"audio": 3, "text": 4}, {}, "have audio, text. Choose features with video"),
        (DIMENSIONS, {"keep": [0.5, 1.5]}, "1.5 is neither a share"),
        (DIMENSIONS, {"keep": [0]}, "0 is neither a share"),
        (DIMENSIONS, {"similarity": 2.0}, "Choose similarity between -1 and 1"),
        (DIMENSIONS, {"temperature": 0.0}, "temperature"),
        (DIMENSIONS, {"channels": []}, "channels"),
    ],
)
def test_settings_that_cannot_work_are_told(dimensions: dict[str, int], settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepMSI(dimensions, 3, **settings)
