"""The network of MSE-Adapter.

Golden numbers: what the modules of github.com/AZYoung233/MSE-Adapter (commit e0617fe, MSE-ChatGLM3-6B) gave for the
same weights and inputs, all of them made by ``tests/helpers/formula_weights.py``.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mosear.experts.mse.mixer import PseudoTokenMixer
from tests.helpers.formula_weights import fill, wave

LENGTHS = {"audio": torch.tensor([6, 2, 4]), "video": torch.tensor([3, 7, 1]), "text": torch.tensor([5, 1, 3])}
PUBLISHED = [
    [
        [0.1634624, 0.0938475, 0.0425287],
        [0.2445101, 0.2365998, 0.2307685],
        [0.2924645, 0.3473295, 0.3877749],
        [0.3008352, 0.4110498, 0.4922979],
    ],
    [
        [0.1638146, 0.0943232, 0.0430238],
        [0.2445501, 0.2366539, 0.2308248],
        [0.2921869, 0.3469546, 0.3873847],
        [0.3002777, 0.4102966, 0.4915140],
    ],
    [
        [0.1628385, 0.0929788, 0.0416055],
        [0.2444392, 0.2365011, 0.2306636],
        [0.2929563, 0.3480141, 0.3885026],
        [0.3018230, 0.4124250, 0.4937595],
    ],
]


def mixer(**settings: Any) -> PseudoTokenMixer:
    torch.manual_seed(0)
    return PseudoTokenMixer(64, 5, 4, **{"audio_hidden": 3, "video_hidden": 2, **settings}).eval()


def inputs() -> dict[str, Tensor]:
    return {"audio": wave((3, 6, 5), 1.5, 1.0), "video": wave((3, 7, 4), 2.5, 1.0), "text": wave((3, 5, 64), 3.5, 1.0)}


@torch.no_grad()
def tokens(own: PseudoTokenMixer, features: dict[str, Tensor], lengths: dict[str, Tensor] = LENGTHS) -> Tensor:
    given = [value for name in ("audio", "video", "text") for value in (features[name], lengths[name])]
    found: Tensor = own(*given)
    return found


# -- literal reference -------------------------------------------------------------------------------------------------


def literal_lstm(lstm: nn.LSTM, x: Tensor) -> Tensor:
    h = c = torch.zeros(lstm.hidden_size)
    for step in x:
        gates = lstm.weight_ih_l0 @ step + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return h


@torch.no_grad()
def literal(own: PseudoTokenMixer, features: dict[str, Tensor], row: int) -> Tensor:
    cut = {name: features[name][row, : int(LENGTHS[name][row])] for name in features}
    summaries = []
    for name in ("audio", "video"):
        part = getattr(own, name)
        summaries.append(part.linear.weight @ literal_lstm(part.lstm, cut[name]) + part.linear.bias)
    guide = own.guide.weight @ (sum(cut["text"]) / len(cut["text"])) + own.guide.bias
    fused = summaries[0] * guide + summaries[1] * guide
    mixed = own.mix.bias.clone()
    for at, (first, _, second) in enumerate(own.scales):
        hidden = first.weight @ fused + first.bias
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        mixed = mixed + own.mix.weight[0, at] * (second.weight @ hidden + second.bias)
    lifted = own.lift.weight @ mixed + own.lift.bias
    spread = zip(own.spread.weight[:, 0], own.spread.bias, strict=True)
    return torch.stack([weight * lifted + bias for weight, bias in spread])


def test_a_literal_loop_gives_the_same() -> None:
    own, features = mixer(), inputs()
    for row, found in enumerate(tokens(own, features)):
        torch.testing.assert_close(found, literal(own, features, row), rtol=1e-4, atol=1e-6)


# -- figures of the public code ----------------------------------------------------------------------------------------


def test_the_public_code_gives_the_same_numbers() -> None:
    own, features = mixer(), inputs()
    parameters = []
    for part in (own.audio, own.video):
        parameters += [*part.lstm.parameters(), *part.linear.parameters()]
    parts = [own.guide, *own.scales, own.mix, own.lift, own.spread]
    fill([*parameters, *(parameter for part in parts for parameter in part.parameters())])
    found = tokens(own, features, {**LENGTHS, "text": torch.tensor([5, 5, 5])})
    torch.testing.assert_close(found[..., :3], torch.tensor(PUBLISHED), rtol=0, atol=2e-6)
    assert float(found.double().sum()) == pytest.approx(192.9211283, abs=1e-3)
    assert float(found.double().square().sum()) == pytest.approx(61.2156832, abs=1e-3)


@pytest.mark.parametrize(
    ("width", "audio_dim", "video_dim", "settings", "published"),
    [
        (4096, 74, 35, {}, 2_631_692),  # MOSEI
        (4096, 25, 177, {"video_hidden": 64}, 2_680_716),  # SIMS-v2
        (4096, 64, 64, {}, 2_632_844),  # MELD
        (4096, 1024, 2048, {"audio_hidden": 32, "video_hidden": 16}, 2_842_380),  # CHERMA
        (2048, 74, 35, {}, 1_351_244),  # the same with Qwen-1.8B
        (2048, 25, 177, {"video_hidden": 64}, 1_400_268),
        (2048, 64, 64, {"audio_hidden": 32, "video_hidden": 16, "tokens": 2}, 1_312_072),
        (2048, 1024, 2048, {"audio_hidden": 32, "video_hidden": 16}, 1_561_932),
    ],
)
def test_parameters_are_as_many_as_published(
    width: int, audio_dim: int, video_dim: int, settings: dict[str, int], published: int
) -> None:
    with torch.device("meta"):
        own = PseudoTokenMixer(width, audio_dim, video_dim, **settings)  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in own.parameters()) == published


# -- properties --------------------------------------------------------------------------------------------------------


def test_a_clip_is_read_on_its_own_and_without_padding() -> None:
    own, features = mixer(), inputs()
    together = tokens(own, features)
    for row, expected in enumerate(together):
        alone = {name: value[row : row + 1, : int(LENGTHS[name][row])] for name, value in features.items()}
        found = tokens(own, alone, {name: counts[row : row + 1] for name, counts in LENGTHS.items()})
        torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-6)
    noisy = {
        name: torch.cat([value, value.new_full((3, 2, value.shape[-1]), 9.0)], dim=1)
        for name, value in features.items()
    }
    for name, value in noisy.items():
        value[torch.arange(value.shape[1])[None] >= LENGTHS[name][:, None]] = float("nan")
    torch.testing.assert_close(tokens(own, noisy), together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["audio", "video", "text"])
def test_a_missing_modality_contributes_nothing(name: str) -> None:
    own, features = mixer(), inputs()
    lengths = {**LENGTHS, name: torch.tensor([0, 0, int(LENGTHS[name][2])])}
    noise = {**features, name: features[name] + 3.0}
    noise[name][2] = features[name][2]
    found = tokens(own, features, lengths)
    torch.testing.assert_close(tokens(own, noise, lengths), found)
    torch.testing.assert_close(found[2], tokens(own, features)[2], rtol=1e-5, atol=1e-6)
    if name != "text":
        both = {**lengths, "audio": torch.zeros(3, dtype=torch.int64), "video": torch.zeros(3, dtype=torch.int64)}
        torch.testing.assert_close(tokens(own, features, both)[0], tokens(own, noise, both)[1])
        assert not torch.equal(found[0], tokens(own, features)[0])


def test_every_weight_learns_even_where_a_modality_is_missing() -> None:
    own, features = mixer().train(), inputs()
    own(
        *[value for name in ("audio", "video", "text") for value in (features[name], LENGTHS[name])]
    ).square().sum().backward()
    assert [name for name, p in own.named_parameters() if p.grad is None or not p.grad.any()] == []
    own.zero_grad()
    gone = {**LENGTHS, "audio": torch.zeros(3, dtype=torch.int64)}
    own(*[value for name in ("audio", "video", "text") for value in (features[name], gone[name])]).sum().backward()
    assert [name for name, p in own.named_parameters() if p.grad is None] == []


def test_embeddings_that_are_too_narrow_are_told() -> None:
    with pytest.raises(ValueError, match="have 16 numbers"):
        PseudoTokenMixer(16, 4, 4)
