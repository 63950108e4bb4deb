"""Shapley values against hand-computed games and an average over orders; then the passes, the run and the report."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import lightning
import numpy as np
import pytest
import torch

from mosear.backbones import OmniBackbone, load_backbone
from mosear.backbones.media import AudioInput, MediaBatch, VideoInput
from mosear.data.clip import Clip
from mosear.data.datamodule import ClipDataModule
from mosear.data.media import MediaBudget
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch, collate
from mosear.data.synthetic import ensure_corpus
from mosear.evaluation.answering import Answering
from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.contribution import (
    COMBINATIONS,
    FEWEST_CLIPS,
    ClipValues,
    Contribution,
    collapse_verdict,
    contribution_table,
    shapley_values,
    share_interval,
    summarise_contribution,
)
from mosear.evaluation.contribution_passes import clip_values, modality_combinations, rows_of
from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.report import write_report
from mosear.evaluation.summary import summarise, write_metrics
from mosear.inference.scoring import LabelTrie, label_log_probs
from mosear.methods.omni_system import OmniSystem
from mosear.roles import SHOWN
from tests.helpers import processes
from tests.helpers.omni_samples import MIXED, make_batch, make_sample

ROOT = Path(__file__).parents[2]
LABELS = ("angry", "happy", "sad")
PROMPT = Prompt(labels=LABELS)
NAME_OF = {"visual": "video", "audio": "audio", "text": "text"}
TOLERANCE = {"rtol": 1e-6, "atol": 1e-5}
EVIL = "<script>alert('x')</script>\"'&"


def shown_set(*modalities: str) -> int:
    """Index of the combination of these modalities."""
    return COMBINATIONS.index(tuple(modality for modality in SHOWN if modality in modalities))


def literal_shapley(values: Sequence[float]) -> list[float]:
    """Mean marginal gain over the 3! orders in which the modalities can join."""
    gains: dict[str, list[float]] = {modality: [] for modality in SHOWN}
    for order in itertools.permutations(SHOWN):
        for position, modality in enumerate(order):
            before, after = shown_set(*order[:position]), shown_set(*order[: position + 1])
            gains[modality].append(values[after] - values[before])
    return [sum(own) / 6 for own in gains.values()]


def values_of(
    index: int = 0,
    *,
    subset: str = "consistent",
    present: tuple[str, ...] = SHOWN,
    log_prob: Sequence[float] | None = None,
    accuracy: Sequence[float] | None = None,
) -> ClipValues:
    """A clip's game; what is left out is drawn, and an absent modality never changes anything."""
    rng = np.random.default_rng(index)
    seen = [shown_set(*(m for m in members if m in present)) for members in COMBINATIONS]
    drawn = rng.normal(-1, 1, 8)[seen], rng.integers(0, 2, 8)[seen].astype(float)
    return ClipValues(
        id=f"{subset}-{index}",
        subset=subset,
        present=present,
        log_prob=tuple(drawn[0].tolist() if log_prob is None else log_prob),
        accuracy=tuple(drawn[1].tolist() if accuracy is None else accuracy),
    )


# -- Shapley values --------------------------------------------------------------------------------------------------


def test_combinations_are_the_eight_sets() -> None:
    assert COMBINATIONS[0] == () and COMBINATIONS[-1] == SHOWN
    assert set(COMBINATIONS) == {
        members for size in range(4) for members in itertools.combinations(SHOWN, size)
    }  # fmt: skip


def test_a_game_by_hand() -> None:
    worth = {
        (): 0.0,
        ("visual",): 6.0,
        ("audio",): 12.0,
        ("text",): 0.0,
        ("visual", "audio"): 30.0,
        ("visual", "text"): 6.0,
        ("audio", "text"): 18.0,
        SHOWN: 42.0,
    }
    # gains of v, a, t in the orders vat, vta, avt, atv, tva, tav
    gains = [(6, 24, 12), (6, 36, 0), (18, 12, 12), (24, 12, 6), (6, 36, 0), (24, 18, 0)]
    expected = np.mean(gains, axis=0)
    assert expected.tolist() == [14, 23, 5]
    np.testing.assert_allclose(shapley_values([worth[members] for members in COMBINATIONS]), expected, atol=1e-12)


