"""The corpora of label sets and of moving expressions: what their plans say is what their manifests and clips hold."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mosear.data.manifest import load_manifest
from mosear.data.synthetic import EMOTIONS, ensure_corpus, flavour
from mosear.data.synthetic.blends import BLENDS, LABELS, ensure_blends, plan_blend
from mosear.data.synthetic.circumplex import COORDINATES
from mosear.data.synthetic.contact_sheet import blends_sheet, continuous_sheet
from mosear.data.synthetic.continuous import (
    CONTINUOUS,
    Course,
    ensure_continuous,
    plan_continuous,
    render_continuous,
)
from mosear.data.synthetic.emotions import CUE_NOISE
from mosear.data.synthetic.expressions import draw_parameters, weights_of
from mosear.data.synthetic.faces import FACE_CUES
from mosear.data.synthetic.plans import GROUPS, clip_rngs
from mosear.data.synthetic.transcripts import compatible
from mosear.data.synthetic.voices import VOICE_CUES
from mosear.fusion.tasks.labels import LabelSetTask
from mosear.fusion.tasks.series import SeriesTask

ROOT = Path(__file__).parents[2]
SMALL = {"train_clips": 5, "val_clips": 3, "test_clips": 2, "workers": 1, "size": 32}
ENSURE = {"blends": ensure_blends, "continuous": ensure_continuous}
BOTH = pytest.mark.parametrize("own", [BLENDS, CONTINUOUS], ids=lambda own: own.name)


def plans(own, name: str, count: int, seed: int = 0) -> list:
    group = next(group for group in own.groups if group.name == f"{own.name}_{name}")
    return [own.plan(seed, group, index) for index in range(count)]


def file_hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.mp4"))
    }


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("flavours")
    return {name: ensure(root / name, **SMALL) for name, ensure in ENSURE.items()}


# Plans


@BOTH
def test_plans_are_pure_and_no_stream_is_that_of_another_group(own) -> None:
    for group in own.groups:
        made = [own.plan(0, group, index) for index in range(20)]
        assert made == [own.plan(0, group, index) for index in range(20)]
        assert made != [own.plan(1, group, index) for index in range(20)]
    names = [group.name for group in (*BLENDS.groups, *CONTINUOUS.groups, *GROUPS)]
    assert len(set(names)) == len(names)


@BOTH
def test_speakers_of_the_splits_are_disjoint(own) -> None:
    speakers: dict[str, set[str]] = {}
    for group in own.groups:
        speakers.setdefault(group.split, set()).update(own.plan(0, group, i).speaker.id for i in range(200))
    assert {split: {name.split("-")[0] for name in names} for split, names in speakers.items()} == {
        "train": {"train"}, "val": {"val"}, "test": {"test"},
    }  # fmt: skip


@BOTH
def test_a_transcript_hints_at_one_emotion_that_is_there_and_one_that_is_not(own) -> None:
    kinds = Counter()
    for plan in plans(own, "train", 300):
        shown = {e for e, _ in plan.face} if own is BLENDS else {plan.course.start, plan.course.end}
        fitting = () if plan.text is None else compatible(plan.text)
        kinds["none" if plan.text is None else "idle" if len(fitting) == 6 else "pair"] += 1
        if len(fitting) == 2:
            assert len(set(fitting) & shown) == 1 and plan.text_label in shown
        else:
            assert plan.text_label is None
    assert {kind: round(count / 300, 1) for kind, count in kinds.items()} == {"pair": 0.6, "idle": 0.2, "none": 0.2}


def test_sets_of_labels_are_what_face_and_voice_show() -> None:
    made = plans(BLENDS, "train", 100)
    assert Counter(plan.kind for plan in made) == {"single": 40, "blend": 40, "none": 20}
    assert set(Counter(plan.labels for plan in made if plan.kind == "single").values()) == {8}
    assert Counter(plan.labels for plan in made if plan.kind == "blend") == dict.fromkeys(
        [(a, b) for at, a in enumerate(LABELS) for b in LABELS[at + 1 :]], 4
    )
    for plan in made:
        assert [e for e, _ in plan.face] == [e for e, _ in plan.voice]
        assert 0.8 <= sum(w for _, w in plan.face) <= 1.0 and 0.8 <= sum(w for _, w in plan.voice) <= 1.0
        assert plan.label == max(plan.face, key=lambda one: one[1])[0]
        if plan.kind == "blend":
            share = min(w for _, w in plan.face) / sum(w for _, w in plan.face)
            assert 0.35 <= share <= 0.5 and set(plan.labels) == {e for e, _ in plan.face}
        else:
            assert len(plan.face) == 1
            assert plan.labels == (() if plan.kind == "none" else (plan.label,))
            assert (plan.label == "neutral") == (plan.kind == "none")


def test_split_clips_show_one_emotion_each_and_hold_both() -> None:
    made = plans(BLENDS, "test_split_over_modalities", 40)
    assert set(Counter((plan.face[0][0], plan.voice[0][0]) for plan in made).values()) == {2}
    for plan in made:
        ((seen, face_weight),), ((heard, voice_weight),) = plan.face, plan.voice
        assert seen != heard and set(plan.labels) == {seen, heard} and "neutral" not in plan.labels
        assert plan.label == (seen if face_weight > voice_weight else heard)


def literal_places(course: Course, step: int) -> list[float]:
    """Valence and arousal in the middle of a step, by the formula in the module's text."""
    t = (step + 0.5) / 5
    x = min(max((t - course.move_at) / course.move_seconds, 0.0), 1.0)
    s = 3 * x**2 - 2 * x**3
    strength = course.strength + course.swing * math.sin(2 * math.pi * course.swing_hz * t + course.swing_phase)
    strength = min(max(strength, 0.0), 1.0)
    (v0, a0), (v1, a1) = COORDINATES[course.start], COORDINATES[course.end]
    return [strength * ((1 - s) * v0 + s * v1), strength * ((1 - s) * a0 + s * a1)]


