"""Whom a model follows: the index and its intervals against slow loops, the verdict, and the files."""

import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest

from mosear.data.clip import Clip, ModalityLabels
from mosear.evaluation.benchmark_metrics import METRICS, Answers, benchmark_scores
from mosear.evaluation.bias import ALL, Direction, conflicts, directions, share_of, verdict
from mosear.evaluation.bias_of_runs import of_run
from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.metrics.direction import SIDES, direction_index, sides
from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.report.bias_page import write_bias
from tests.helpers.kinds import write_run
from tests.helpers.report_pages import EVIL, Page

LABELS = ["happy", "sad", "angry"]
N_BOOT = 3000


def made(n=120, voice=0.6, face=0.3, *, readings=True, speakers=0, seed=0):
    """Answers that follow voice and face with given shares, and their clips; some words take a side."""
    rng = np.random.default_rng(seed)
    rows, clips = [], {}
    for i in range(n):
        name = f"clip {i}"
        visual, audio, other = (LABELS[k] for k in rng.permutation(3))
        text = (None, visual, audio)[i % 3]
        draw = rng.random()
        said = audio if draw < voice else visual if draw < voice + face else other
        unread = i % 40 == 0
        clips[name] = Clip(
            id=name,
            video="a.mp4",
            audio="video",
            text="words",
            label=visual,
            subset=("video_aligned", "audio_aligned")[i % 2],
            speaker=f"s{i % speakers}" if speakers else None,
            modality_labels=ModalityLabels(visual=visual, audio=audio, text=text),
        )
        rows.append(
            PredictionRow(
                id=name,
                subset=clips[name].subset,
                label=visual,
                prediction=None if unread else said,
                unparsed_reason="no label" if unread else None,
                benchmark="b",
                model="tuned",
                p_visual=rng.dirichlet(np.ones(3)).tolist() if readings else None,
                p_audio=rng.dirichlet(np.full(3, 0.4)).tolist() if readings else None,
            )
        )
    return rows, clips


def literal(rows, clips, units):
    """(index, evidence) of some clips, one answer at a time."""
    count = {"face": 0, "voice": 0, "own face": 0, "own voice": 0}
    for i in units:
        said, row = clips[rows[i].id].modality_labels, rows[i]
        count["face"] += row.prediction == said.visual
        count["voice"] += row.prediction == said.audio
        fused = row.p_visual if max(row.p_visual) >= max(row.p_audio) else row.p_audio
        best = LABELS[fused.index(max(fused))]
        count["own face"] += best == said.visual
        count["own voice"] += best == said.audio

    def index(f, v):
        return (f - v) / (f + v)

    return index(count["face"], count["voice"]), index(count["own face"], count["own voice"])


@pytest.mark.parametrize("speakers", [0, 12])
def test_index_and_intervals_are_those_of_a_slow_bootstrap(speakers):
    rows, clips = made(speakers=speakers)
    found = directions(conflicts(rows, clips), LABELS, n_boot=N_BOOT)[ALL]
    index, evidence = literal(rows, clips, range(len(rows)))
    assert (found.index.mean, found.evidence.mean) == pytest.approx((index, evidence))
    assert found.beyond.mean == pytest.approx(index - evidence)
    groups = (
        [[i for i in range(len(rows)) if i % speakers == s] for s in range(speakers)]
        if speakers
        else [[i] for i in range(len(rows))]
    )
    rng, drawn = np.random.default_rng(1), []
    for _ in range(1000):
        picked = [i for g in rng.integers(0, len(groups), len(groups)) for i in groups[g]]
        drawn.append(literal(rows, clips, picked))
    raw, own = np.array(drawn).T
    for interval, values in ((found.index, raw), (found.evidence, own), (found.beyond, raw - own)):
        assert (interval.low, interval.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.04)


def test_shares_are_counts_over_all_conflicts():
    rows, clips = made()
    found = directions(conflicts(rows, clips), LABELS, n_boot=50)
    whole, n = found[ALL], len(rows)
    said = [clips[row.id].modality_labels for row in rows]
    face = sum(row.prediction == one.visual for row, one in zip(rows, said, strict=True))
    voice = sum(row.prediction == one.audio for row, one in zip(rows, said, strict=True))
    unread = sum(row.prediction is None for row in rows)
    expected = {"face": face, "voice": voice, "unread": unread, "neither": n - face - voice - unread}
    assert {name: round(share.mean * n) for name, share in whole.shares.items()} == expected
    known = [(row, one) for row, one in zip(rows, said, strict=True) if one.text is not None]
    assert whole.text_n == len(known)
    assert whole.text.mean == pytest.approx(sum(row.prediction == one.text for row, one in known) / len(known))
    assert list(found) == [ALL, "video_aligned", "audio_aligned"]
    assert sum(part.n for name, part in found.items() if name != ALL) == whole.n == n


def test_clips_that_are_no_conflicts_do_not_count():
    rows, clips = made(n=4)
    changes = [
        ModalityLabels(visual="sad", audio="sad", text=None),
        ModalityLabels(visual="sad", audio=None, text=None),
        ModalityLabels(visual="sad", audio="happy", text=None),
    ]
    for row, said in zip(rows, changes, strict=False):
        old = clips[row.id]
        audio = None if said.text is None and said.audio == "happy" else "video"
        clips[row.id] = Clip(**{**vars(old), "modality_labels": said, "audio": audio})
    assert [one.row.id for one in conflicts(rows, clips)] == ["clip 3"]
    with pytest.raises(ValueError, match="No clip has different labels for face and voice"):
        directions([], LABELS)
    with pytest.raises(ValueError, match="1 clips are no conflicts: face and voice both say 'sad'"):
        sides(["sad"], ["sad"], ["sad"])