def test_equal_to_the_average_over_orders() -> None:
    games = np.random.default_rng(0).normal(size=(7, 5, 8))
    phi = shapley_values(games)
    assert phi.shape == (7, 5, 3)
    for index in np.ndindex(7, 5):
        np.testing.assert_allclose(phi[index], literal_shapley(games[index]), atol=1e-12)


def test_properties_of_the_shapley_value() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 50, 8))
    phi = shapley_values(first)
    np.testing.assert_allclose(phi.sum(-1), first[:, -1] - first[:, 0], atol=1e-12)  # efficiency
    both = shapley_values(2 * first + second)
    np.testing.assert_allclose(both, 2 * phi + shapley_values(second), atol=1e-12)  # linearity
    swap = {"visual": "audio", "audio": "visual", "text": "text"}
    swapped = first[:, [shown_set(*(swap[m] for m in members)) for members in COMBINATIONS]]
    np.testing.assert_allclose(shapley_values(swapped), phi[:, [1, 0, 2]], atol=1e-12)  # names do not matter
    alike = shapley_values((first + swapped) / 2)
    np.testing.assert_allclose(alike[:, 0], alike[:, 1], atol=1e-12)  # symmetry


@pytest.mark.parametrize("absent", SHOWN)
def test_an_absent_modality_is_a_null_player(absent: str) -> None:
    """Its value is 0, and the others have what they have in the game of two, (first alone + gain as second) / 2."""
    a, b = (modality for modality in SHOWN if modality != absent)
    for seed in range(20):
        game = values_of(seed, present=(a, b)).log_prob
        phi = dict(zip(SHOWN, shapley_values(game), strict=True))
        none, of_a, of_b, of_both = (game[shown_set(*members)] for members in ((), (a,), (b,), (a, b)))
        assert phi[absent] == 0
        assert phi[a] == pytest.approx((of_a - none + of_both - of_b) / 2)
        assert phi[b] == pytest.approx((of_b - none + of_both - of_a) / 2)


def test_a_game_needs_eight_values() -> None:
    with pytest.raises(ValueError, match=r"8 values.*\(3, 4\)"):
        shapley_values(np.zeros((3, 4)))


# -- shares and collapse ---------------------------------------------------------------------------------------------


def test_share_by_hand_and_against_a_literal_bootstrap() -> None:
    rng = np.random.default_rng(2)
    phi = rng.normal(size=(60, 3)) * [0.5, 1.0, 2.0]
    found = share_interval(phi, "audio", n_boot=4000)
    sizes = np.abs(phi)
    assert found.mean == pytest.approx(sizes[:, 1].mean() / sizes.mean(axis=0).sum())
    replicates = []
    for _ in range(4000):
        drawn = sizes[rng.integers(0, 60, 60)]
        replicates.append(drawn[:, 1].sum() / drawn.sum())
    assert (found.low, found.high) == pytest.approx(np.quantile(replicates, [0.025, 0.975]), abs=0.01)
    points = [share_interval(phi, modality, n_boot=10).mean for modality in SHOWN]
    assert sum(points) == pytest.approx(1)


def test_help_and_harm_do_not_cancel() -> None:
    helps_and_misleads = np.tile([[1.0, 0.5, 0.0], [-1.0, 0.5, 0.0]], (30, 1))
    assert share_interval(helps_and_misleads).mean == pytest.approx(2 / 3)
    overruled = np.tile([[0.02, -3.0, 0.5]], (30, 1))
    assert share_interval(overruled).high < 0.01


def test_where_nothing_moves_there_is_no_share() -> None:
    found = share_interval(np.full((40, 3), 1e-7))
    assert math.isnan(found.mean) and (found.low, found.high) == (0, 1)
    # One clip of 30 moves: a good third of the replicates miss it, and those could have any share.
    rare = np.zeros((30, 3))
    rare[0] = [0.2, 0.3, 0.5]
    found = share_interval(rare)
    assert found.mean == pytest.approx(0.2) and (found.low, found.high) == (0, 1)


@pytest.mark.parametrize(
    ("interval", "clips", "expected"),
    [
        (Interval(0.1, 0.05, 0.15), 100, "collapsed"),
        (Interval(0.1, 0.05, 0.2), 100, "undecided"),
        (Interval(0.25, 0.2, 0.3), 100, "not_collapsed"),
        (Interval(0.3, 0.1, 0.4), 100, "undecided"),
        (Interval(0.01, 0.0, 0.02), FEWEST_CLIPS - 1, "undecided"),
        (Interval(0.01, 0.0, 0.02), FEWEST_CLIPS, "collapsed"),
        (Interval(math.nan, 0.0, 1.0), 100, "undecided"),
    ],
)
def test_verdict_follows_the_interval(interval: Interval, clips: int, expected: str) -> None:
    assert collapse_verdict(interval, 0.2, clips) == expected