def test_a_series_is_the_path_and_the_label_is_next_to_its_mean() -> None:
    made = plans(CONTINUOUS, "train", 90)
    assert Counter(plan.kind for plan in made) == {"moving": 60, "still": 30}
    moves = Counter((plan.course.start, plan.course.end) for plan in made if plan.kind == "moving")
    assert set(moves.values()) == {2} and len(moves) == 30
    gaps = 0
    for plan in made:
        values = plan.series
        assert values.shape == (10, 2)
        known = ~np.isnan(values[:, 0])
        gaps += not known.all()
        assert known.sum() >= 6 and (np.isnan(values[:, 1]) == ~known).all()
        expected = [literal_places(plan.course, step) for step in range(10)]
        np.testing.assert_allclose(values[known], np.array(expected)[known], atol=6e-5)
        mean = values[known].mean(axis=0)
        distances = {name: np.hypot(*(mean - place)) for name, place in COORDINATES.items()}
        assert plan.label == min(distances, key=distances.get)
        if plan.kind == "still":
            assert plan.course.start == plan.course.end and np.ptp(values[known], axis=0).max() == 0.0
    assert 0.03 < gaps / len(made) < 0.2


def test_weights_over_time_sum_to_one() -> None:
    for plan in plans(CONTINUOUS, "test_moving", 60):
        weights = plan.course.weights(np.linspace(0.0, 2.0, 50))
        assert weights.min() >= 0.0
        np.testing.assert_allclose(weights.sum(axis=1), 1.0)
        assert np.abs(np.diff(weights, axis=0)).max() < 0.15  # smooth: a move takes 15 of the 50 moments or more


# What can be told from the clips


def read(space, parameters: np.ndarray) -> np.ndarray:
    """Weights and noise up to a constant, by least squares."""
    z, *_ = np.linalg.lstsq(space.directions.T, (parameters - space.centroid).T, rcond=None)
    return z.T - z.T.mean(axis=-1, keepdims=True)


def readings(own, group, index: int, weights) -> list[np.ndarray]:
    """What a reader of the parameters finds in face and voice of a clip."""
    rngs = clip_rngs(0, group, index)[1].spawn(2)
    spaces = (FACE_CUES, VOICE_CUES)
    return [read(s, draw_parameters(s, w, rng)) for s, w, rng in zip(spaces, weights, rngs, strict=True)]


def set_templates(count: int = 60) -> dict[tuple[str, ...], np.ndarray]:
    """Samples [N, 2, 6] of what face and voice of clips with a set show without noise, centred."""
    found: dict[tuple[str, ...], list] = {}
    for plan in plans(BLENDS, "train", 25 * count):
        shown = np.stack([weights_of(plan.face), weights_of(plan.voice)])
        found.setdefault(plan.labels, []).append(shown - shown.mean(axis=1, keepdims=True))
    return {labels: np.array(samples) for labels, samples in found.items()}


