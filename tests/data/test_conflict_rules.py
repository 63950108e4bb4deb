import csv
import hashlib
import itertools
import os
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from mosear.data import conflict_rules as rules
from mosear.data.clip import Clip, ModalityLabels

VOTES = Path(os.environ.get("CREMA_D_VOTES", Path(__file__).parents[3] / "shared/data/crema-d/summaryTable.csv"))
TENTHS = [Decimal(n) / 10 for n in range(-10, 11)]


def test_every_rule_has_its_own_subset_names():
    assert set(get_args(rules.RuleName)) == set(rules.RULE_SUBSETS)
    names = [name for rule, subsets in rules.RULE_SUBSETS.items() if rule != "crowd_vote" for name in subsets]
    assert len(names) == len(set(names))
    assert rules.RULE_SUBSETS["crowd_vote"] == rules.RULE_SUBSETS["camer"]


@pytest.mark.parametrize(
    ("visual", "audio", "joint", "group"),
    [
        ("happy", "happy", "happy", "consistent"),
        ("happy", "sad", "happy", "video_aligned"),
        ("sad", "happy", "happy", "audio_aligned"),
        ("sad", "angry", "happy", "all_different"),
        ("sad", "sad", "happy", "joint_differs"),
        (None, "sad", "sad", None),
        ("sad", " ", "sad", None),
        ("sad", "sad", None, None),
    ],
)
def test_camer(visual, audio, joint, group):
    assert rules.camer(visual=visual, audio=audio, joint=joint) == group


def test_camer_groups_are_a_partition():
    """CA-MER's three definitions, literally; what none of them covers lies outside the benchmark."""
    for v, a, av in itertools.product("xyz", repeat=3):
        d_v, d_a, d_0 = v == av and a != av, a == av and v != av, v == a == av
        group = rules.camer(visual=v, audio=a, joint=av)
        assert (group == "video_aligned", group == "audio_aligned", group == "consistent") == (d_v, d_a, d_0)
        assert (group in rules.CAMER_OUTSIDE) == (d_v + d_a + d_0 == 0)


@pytest.mark.parametrize("votes", [("A:D", "A", "A"), ("A", "A:D", "A"), ("A", "A", "D:A"), ("", "A", "A")])
def test_a_tie_is_no_majority(votes):
    visual, audio, joint = votes
    assert rules.crowd_vote(visual=visual, audio=audio, joint=joint) is None


def test_crowd_vote_agreement():
    votes = {"visual": "H", "audio": "N", "joint": "H"}
    assert rules.crowd_vote(**votes, agreement=(0.6, 0.5, 0.9), min_agreement=0.5) == "video_aligned"
    assert rules.crowd_vote(**votes, agreement=(0.6, 0.49, 0.9), min_agreement=0.5) is None
    with pytest.raises(ValueError, match="pass agreement="):
        rules.crowd_vote(**votes, min_agreement=0.5)
    with pytest.raises(ValueError, match="divide percentages"):
        rules.crowd_vote(**votes, agreement=(60, 50, 90), min_agreement=0.5)
    with pytest.raises(ValueError, match=r"share in \[0, 1\], got 50"):
        rules.crowd_vote(**votes, min_agreement=50)


@pytest.mark.skipif(not VOTES.is_file(), reason="needs CREMA-D's summaryTable.csv (set CREMA_D_VOTES)")
def test_crema_d_counts():
    with VOTES.open(encoding="utf-8", newline="") as file:
        rows = [(row["FaceVote"], row["VoiceVote"], row["MultiModalVote"]) for row in csv.DictReader(file)]
    groups = [rules.crowd_vote(visual=face, audio=voice, joint=both) for face, voice, both in rows]
    counts = Counter(groups)
    assert counts == {
        None: 1400,
        "consistent": 3034,
        "video_aligned": 1887,
        "audio_aligned": 548,
        "all_different": 359,
        "joint_differs": 214,
    }
    gold = {subset: Counter(row[2] for row, group in zip(rows, groups, strict=True) if group == subset)
            for subset in ("video_aligned", "audio_aligned")}  # fmt: skip
    assert gold["video_aligned"] == {"H": 746, "D": 436, "F": 282, "S": 201, "A": 137, "N": 85}
    assert gold["audio_aligned"] == {"N": 206, "A": 114, "F": 110, "D": 75, "S": 42, "H": 1}
    without_neutral = [
        group in ("video_aligned", "audio_aligned") and "N" not in row[:2]
        for row, group in zip(rows, groups, strict=True)
    ]
    assert sum(without_neutral) == 701


def test_polarity_puts_the_edges_into_neutral():
    for score in TENTHS:
        expected = -1 if score < Decimal("-0.1") else 1 if score > Decimal("0.1") else 0
        assert rules.polarity(float(score)) == rules.polarity(float(np.float32(score))) == expected
    assert rules.polarity(0.3 / 3) == 0
    with pytest.raises(ValueError, match="divide CMU-MOSI's by 3"):
        rules.polarity(2.4)
    with pytest.raises(ValueError, match=r"\[-1, 1\], got nan"):
        rules.polarity(float("nan"))