# -- the summary -----------------------------------------------------------------------------------------------------


def ignores_video(index: int, **options: str) -> ClipValues:
    """Audio gives 2 nats and the answer, whatever else is there."""
    heard = ["audio" in members for members in COMBINATIONS]
    noise = np.random.default_rng(index).normal(0, 0.01, 8)
    scores = [-0.1 if audio else -2.1 for audio in heard] + noise
    return values_of(index, log_prob=scores.tolist(), accuracy=[float(audio) for audio in heard], **options)


def test_summary_of_a_model_that_ignores_video(tmp_path: Path) -> None:
    clips = [ignores_video(i) for i in range(40)] + [values_of(i, subset="other") for i in range(60)]
    summary = summarise_contribution(clips, threshold=0.15, n_boot=300)
    assert summary["collapse_threshold"] == 0.15 and list(summary["subsets"]) == ["consistent", "other"]
    for name, subset in summary["subsets"].items():
        own = [clip for clip in clips if clip.subset == name]
        assert subset["n"] == len(own)
        for worth in ("accuracy", "log_prob"):
            scores = subset[worth]
            games = [getattr(clip, worth) for clip in own]
            literal = np.mean([literal_shapley(game) for game in games], axis=0)
            assert list(scores["shapley"].values()) == pytest.approx(literal.tolist())
            assert sum(scores["shapley"].values()) == pytest.approx(scores["all"] - scores["none"])
            assert scores["all"] == pytest.approx(np.mean([game[-1] for game in games]))
            assert sum(scores["shares"].values()) == pytest.approx(1)
            for modality in SHOWN:
                low, high = scores["interval"][modality]
                assert low <= scores["shapley"][modality] <= high
            low, high = scores["share_interval"]
            assert low <= scores["shares"]["visual"] <= high
    deaf, other = summary["subsets"].values()
    assert deaf["accuracy"]["shapley"] == {"visual": 0, "audio": pytest.approx(1), "text": 0}
    assert deaf["accuracy"]["verdict"] == deaf["log_prob"]["verdict"] == "collapsed"
    assert other["log_prob"]["verdict"] == "not_collapsed"
    write_metrics({"contribution": summary}, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["contribution"] == summary


def test_only_clips_with_video_and_something_beside_it_decide() -> None:
    mute = [values_of(i, present=("audio", "text")) for i in range(30)]
    silent = [values_of(i, present=("visual",)) for i in range(100, 130)]
    rivals = [values_of(i) for i in range(200, 230)]
    alone = summarise_contribution(mute, threshold=0.15, n_boot=50)["subsets"]["consistent"]["log_prob"]
    assert alone["verdict"] is None and alone["share_interval"] is None
    assert alone["shares"]["visual"] == 0 and alone["shapley"]["visual"] == 0
    mixed = summarise_contribution([*mute, *rivals, *silent], threshold=0.15, n_boot=200)["subsets"]["consistent"]
    only = summarise_contribution(rivals, threshold=0.15, n_boot=200)["subsets"]["consistent"]
    assert mixed["n"] == 90
    for key in ("shares", "share_interval", "verdict"):
        assert mixed["log_prob"][key] == pytest.approx(only["log_prob"][key])
    assert mixed["log_prob"]["shapley"] != only["log_prob"]["shapley"]


def test_a_model_that_nothing_moves(tmp_path: Path) -> None:
    still = [values_of(i, log_prob=[-1.0] * 8, accuracy=[1.0] * 8) for i in range(30)]
    summary = summarise_contribution(still, threshold=0.15, n_boot=50)
    scores = summary["subsets"]["consistent"]["log_prob"]
    assert math.isnan(scores["shares"]["visual"]) and scores["verdict"] == "undecided"
    write_metrics(summary, tmp_path / "metrics.json")  # strict JSON: NaN becomes null
    assert contribution_table(summary).row_count == 1


def test_which_clips_are_measured() -> None:
    clips = [Clip(id=f"{subset}-{i}", text="hm", subset=subset) for subset in ("a", "b") for i in range(50)]
    assert Contribution().chosen(clips) == frozenset()
    few, more = (Contribution(enabled=True, max_clips_per_subset=n).chosen(clips) for n in (10, 20))
    assert few < more and len(few) == 20 and len(more) == 40
    assert sum(name.startswith("a") for name in few) == 10
    assert Contribution(enabled=True, max_clips_per_subset=10).chosen(clips[::-1]) == few
    assert few != {clip.id for clip in [*clips[:10], *clips[50:60]]}, "the manifest's order must not matter"
    assert len(Contribution(enabled=True, max_clips_per_subset=None).chosen(clips)) == 100


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.2])
def test_settings_are_checked(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"collapse_threshold={threshold}"):
        Contribution(collapse_threshold=threshold)
    with pytest.raises(ValueError, match=r"max_clips_per_subset=0.*null"):
        Contribution(max_clips_per_subset=0)