def test_an_ideal_observer_of_sets_needs_both_modalities() -> None:
    """The best answer to the parameters, given how training clips are made: the figures of docs/synthetic.md."""
    templates = set_templates()
    hits: dict[str, dict[str, float]] = {}
    for group in BLENDS.groups[2:]:
        right = dict.fromkeys(("both", "face", "voice"), 0)
        for index in range(200):
            plan = plan_blend(0, group, index)
            z = np.concatenate(
                readings(BLENDS, group, index, [weights_of(plan.face)[None], weights_of(plan.voice)[None]])
            )
            for name, used in (("both", [0, 1]), ("face", [0]), ("voice", [1])):
                log_p = {
                    labels: np.logaddexp.reduce(-((z[used] - own[:, used]) ** 2).sum(axis=(1, 2)) / (2 * CUE_NOISE**2))
                    for labels, own in templates.items()
                }  # as many samples as clips: shares of training are in the sums
                right[name] += max(log_p, key=log_p.get) == plan.labels
        hits[group.subset] = {name: count / 200 for name, count in right.items()}
    assert 0.86 < hits["single"]["both"] < 0.97 and 0.70 < hits["blend"]["both"] < 0.84
    assert hits["none"]["both"] > 0.97 and 0.75 < hits["split_over_modalities"]["both"] < 0.90
    assert hits["blend"]["face"] < 0.6 and hits["blend"]["voice"] < 0.6
    assert hits["split_over_modalities"]["face"] < 0.12 and hits["split_over_modalities"]["voice"] < 0.12


def test_an_ideal_reader_follows_the_path_better_with_both_modalities() -> None:
    from mosear.evaluation.metrics import ccc

    truth, found = [], {"both": [], "face": [], "voice": []}
    group = CONTINUOUS.groups[2]
    moments, places = (np.arange(10) + 0.5) / 5, np.array([COORDINATES[e] for e in EMOTIONS])
    for index in range(200):
        plan = plan_continuous(0, group, index)
        weights = plan.course.weights(moments)
        face, voice = readings(CONTINUOUS, group, index, [weights, weights])
        truth.append(plan.course.places(moments))
        for name, z in (("both", (face + voice) / 2), ("face", face), ("voice", voice)):
            found[name].append((z + 1 / 6) @ places)
    true = np.concatenate(truth)
    scores = {
        name: np.mean([ccc(true[:, d], np.concatenate(own)[:, d], ignore=None) for d in (0, 1)])
        for name, own in found.items()
    }
    assert 0.84 < scores["both"] < 0.91 and max(scores["face"], scores["voice"]) < 0.82


# On disk


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_manifests_say_what_the_plans_say_and_suit_their_task(corpora, name) -> None:
    levels = OmegaConf.load(ROOT / "conf" / "task" / "series.yaml").levels
    tasks = {
        "blends": LabelSetTask(LABELS),
        "continuous": SeriesTask(list(EMOTIONS), levels=OmegaConf.to_object(levels)),
    }
    for own in (BLENDS, CONTINUOUS):
        manifest, task = load_manifest(corpora[own.name] / f"{name}.parquet"), tasks[own.name]
        assert manifest.check_files() == []
        planned = {
            (plan := own.plan(0, group, index)).id: plan
            for group in own.groups
            if group.manifest == name
            for index in range(SMALL[f"{group.split}_clips"])
        }
        assert [clip.id for clip in manifest] == list(planned)
        for clip in manifest:
            plan = planned[clip.id]
            assert task.problem(clip) is None
            assert (clip.video, clip.audio, clip.text) == (plan.path, "video", plan.text)
            assert (clip.label, clip.subset, clip.split, clip.speaker) == (plan.label, plan.kind, name, plan.speaker.id)
            if own is BLENDS:
                assert clip.labels == plan.labels and clip.series is None and task.labels_of(clip) == list(plan.labels)
                assert clip.modality_labels.conflict == (plan.kind == "split_over_modalities")
            else:
                assert clip.annotations.rate == 5.0 and clip.labels == ()
                np.testing.assert_array_equal(clip.annotations.values, plan.series)
                assert task.nearest(clip.annotations.values) == clip.label