def test_the_index_is_undefined_where_neither_is_followed():
    assert direction_index([3, 0, 1, 0], [1, 2, 1, 0])[:3].tolist() == [0.5, -1.0, 0.0]
    assert math.isnan(direction_index(0, 0))
    found = directions(conflicts(*made(voice=0.0, face=0.0)), LABELS, n_boot=50)[ALL]
    assert found.index is None and found.beyond is None and found.side is None
    assert verdict(found) == "answers with neither label on any conflict"


def test_without_readings_there_is_no_evidence_to_compare_with():
    found = directions(conflicts(*made(readings=False)), LABELS, n_boot=50)[ALL]
    assert found.evidence is None and found.beyond is None
    assert verdict(found).endswith("not compared with its own evidence, which was not measured")


def with_intervals(index, beyond):
    return Direction(n=300, shares={}, text=None, text_n=0, index=index, evidence=Interval(0, -0.1, 0.1), beyond=beyond)


VOICE, FACE, OPEN = Interval(-0.42, -0.48, -0.36), Interval(0.4, 0.2, 0.6), Interval(-0.02, -0.1, 0.06)


@pytest.mark.parametrize(
    ("index", "beyond", "sentence"),
    [
        (
            VOICE,
            Interval(-0.24, -0.30, -0.18),
            "follows the voice: 71 % [68, 74] of the conflicts that it decides, "
            "12 points [+9, +15] more than its own evidence supports",
        ),
        (
            VOICE,
            Interval(0.2, 0.1, 0.3),
            "follows the voice: 71 % [68, 74] of the conflicts that it decides, "
            "10 points [−15, −5] less than its own evidence supports",
        ),
        (
            FACE,
            Interval(0.2, 0.1, 0.3),
            "follows the face: 70 % [60, 80] of the conflicts that it decides, "
            "10 points [+5, +15] more than its own evidence supports",
        ),
        (
            FACE,
            Interval(0.0, -0.1, 0.1),
            "follows the face: 70 % [60, 80] of the conflicts that it decides, "
            "no clear difference from what its own evidence supports [−5, +5]",
        ),
        (
            OPEN,
            Interval(-0.2, -0.3, -0.1),
            "no clear direction: the voice in 51 % [47, 55] of the conflicts that it decides, "
            "10 points [+5, +15] more than its own evidence supports",
        ),
    ],
)
def test_the_verdict_follows_both_intervals(index, beyond, sentence):
    assert verdict(with_intervals(index, beyond)) == sentence


def test_a_share_is_the_index_on_another_scale():
    rows, clips = made()
    found = directions(conflicts(rows, clips), LABELS, n_boot=50)[ALL]
    face, voice = found.shares["face"].mean, found.shares["voice"].mean
    assert share_of(found.index, "voice").mean == pytest.approx(voice / (face + voice))
    assert share_of(found.index, "face").mean == pytest.approx(face / (face + voice))
    assert share_of(found.index, "voice").low <= share_of(found.index, "voice").high


def test_it_is_a_benchmark_metric():
    rows, clips = made()
    scores = benchmark_scores(["direction"], Answers(rows=rows, labels=LABELS, clips=clips))["direction"]
    found = directions(conflicts(rows, clips), LABELS, n_boot=50)
    for part, name in ((ALL, "overall"), ("video_aligned", "video_aligned")):
        assert scores[name]["direction"] == pytest.approx(found[part].index.mean)
        assert {side: scores[name][side] for side in SIDES} == pytest.approx(
            {side: share.mean for side, share in found[part].shares.items()}
        )
    consistent = [row for row in rows if row.id not in {one.row.id for one in conflicts(rows, clips)}]
    absent = METRICS["direction"].score(Answers(rows=consistent, labels=LABELS, clips=clips))
    assert absent["overall"]["n"] == 0 and math.isnan(absent["overall"]["direction"])
    same = {name: Clip(**{**vars(clip), "modality_labels": ModalityLabels()}) for name, clip in clips.items()}
    with pytest.raises(ValueError, match="no conflicts"):
        METRICS["direction"].score(Answers(rows=rows, labels=LABELS, clips=same))


def test_the_files_say_the_same_and_keep_names_as_text(tmp_path):
    parts = directions(conflicts(*made(speakers=6)), LABELS, n_boot=200)
    write_bias(tmp_path / "out", {EVIL: parts}, clips=EVIL, clustered=True, n_boot=200)
    saved = json.loads((tmp_path / "out" / "bias.json").read_text())
    own = saved["systems"][EVIL]
    assert own["verdict"] == verdict(parts[ALL]) and own["parts"][ALL]["index"] == list(parts[ALL].index)
    assert saved["bootstrap"] == {"drawn": "speakers", "replicates": 200}
    figure = (tmp_path / "out" / "bias.svg").read_text()
    tags = {node.tag.split("}")[1] for node in ElementTree.fromstring(figure).iter()}
    assert "script" not in tags and "prefers-color-scheme: dark" in figure
    html = (tmp_path / "out" / "bias.html").read_text()
    page = Page(html)
    assert "script" not in page.tags and EVIL in page.words and verdict(parts[ALL]) in page.words
    assert figure in html


def test_runs_of_label_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="predicts sets of labels"):
        of_run(write_run(tmp_path / "run", "labels"))