# -- the passes ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["qwen25", "qwen3"])
def backbone(request: pytest.FixtureRequest) -> OmniBackbone:
    loaded: OmniBackbone = request.getfixturevalue(request.param)
    return loaded


def trie_of(backbone: OmniBackbone) -> LabelTrie:
    return LabelTrie.of(LABELS, backbone.processor.tokenizer)


@torch.no_grad()
def test_combinations_equal_single_clips_with_the_rest_hidden(backbone: OmniBackbone) -> None:
    trie = trie_of(backbone)
    cases = MIXED[:3]
    found = modality_combinations(backbone, make_batch(backbone, cases, prompt=PROMPT), trie)
    assert found.shape == (len(cases), 8, len(LABELS))
    for seed, kinds in enumerate(cases):
        alone = collate([make_sample(backbone, kinds, seed, prompt=PROMPT)], pad_id=0)
        for index, members in enumerate(COMBINATIONS):
            hide = tuple(modality for modality in SHOWN if modality not in members)
            expected = label_log_probs(backbone, alone, trie, hide=hide)[0]
            torch.testing.assert_close(found[seed, index], expected, **TOLERANCE)
            kept = shown_set(*(modality for modality in members if NAME_OF[modality] in kinds))
            assert torch.equal(found[seed, index], found[seed, kept]), "what is absent changes nothing, bit by bit"
        games = found[seed].log_softmax(-1).double()
        for position, modality in enumerate(SHOWN):
            gains = shapley_values(games.T.numpy())[:, position]
            assert (np.abs(gains).max() == 0) == (NAME_OF[modality] not in kinds)


@torch.no_grad()
def test_with_everything_hidden_the_question_alone_remains(backbone: OmniBackbone) -> None:
    trie, batch = trie_of(backbone), make_batch(backbone, MIXED[:1], prompt=PROMPT)
    words = torch.randint(20, 200, batch.input_ids.shape)
    other = replace(
        batch,
        input_ids=torch.where(batch.transcript, words, batch.input_ids),
        media=MediaBatch(
            [VideoInput(torch.randn_like(v.pixels), v.grid, v.seconds_per_grid) for v in batch.media.videos],
            [AudioInput(torch.randn_like(a.mel)) for a in batch.media.audios],
        ),
    )
    before, after = (modality_combinations(backbone, clips, trie)[0] for clips in (batch, other))
    torch.testing.assert_close(before[0], after[0], **TOLERANCE)
    assert (before[1:] - after[1:]).abs().amax(-1).min() > 1e-4
    asked = Prompt(labels=LABELS, question="How does this person feel, would you say?")
    third = modality_combinations(backbone, make_batch(backbone, MIXED[:1], prompt=asked), trie)[0]
    assert (before[0] - third[0]).abs().max() > 1e-4


@torch.no_grad()
def test_media_follow_their_clips(backbone: OmniBackbone) -> None:
    trie, batch = trie_of(backbone), make_batch(backbone, prompt=PROMPT)
    everything = label_log_probs(backbone, batch, trie)
    for indices in ([4, 0, 2], [1], [3]):
        part = rows_of(batch, indices)
        assert [clip.id for clip in part.clips] == [batch.clips[index].id for index in indices]
        torch.testing.assert_close(label_log_probs(backbone, part, trie), everything[indices], **TOLERANCE)


def labelled(batch: OmniBatch) -> OmniBatch:
    clips = [replace(clip, label=LABELS[index % len(LABELS)]) for index, clip in enumerate(batch.clips)]
    return replace(batch, clips=clips)