def test_emomm_uses_the_modalities_that_are_there():
    assert rules.emomm(joint=0.8, text=0.2, audio=1.0, visual=0.4) == "align"
    assert rules.emomm(joint=0.8, text=0.2, audio=0.0, visual=0.4) == "conflict"
    assert rules.emomm(joint=0.8, text=0.2, visual=0.4) == "align"
    assert rules.emomm(joint=0.0, text=0.1, audio=-0.1) == "align"
    assert rules.emomm(joint=0.8) is None
    assert rules.emomm(joint=None, text=0.8) is None
    assert rules.emomm(joint=0.8, text=0.2, neutral_zone=0.3) == "conflict"


@pytest.mark.parametrize("rule", [rules.polarity_any, rules.strong_range])
@pytest.mark.parametrize("absent", ["text", "audio", "visual"])
def test_a_missing_score_is_never_read_as_zero(rule, absent):
    scores = {"text": 0.8, "audio": 0.8, "visual": 0.8, absent: None}
    assert rule(**scores) is None
    assert rules.IntensityRule(((0.0, ""), (0.0, ""), (0.0, "")))("a", **scores) is None


def test_score_rules_are_exact_on_tenths():
    """Against decimal arithmetic, for scores as float64 and as float32 files store them."""
    for t, a, v in itertools.product(TENTHS, repeat=3):
        spread = max(t, a, v) - min(t, a, v)
        polarities = {(s > Decimal("0.1")) - (s < Decimal("-0.1")) for s in (t, a, v)}
        for kind in (float, lambda s: float(np.float32(s))):
            scores = {"text": kind(t), "audio": kind(a), "visual": kind(v)}
            assert rules.strong_range(**scores) == ("strong_range" if spread > 1 else "narrow_range")
            assert rules.polarity_any(**scores) == ("different_polarity" if len(polarities) > 1 else "same_polarity")
            assert rules.intensity(**scores) == pytest.approx(float(abs(t - a) + abs(t - v) + abs(a - v)), abs=2e-6)


def test_intensity_quartiles_have_the_published_ranks():
    rng = np.random.default_rng(0)
    scores = {f"clip{i}": tuple(np.round(rng.uniform(-1, 1, 3) * 5) / 5) for i in range(2722)}
    rule = rules.IntensityRule.fit(scores)

    def key(clip_id):
        t, a, v = scores[clip_id]
        return round(abs(t - a) + abs(t - v) + abs(a - v), 6), hashlib.sha256(clip_id.encode()).hexdigest()

    ordered = sorted(scores, key=key)
    expected = {clip_id: f"intensity_q{1 + sum(rank >= cut for cut in (680, 1361, 2041))}"
                for rank, clip_id in enumerate(ordered)}  # fmt: skip
    found = {clip_id: rule(clip_id, text=t, audio=a, visual=v) for clip_id, (t, a, v) in scores.items()}
    assert found == expected
    assert Counter(found.values()) == dict(zip(rules.INTENSITY_SUBSETS, (680, 681, 680, 681), strict=True))
    shuffled = dict(sorted(scores.items(), reverse=True))
    assert rules.IntensityRule.fit(shuffled) == rule
    with pytest.raises(ValueError, match="at least 4 training clips"):
        rules.IntensityRule.fit({"a": (0.0, 0.0, 0.0)})


CLIP = Clip(
    id="a",
    video="a.mp4",
    audio="video",
    text="Fine.",
    label="sad",
    modality_labels=ModalityLabels(visual="happy", audio="sad", text="neutral"),
    subset="audio_aligned",
    context=("Well?",),
)


def test_without_modality():
    faceless = rules.without_modality(CLIP, "video")
    assert (faceless.video, faceless.audio, faceless.text) == (None, "a.mp4", "Fine.")
    assert (faceless.id, faceless.subset, faceless.missing) == ("a#missing_video", "missing_video", ("video",))
    assert faceless.modality_labels == ModalityLabels(visual=None, audio="sad", text="neutral")
    silent = rules.without_modality(CLIP, "audio")
    assert (silent.video, silent.audio, silent.missing) == ("a.mp4", None, ("audio",))
    wordless = rules.without_modality(CLIP, "text")
    assert (wordless.text, wordless.context, wordless.modality_labels.text) == (None, (), None)
    assert rules.without_modality(silent, "text").missing == ("audio", "text")
    variants = [rules.without_modality(CLIP, modality) for modality in ("video", "audio", "text")]
    assert tuple(variant.subset for variant in variants) == rules.MISSING_SUBSETS
    assert all(Clip.from_row(variant.to_row()) == variant for variant in variants)


@pytest.mark.parametrize("modality", ["video", "audio", "face"])
def test_only_what_is_there_can_be_taken_away(modality):
    with pytest.raises(ValueError, match=r"cannot be taken away|unknown modality 'face'"):
        rules.without_modality(Clip(id="a", video="a.mp4"), modality)


def test_ties_of_intensity_are_ties():
    """Equal spreads whose float differences are not: 0.3 - 0.1 and 0.4 - 0.2."""
    assert 0.3 - 0.1 != 0.4 - 0.2
    assert rules.intensity(0.1, 0.2, 0.3) == rules.intensity(0.2, 0.3, 0.4) == 0.4