def test_coordinates_are_those_of_the_task() -> None:
    levels = OmegaConf.load(ROOT / "conf" / "task" / "series.yaml").levels
    assert {name: tuple(own) for name, own in levels.items()} == dict(COORDINATES)


@pytest.mark.slow
@BOTH
def test_workers_resume_and_growth_never_change_a_clip(own, corpora, tmp_path, monkeypatch) -> None:
    before, ensure = file_hashes(corpora[own.name]), ENSURE[own.name]
    assert file_hashes(ensure(tmp_path / "again", **{**SMALL, "workers": 2})) == before
    root = tmp_path / "again"
    lost = [root / path for path in list(before)[::5]]
    for path in lost:
        path.unlink()
    record = json.loads((root / "corpus.json").read_text())
    (root / "corpus.json").write_text(json.dumps({**record, "complete": False}))
    ensure(root, **SMALL)
    assert file_hashes(root) == before
    grown = file_hashes(ensure(root, **{**SMALL, "train_clips": 6}))
    assert before.items() < grown.items() and len(grown) == len(before) + 1


@BOTH
def test_what_is_there_is_not_rendered_again(own, corpora, tmp_path, monkeypatch) -> None:
    root = Path(shutil.copytree(corpora[own.name], tmp_path / "corpus"))
    monkeypatch.setattr(flavour, "render_clip", partial(pytest.fail, "a clip was rendered"))
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    ENSURE[own.name](root, **SMALL)
    assert stamps == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    ENSURE[own.name](root, **{**SMALL, "test_clips": 1})
    assert Counter(clip.subset for clip in load_manifest(root / "test.parquet")) == dict.fromkeys(
        [group.subset for group in own.groups[2:]], 1
    )
    assert not list(root.rglob("*.tmp"))


@BOTH
def test_another_corpus_in_the_same_place_is_refused(own, corpora) -> None:
    other = ENSURE["continuous" if own is BLENDS else "blends"]
    with pytest.raises(ValueError, match=f"another flavour '{own.name}'"):
        other(corpora[own.name], **SMALL)
    with pytest.raises(ValueError, match=r"seed 0 \(wanted 5\)"):
        ENSURE[own.name](corpora[own.name], **{**SMALL, "seed": 5})
    with pytest.raises(ValueError, match="made with another generator"):
        ensure_corpus(corpora[own.name], train_clips=1, val_clips=2, test_clips=1, workers=1, size=32)


@pytest.mark.parametrize("change", [{"test_clips": 0}, {"size": 47}, {"workers": 0}])
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, change) -> None:
    with pytest.raises(ValueError, match="must be"):
        ensure_blends(tmp_path / "new", **{**SMALL, **change})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["synthetic_blends", "synthetic_continuous"])
def test_configs_render_into_folders_of_their_own_and_debug_renders_few(name) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        chosen = [f"data={name}", f"benchmark={name}", "run_dir=/tmp/run"]
        usual, fast = compose("train", overrides=chosen), compose("train", overrides=[*chosen, "debug=fast"])
    assert usual.data.train == f"data/{name}/train.parquet" and usual.data.test == f"data/{name}/test.parquet"
    for cfg in (usual, fast):
        assert cfg.data.prepare.root == f"{cfg.data_dir}/{name}" == str(Path(cfg.data.test).parent)
    sizes = ("train_clips", "val_clips", "test_clips")
    assert [usual.data.prepare[key] for key in sizes] == [1200, 300, 300]
    assert [fast.data.prepare[key] for key in sizes] == [12, 6, 1]


def test_contact_sheets_show_blends_and_moving_clips() -> None:
    blends, moving = blends_sheet(size=32), continuous_sheet(size=32)
    assert blends.rows == blends.columns == LABELS and len(blends.faces) == 25
    first = (
        moving.faces[0, 0],
        render_continuous(plan := plans(CONTINUOUS, "test_moving", 1)[0], rng_of(plan, 0), 32)[0][0],
    )
    np.testing.assert_array_equal(*first)
    assert moving.rows[0] == f"{plan.course.start}\nto {plan.course.end}"
    for sheet in (blends, moving):
        assert sheet.picture().shape[0] == 18 + len(sheet.rows) * 36


def rng_of(plan, index: int) -> np.random.Generator:
    return clip_rngs(0, plan.group, index)[1]