@torch.no_grad()
def test_from_clips_to_verdicts_on_tiny_omni() -> None:
    backbone = load_backbone("tiny-omni", dtype="fp32")
    trie = trie_of(backbone)
    batch = labelled(make_batch(backbone, prompt=PROMPT))
    batch = replace(batch, media=backbone.encode(batch.media))
    chosen = [clip.id for clip in batch.clips if clip.id != "clip-1"]
    games = clip_values(backbone, batch, trie, chosen)
    assert [game.id for game in games] == chosen
    assert clip_values(backbone, batch, trie, ["elsewhere"]) == []
    answers = label_log_probs(backbone, batch, trie).double().log_softmax(-1)
    for game in games:
        index = int(game.id[-1])
        gold = index % len(LABELS)
        assert {NAME_OF[modality] for modality in game.present} == set(MIXED[index])
        assert game.log_prob[-1] == pytest.approx(float(answers[index, gold]), abs=1e-5)
        assert game.accuracy[-1] == float(answers[index].argmax() == gold)
        assert max(game.log_prob) <= 0 and set(game.accuracy) <= {0.0, 1.0}
    summary = summarise_contribution(games, threshold=0.15, n_boot=100)["subsets"]["all"]
    assert summary["n"] == 4 and summary["log_prob"]["verdict"] == "undecided", "four clips decide nothing"
    scores = summary["log_prob"]
    assert sum(scores["shapley"].values()) == pytest.approx(scores["all"] - scores["none"])


# -- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 test clips in 7 subsets."""
    root = tmp_path_factory.mktemp("contribution") / "synthetic"
    return ensure_corpus(root, train_clips=1, val_clips=2, test_clips=2, workers=1, size=56)


def test_the_trainer_measures_the_chosen_clips(corpus: Path) -> None:
    settings = Contribution(enabled=True, max_clips_per_subset=1)
    backbone = load_backbone("tiny-omni", dtype="fp32")
    data = ClipDataModule(
        backbone=backbone,
        prompt=Prompt(),
        budget=MediaBudget(num_frames=4, max_pixels=56 * 56),
        test=str(corpus / "test.parquet"),
        eval_batch_size=5,
        num_workers=0,
    )
    answering = Answering(readings=False, contribution=settings)
    tuner = OmniSystem(backbone, backbone.model, data, answering)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", logger=False, **quiet)
    tuner.contributions = [values_of()]  # of an earlier test
    trainer.test(tuner, data, verbose=False)
    chosen = settings.chosen(data.manifest("test"))
    assert len(chosen) == 7
    assert sorted(game.id for game in tuner.contributions) == sorted(chosen)
    rows = {row.id: row for row in tuner.rows}
    assert len(rows) == 14
    for game in tuner.contributions:
        row = rows[game.id]
        gold = data.prompt.labels.index(row.label)
        assert row.distribution is not None
        assert math.exp(game.log_prob[-1]) == pytest.approx(row.distribution[gold], rel=1e-4)
        assert bool(game.accuracy[-1]) == row.correct and game.subset == row.subset
        missing = game.subset.removeprefix("missing_") if game.subset.startswith("missing") else None
        carried = {"video", "audio", "text"} if row.text else {"video", "audio"}
        assert {NAME_OF[modality] for modality in game.present} == carried - {missing}


@pytest.mark.slow
def test_eval_writes_and_prints_contribution(corpus: Path, tmp_path: Path) -> None:
    overrides = [
        "answering.contribution.enabled=true",
        "answering.contribution.collapse_threshold=0.3",
        f"data_dir={tmp_path}",
        "data.prepare=null",
        f"benchmark.manifest={corpus / 'test.parquet'}",
        f"data.train={corpus / 'train_natural.parquet'}",
        f"data.val={corpus / 'val.parquet'}",
        "callbacks.progress=null",
        "data.num_workers=0",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    done = processes.run(["eval.py", *overrides], env={**processes.inherited(), "COLUMNS": "160"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "video collapsed below 30.0 %" in done.stdout and "undecided" in done.stdout, done.stdout
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["contribution"]["collapse_threshold"] == 0.3
    assert metrics["contribution"]["subsets"].keys() == metrics["subsets"].keys()
    for name, subset in metrics["contribution"]["subsets"].items():
        assert subset["accuracy"]["all"] == metrics["subsets"][name]["accuracy"], "two routes to one number"
    assert "Modality contribution" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


# -- the report ------------------------------------------------------------------------------------------------------


def section(path: Path) -> ElementTree.Element | None:
    """The report's section on contribution, parsed strictly."""
    html = path.read_text(encoding="utf-8")
    assert "<script" not in html.lower()
    _, opening, rest = html.partition('<section aria-labelledby="contribution">')
    if not opening:
        return None
    body = rest[: rest.index("</section>")].replace("<br>", "<br/>")
    return ElementTree.fromstring(f"<section>{body}</section>")


def reported(path: Path, measured: dict[str, Sequence[ClipValues]]) -> ElementTree.Element | None:
    """Writes a report with the systems' contributions (none for an empty list) and returns its section."""
    summaries, predictions = {}, {}
    for name, clips in measured.items():
        predictions[name] = [
            PredictionRow(id=str(i), subset=EVIL, label="sad", prediction="sad", benchmark="b", model=name)
            for i in range(3)
        ]
        summaries[name] = summarise(predictions[name], LABELS, benchmark="b", steering="none", seed=0, n_boot=20)
        if clips:
            summaries[name]["contribution"] = summarise_contribution(clips, threshold=0.123, n_boot=50)
    write_report(path, title="t", run_info={}, summaries=summaries, predictions=predictions, labels=LABELS)
    return section(path)


def words_of(element: ElementTree.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def test_report_shows_every_number(tmp_path: Path) -> None:
    before = [ignores_video(i, subset=EVIL) for i in range(30)]
    after = [values_of(i, subset=EVIL) for i in range(40)]
    after += [values_of(i, subset="missing_video", present=("audio", "text")) for i in range(25)]
    found = reported(tmp_path / "r.html", {"zero_shot": before, "tuned": after})
    assert found is not None
    words = words_of(found)
    assert EVIL in words and "zero-shot" in words and "12.3 %" in words and "Missing video" in words
    for phrase in ("collapsed", "not collapsed", "no video", "log-probability", "points", "nats"):
        assert phrase in words, phrase
    for clips in (before, after):
        for subset in summarise_contribution(clips, threshold=0.123, n_boot=50)["subsets"].values():
            for worth, factor, digits in (("accuracy", 100, 1), ("log_prob", 1, 2)):
                scores = subset[worth]
                for modality in SHOWN:
                    values = (scores["shapley"][modality], *scores["interval"][modality])
                    for text in (f"{factor * value:+.{digits}f}".replace("-", "−") for value in values):
                        assert text in words, text
                if scores["share_interval"]:
                    assert f"{100 * scores['shares']['visual']:.1f}" in words
    bars = found.findall(".//svg[@role='img']")
    assert len(bars) == 3 and all(bar.get("aria-label") for bar in bars)
    for bar in bars:
        widths = [float(str(rect.get("width")).rstrip("%")) for rect in bar.findall("rect")]
        assert sum(widths) == pytest.approx(100, abs=0.05)
        assert [line.get("x1") for line in bar.findall("line[@class='threshold']")] == ["12.30%"]
    assert [len(bar.findall("g[@class='whisker']")) for bar in bars] == [1, 1, 0]


def test_report_without_contribution_has_no_section(tmp_path: Path) -> None:
    assert reported(tmp_path / "r.html", {"tuned": []}) is None
    partly = reported(tmp_path / "r.html", {"zero_shot": [], "tuned": [values_of(0, subset=EVIL)]})
    assert partly is not None and "zero-shot" not in words_of(partly)


def test_report_where_nothing_moves(tmp_path: Path) -> None:
    still = [values_of(i, subset=EVIL, log_prob=[-1.0] * 8, accuracy=[1.0] * 8) for i in range(30)]
    found = reported(tmp_path / "r.html", {"tuned": still})
    assert found is not None and "undecided" in words_of(found) and "nan" not in words_of(found)
    (bar,) = found.findall(".//svg[@role='img']")
    assert not bar.findall("rect") and "nothing moves" in str(bar.get("aria-label"))


def test_table_for_the_terminal_takes_names_literally() -> None:
    from rich.console import Console

    summary = summarise_contribution([values_of(i, subset="[red]a_b") for i in range(25)], threshold=0.2, n_boot=50)
    console = Console(width=160, record=True)
    console.print(contribution_table(summary))
    printed = console.export_text()
    assert "[red]a b" in printed and "collapsed below 20.0 %" in printed
