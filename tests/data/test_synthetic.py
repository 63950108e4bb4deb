"""The synthetic corpus: reproducible, balanced, and as hard as it says."""

import hashlib
import io
import itertools
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mosear.data.synthetic import (
    EMOTIONS,
    ensure_corpus,
    make_speaker,
    render_clip_arrays,
    render_face,
    render_voice,
    write_clip,
)
from mosear.data.synthetic import corpus as corpus_module
from mosear.data.synthetic.emotions import CUE_NOISE
from mosear.data.synthetic.faces import FACE_CUES
from mosear.data.synthetic.plans import GROUPS, SPEAKERS, clip_rngs, plan_clip
from mosear.data.synthetic.transcripts import (
    IDLE_CLAUSES,
    LABEL_WORDS,
    PAIR_CLAUSES,
    TEST_TEMPLATES,
    TRAIN_TEMPLATES,
    all_texts,
    compatible,
    idle_transcript,
    pair_transcript,
)
from mosear.data.synthetic.voices import VOICE_CUES

SPACES = pytest.mark.parametrize("space", [FACE_CUES, VOICE_CUES], ids=["face", "voice"])
SMALL = {"train_clips": 2, "val_clips": 2, "test_clips": 2, "workers": 1, "size": 48}
COLUMNS = [
    *("id", "video", "audio", "text", "label", "labels", "score", "modality_labels"),
    *("subset", "split", "context", "speaker", "missing", "reason", "cues"),
]
SPEAKER = make_speaker("train", 0, 0)


def group(name: str):
    return next(group for group in GROUPS if group.name == name)


def plans(name: str, count: int, seed: int = 0):
    return [plan_clip(seed, group(name), index) for index in range(count)]


def file_hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.mp4"))
    }


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory) -> Path:
    return ensure_corpus(tmp_path_factory.mktemp("synthetic"), **SMALL)


# Cue spaces


@SPACES
@pytest.mark.parametrize(("low", "high", "floor", "ceiling"), [(0.7, 1.0, 0.955, 0.985), (0.25, 0.55, 0.6, 0.7)])
def test_ideal_reader_is_as_good_as_the_noise_constant_says(space, low, high, floor, ceiling) -> None:
    rng = np.random.default_rng(0)
    draws = [(emotion, space.draw(emotion, rng.uniform(low, high), rng)) for emotion in EMOTIONS * 250]
    assert floor < np.mean([space.read(parameters) == emotion for emotion, parameters in draws]) < ceiling


@SPACES
def test_ideal_reader_is_the_likelihood_maximum(space) -> None:
    """Literal reference: the noise is Gaussian with covariance s^2 D^T D, so compare Mahalanobis distances."""
    rng = np.random.default_rng(1)
    precision = np.linalg.pinv(CUE_NOISE**2 * space.directions.T @ space.directions)
    for _ in range(100):
        parameters = space.draw(EMOTIONS[rng.integers(6)], 0.4, rng)
        gaps = [parameters - (space.centroid + 0.4 * direction) for direction in space.directions]
        nearest = int(np.argmin([gap @ precision @ gap for gap in gaps]))
        # Clipping at PARAMETER_LIMIT does not bite at this intensity, so both must agree exactly.
        assert space.read(parameters) == EMOTIONS[nearest]


@SPACES
def test_no_emotion_is_easier_than_another(space) -> None:
    rng = np.random.default_rng(2)
    rates = [np.mean([space.read(space.draw(e, 0.4, rng)) == e for _ in range(600)]) for e in EMOTIONS]
    assert max(rates) - min(rates) < 0.09  # four standard errors of a difference


@SPACES
def test_full_intensity_is_centred_on_the_prototype_and_zero_on_the_centroid(space) -> None:
    rng = np.random.default_rng(3)
    for index, emotion in enumerate(EMOTIONS):
        crisp = np.mean([space.draw(emotion, 1.0, rng) for _ in range(400)], axis=0)
        blend = np.mean([space.draw(emotion, 0.0, rng) for _ in range(400)], axis=0)
        np.testing.assert_allclose(crisp, space.prototypes[index], atol=0.12)
        np.testing.assert_allclose(blend, space.centroid, atol=0.1)


def test_bad_cues_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"Unknown emotion 'joy'; use one of neutral, angry"):
        render_face("joy", 1.0, SPEAKER, rng)
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        render_voice("happy", 1.5, SPEAKER, rng)


# Faces


def test_face_shape_and_determinism() -> None:
    first, second = (render_face("happy", 0.8, SPEAKER, np.random.default_rng(5), size=64) for _ in range(2))
    assert first.shape == (16, 64, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, render_face("happy", 0.8, SPEAKER, np.random.default_rng(6), size=64))


def test_face_is_the_same_picture_at_any_size() -> None:
    small, large = (
        render_face("sad", 1.0, SPEAKER, np.random.default_rng(7), size=size).astype(float) for size in (56, 112)
    )
    halved = large.reshape(16, 56, 2, 56, 2, 3).mean(axis=(2, 4))
    assert np.abs(small - halved).mean() < 6.0  # sensor noise and edges only


def test_emotions_look_different_at_model_resolution() -> None:
    """Mean crisp faces of two emotions differ visibly around brows, eyes and mouth at 56 x 56."""
    means = {}
    for emotion in EMOTIONS:
        clips = [render_face(emotion, 1.0, SPEAKER, np.random.default_rng(i), num_frames=2, size=56) for i in range(12)]
        means[emotion] = np.mean(clips, axis=(0, 1))[12:48, 12:44]
    for one, other in itertools.combinations(EMOTIONS, 2):
        assert np.abs(means[one] - means[other]).max() > 25.0, (one, other)


# Voices


def measure_pitch(audio: np.ndarray, rate: int = 16000) -> np.ndarray:
    """Pitch in Hz per 64 ms window by autocorrelation, voiced windows only."""
    window, pitches = 1024, []
    loud = np.sqrt(np.mean(audio**2))
    for start in range(0, len(audio) - window, window // 2):
        piece = audio[start : start + window] * np.hanning(window)
        correlation = np.correlate(piece, piece, "full")[window - 1 :]
        shortest, longest = rate // 450, rate // 70
        lag = shortest + int(correlation[shortest:longest].argmax())
        if correlation[lag] > 0.3 * correlation[0] and np.sqrt(np.mean(piece**2)) > 0.4 * loud:
            pitches.append(rate / lag)
    return np.array(pitches)


def test_measured_pitch_and_energy_follow_the_prototypes() -> None:
    names = VOICE_CUES.names
    pitch, energy = [], []
    for index, _ in enumerate(EMOTIONS):
        voices = [render_voice(EMOTIONS[index], 1.0, SPEAKER, np.random.default_rng([index, i])) for i in range(8)]
        pitch.append(np.mean([np.median(measure_pitch(voice)) for voice in voices]))
        energy.append(np.mean([20 * np.log10(np.sqrt(np.mean(voice**2))) for voice in voices]))
    true_pitch = VOICE_CUES.prototypes[:, names.index("pitch")]
    true_energy = VOICE_CUES.prototypes[:, names.index("energy")]
    assert np.corrcoef(np.log2(pitch), true_pitch)[0, 1] > 0.95
    assert np.corrcoef(energy, true_energy)[0, 1] > 0.95
    assert pitch[EMOTIONS.index("surprise")] > 1.5 * pitch[EMOTIONS.index("sad")]


def test_measured_slope_rises_for_surprise_and_falls_for_anger() -> None:
    def slope(emotion: str) -> float:
        changes = []
        for index in range(6):
            pitches = np.log2(measure_pitch(render_voice(emotion, 1.0, SPEAKER, np.random.default_rng(index))))
            changes.append(np.median(pitches[-len(pitches) // 3 :]) - np.median(pitches[: len(pitches) // 3]))
        return float(np.mean(changes))

    assert slope("surprise") > 0.1 > -0.1 > slope("angry")


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_voice_is_deterministic_and_in_range(emotion) -> None:
    first, second = (render_voice(emotion, 1.0, SPEAKER, np.random.default_rng(1)) for _ in range(2))
    assert first.shape == (32000,) and first.dtype == np.float32
    np.testing.assert_array_equal(first, second)
    assert 0.01 < np.abs(first).max() <= 1.0


def test_dropping_one_modality_leaves_the_other_alone() -> None:
    cues = ("happy", 0.9), ("sad", 0.5)
    frames, audio = render_clip_arrays(*cues, SPEAKER, np.random.default_rng(0), size=48)
    only_frames, silence = render_clip_arrays(cues[0], None, SPEAKER, np.random.default_rng(0), size=48)
    darkness, only_audio = render_clip_arrays(None, cues[1], SPEAKER, np.random.default_rng(0), size=48)
    assert silence is None and darkness is None
    np.testing.assert_array_equal(frames, only_frames)
    np.testing.assert_array_equal(audio, only_audio)


# Speakers and transcripts


def test_speakers_of_the_splits_share_nothing() -> None:
    speakers = [make_speaker(split, index, 0) for split, count in SPEAKERS.items() for index in range(count)]
    assert len({speaker.id for speaker in speakers}) == len(speakers)
    assert len({(speaker.skin, speaker.hair, speaker.pitch_hz) for speaker in speakers}) == len(speakers)
    assert make_speaker("val", 3, 0) == make_speaker("val", 3, 0) != make_speaker("val", 3, 1)
    with pytest.raises(ValueError, match="Unknown split 'dev'"):
        make_speaker("dev", 0, 0)


def test_every_pair_has_clauses_and_no_clause_serves_twice() -> None:
    assert {frozenset(pair) for pair in PAIR_CLAUSES} == set(map(frozenset, itertools.combinations(EMOTIONS, 2)))
    assert min(map(len, PAIR_CLAUSES.values())) >= 3
    clauses = [clause for group in (*PAIR_CLAUSES.values(), IDLE_CLAUSES) for clause in group]
    assert len(set(clauses)) == len(clauses)


def test_templates_of_train_and_test_are_disjoint() -> None:
    assert len(TRAIN_TEMPLATES) >= 10 and len(TEST_TEMPLATES) >= 6
    assert not set(TRAIN_TEMPLATES) & set(TEST_TEMPLATES)
    texts = set(all_texts())
    rng = np.random.default_rng(0)
    assert all(idle_transcript("val", rng) in texts for _ in range(50))
    assert not any(pair_transcript(("sad", "happy"), "test", rng) in texts for _ in range(50))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_compatible_recovers_the_pair_and_no_label_word_occurs(split) -> None:
    rng = np.random.default_rng(0)
    for pair in itertools.permutations(EMOTIONS, 2):
        text = pair_transcript(pair, split, rng)
        assert set(compatible(text)) == set(pair) and not LABEL_WORDS.search(text)
    assert compatible(idle_transcript(split, rng)) == EMOTIONS
    for template in (*TRAIN_TEMPLATES, *TEST_TEMPLATES):
        for clause in (*itertools.chain(*PAIR_CLAUSES.values()), *IDLE_CLAUSES):
            text = template.format(clause=clause)
            assert not LABEL_WORDS.search(text) and compatible(text)


@pytest.mark.parametrize(
    "word", ["neutral", "angry", "anger", "happy", "happiness", "sad", "sadly", "worried", "worry"]
)
def test_label_word_pattern_finds_derivatives(word) -> None:
    assert LABEL_WORDS.search(f"she is {word} today")


def test_bad_transcript_requests_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="two different emotions"):
        pair_transcript(("sad", "sad"), "train", rng)
    with pytest.raises(ValueError, match="no template and clause"):
        compatible("the weather is fine")


# mp4 files


@pytest.mark.parametrize(("with_video", "with_audio"), [(True, True), (True, False), (False, True)])
def test_mp4_is_bitwise_reproducible_and_decodes(with_video, with_audio, tmp_path) -> None:
    import av

    frames, audio = render_clip_arrays(
        ("happy", 0.9) if with_video else None, ("sad", 0.5) if with_audio else None, SPEAKER, np.random.default_rng(0)
    )
    buffer = io.BytesIO()
    write_clip(buffer, frames, 8, audio, 16000)
    write_clip(tmp_path / "clip.mp4", frames, 8, audio, 16000)
    assert (tmp_path / "clip.mp4").read_bytes() == buffer.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert (len(container.streams.video), len(container.streams.audio)) == (with_video, with_audio)
        if with_video:
            stream = container.streams.video[0]
            assert (stream.average_rate, stream.codec_context.name) == (8, "h264")
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
            assert np.abs(decoded.astype(float) - frames).mean() < 6.0
    if with_audio:
        with av.open(str(tmp_path / "clip.mp4")) as container:
            assert container.streams.audio[0].rate == 16000
            decoded = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])[:32000]
            assert np.corrcoef(decoded, audio)[0, 1] > 0.98


def test_mp4_bytes_do_not_depend_on_where_memory_lies() -> None:
    """x264's mbtree made them vary once in a few writes; equal heap layouts hide that, so the heap is stirred."""
    frames, audio = render_clip_arrays(("happy", 0.9), ("sad", 0.5), SPEAKER, np.random.default_rng(0))
    rng, ballast, seen = np.random.default_rng(0), [], set()
    for value in range(40):
        ballast.append(np.full(int(rng.integers(1, 30_000)), value, dtype=np.uint8))
        if rng.random() < 0.5:
            ballast.pop(int(rng.integers(len(ballast))))
        buffer = io.BytesIO()
        write_clip(buffer, frames.copy(), 8, audio.copy(), 16000)
        seen.add(buffer.getvalue())
    assert len(seen) == 1


def test_mp4_refuses_what_it_cannot_write_and_leaves_nothing(tmp_path) -> None:
    with pytest.raises(ValueError, match="both are None"):
        write_clip(tmp_path / "a.mp4", None, None, None, None)
    with pytest.raises(ValueError, match=r"even height and width, got \[33, 32\]"):
        write_clip(tmp_path / "a.mp4", np.zeros((2, 33, 32, 3), np.uint8), 8, None, None)
    with pytest.raises(ValueError, match="mono"):
        write_clip(tmp_path / "a.mp4", None, None, np.zeros((2, 100), np.float32), 16000)
    assert not list(tmp_path.iterdir())


# Plans


@pytest.mark.parametrize("name", [group.name for group in GROUPS])
def test_labels_are_balanced_and_plans_are_pure(name) -> None:
    made = plans(name, 60)
    assert set(Counter(plan.label for plan in made).values()) == {10}
    assert made == plans(name, 60)
    assert [plan.label for plan in made] == [plan.label for plan in plans(name, 60, seed=1)]
    assert made != plans(name, 60, seed=1)


@pytest.mark.parametrize("split", ["val", "test"])
def test_contextual_clips_can_only_be_told_by_the_transcript(split) -> None:
    made = plans(f"{split}_contextual", 150)
    by_face = [plan.label == plan.face[0] for plan in made]
    assert sum(by_face) == len(made) // 2
    for plan in made:
        assert plan.face[0] != plan.voice[0] and plan.face[1] == plan.voice[1] and 0.6 <= plan.face[1] <= 0.9
        assert set(compatible(plan.text)) & {plan.face[0], plan.voice[0]} == {plan.label}
    # Neither the label nor the pair of emotions tells which modality is meant.
    faces = Counter(plan.label for plan, face in zip(made, by_face, strict=True) if face)
    assert set(faces.values()) <= {12, 13}


@pytest.mark.parametrize(("subset", "true", "false"), [("video_aligned", 0, 1), ("audio_aligned", 1, 0)])
def test_aligned_conflicts_are_strong_against_weak_and_the_text_never_arbitrates(subset, true, false) -> None:
    texts = Counter()
    for plan in plans(f"test_{subset}", 300):
        cues = plan.face, plan.voice
        assert cues[true][0] == plan.label != cues[false][0]
        assert cues[true][1] >= 0.7 and 0.25 <= cues[false][1] <= 0.55
        allowed = EMOTIONS if plan.text is None else compatible(plan.text)
        assert {plan.face[0], plan.voice[0]} <= set(allowed)
        texts["none" if plan.text is None else "idle" if len(allowed) == 6 else "pair"] += 1
    assert {kind: round(count / 300, 1) for kind, count in texts.items()} == {"pair": 0.3, "idle": 0.4, "none": 0.3}


@pytest.mark.parametrize(
    ("name", "face", "voice"),
    [
        ("train_natural", (0.25, 1.0), (0.25, 1.0)),
        ("train_voice_dominant", (0.25, 0.55), (0.7, 1.0)),
        ("val_consistent", (0.25, 1.0), (0.25, 1.0)),
        ("test_consistent", (0.25, 1.0), (0.25, 1.0)),
    ],
)
def test_consistent_clips_agree_with_themselves(name, face, voice) -> None:
    made = plans(name, 120)
    for plan in made:
        assert plan.face[0] == plan.voice[0] == plan.label
        assert face[0] <= plan.face[1] <= face[1] and voice[0] <= plan.voice[1] <= voice[1]
        assert plan.text is None or plan.label in compatible(plan.text)
        assert plan.text_label in (None, plan.label)
        assert (plan.text_label is None) == (plan.text is None or compatible(plan.text) == EMOTIONS)
    assert 0.45 < np.mean([plan.text_label is not None for plan in made]) < 0.75


def test_missing_subsets_lack_exactly_their_modality() -> None:
    for subset, absent in (("video", "face"), ("audio", "voice"), ("text", "text")):
        for plan in plans(f"test_missing_{subset}", 30):
            assert plan.missing == (subset,)
            assert [name for name in ("face", "voice", "text") if getattr(plan, name) is None] == [absent]


# The corpus on disk


def test_manifests_have_the_contract_columns_and_point_to_files(small_corpus) -> None:
    import av
    import pyarrow.parquet as pq

    ids = []
    for name in ("train_natural", "train_voice_dominant", "val", "test"):
        table = pq.read_table(small_corpus / f"{name}.parquet")
        assert table.column_names == COLUMNS
        assert str(table.schema.field("score").type) == "double"
        assert [field.name for field in table.schema.field("modality_labels").type] == ["visual", "audio", "text"]
        for row in table.to_pylist():
            ids.append(row["id"])
            path = row["video"] or row["audio"]
            with av.open(str(small_corpus / path)) as container:
                tracks = {stream.type for stream in container.streams}
            assert tracks == {"video", "audio"} - set(row["missing"])
            assert (row["video"] is None) == ("video" in row["missing"])
            assert row["audio"] == (None if "audio" in row["missing"] else path if row["video"] is None else "video")
            assert row["labels"] == [row["label"]] and row["context"] == [] and row["score"] is None
            for modality, key in (("video", "visual"), ("audio", "audio"), ("text", "text")):
                assert modality not in row["missing"] or row["modality_labels"][key] is None
    intensities = pq.read_table(small_corpus / "intensities.parquet")
    assert intensities.column_names == ["id", "visual", "audio"]
    assert intensities["id"].to_pylist() == ids and len(set(ids)) == len(ids)
    record = json.loads((small_corpus / "corpus.json").read_text())
    assert record["complete"] and record["counts"]["test"] == dict.fromkeys(record["counts"]["test"], 2)
    assert sum(sum(counts.values()) for counts in record["counts"].values()) == len(ids)


def test_manifests_load_through_datasets(small_corpus) -> None:
    datasets = pytest.importorskip("datasets")
    test = datasets.Dataset.from_parquet(str(small_corpus / "test.parquet"), cache_dir=str(small_corpus / ".cache"))
    assert test.column_names == COLUMNS and set(test["split"]) == {"test"}


def test_a_clip_depends_on_nothing_but_seed_group_and_index(small_corpus, tmp_path) -> None:
    for name in ("train_natural", "test_missing_video"):
        (tmp_path / "clips" / group(name).manifest).mkdir(parents=True)
        corpus_module.render_task((str(tmp_path), 0, name, 1, SMALL["size"]))
    alone, all_hashes = file_hashes(tmp_path), file_hashes(small_corpus)
    assert len(alone) == 2 and alone.items() <= all_hashes.items()
    plan_a, rendering_a = clip_rngs(0, group("test_contextual"), 0)
    plan_b, rendering_b = clip_rngs(0, group("test_contextual"), 1)
    assert len({rng.integers(1 << 62) for rng in (plan_a, rendering_a, plan_b, rendering_b)}) == 4


def test_workers_resume_and_growth_never_change_a_clip(small_corpus, tmp_path, monkeypatch) -> None:
    before = file_hashes(small_corpus)
    root = ensure_corpus(tmp_path / "again", **{**SMALL, "workers": 2})
    assert file_hashes(root) == before

    lost = [root / path for path in list(before)[::5]]
    for path in lost:
        path.unlink()
    record = json.loads((root / "corpus.json").read_text())
    (root / "corpus.json").write_text(json.dumps({**record, "complete": False}))
    rendered = []
    original = corpus_module.render_task
    monkeypatch.setattr(corpus_module, "render_task", lambda task: (rendered.append(task), original(task)))
    ensure_corpus(root, **SMALL)
    assert len(rendered) == len(lost) and file_hashes(root) == before

    rendered.clear()
    ensure_corpus(root, **{**SMALL, "test_clips": 3})
    assert len(rendered) == 7
    grown = file_hashes(root)
    assert before.items() < grown.items() and len(grown) == len(before) + 7

    rendered.clear()
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    ensure_corpus(root, **{**SMALL, "test_clips": 3})
    assert not rendered and stamps == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def manifest_bytes(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.glob("*.parquet")}


def test_fewer_clips_only_shorten_the_manifests(small_corpus, tmp_path, monkeypatch) -> None:
    import pyarrow.parquet as pq

    root = Path(shutil.copytree(small_corpus, tmp_path / "corpus"))
    monkeypatch.setattr(corpus_module, "render_task", lambda task: pytest.fail(f"{task} was rendered"))
    files, listed = file_hashes(root), manifest_bytes(root)
    fewer = {**SMALL, "test_clips": 1, "train_clips": 1}
    ensure_corpus(root, **fewer)
    assert file_hashes(root) == files
    for name in ("train_natural", "test"):
        rows, before = (pq.read_table(folder / f"{name}.parquet").to_pylist() for folder in (root, small_corpus))
        subsets = {row["subset"] for row in before}
        assert {row["subset"] for row in rows} == subsets and len(rows) == len(subsets)
        assert all(row in before for row in rows)
    assert (root / "val.parquet").read_bytes() == listed["val.parquet"]
    record = json.loads((root / "corpus.json").read_text())
    assert record["complete"] and record["sizes"]["test_clips"] == 1 and set(record["counts"]["test"].values()) == {1}
    assert not list(root.rglob("*.tmp"))

    ensure_corpus(root, **SMALL)
    assert manifest_bytes(root) == listed and file_hashes(root) == files


def test_a_training_flavour_is_rendered_when_it_is_wanted(small_corpus, tmp_path, monkeypatch) -> None:
    whole, root = file_hashes(small_corpus), tmp_path / "corpus"
    ensure_corpus(root, **SMALL, train_flavours=["natural"])
    natural = file_hashes(root)
    assert natural == {path: own for path, own in whole.items() if "voice_dominant" not in path}
    assert not (root / "train_voice_dominant.parquet").exists()

    ensure_corpus(root, **SMALL, train_flavours=["voice_dominant"])
    assert file_hashes(root) == whole and manifest_bytes(root) == manifest_bytes(small_corpus)
    monkeypatch.setattr(corpus_module, "render_task", lambda task: pytest.fail(f"{task} was rendered"))
    for flavours in (["natural"], ["natural", "voice_dominant"]):
        ensure_corpus(root, **SMALL, train_flavours=flavours)

    record = json.loads((root / "corpus.json").read_text())
    (root / "corpus.json").write_text(json.dumps({k: v for k, v in record.items() if k != "train_flavours"}))
    ensure_corpus(root, **SMALL)  # a corpus of older versions has both
    with pytest.raises(ValueError, match="train_flavours has loud; there are natural and voice_dominant"):
        ensure_corpus(root, **SMALL, train_flavours=["loud"])


def test_validation_grows_too(small_corpus, tmp_path) -> None:
    root = Path(shutil.copytree(small_corpus, tmp_path / "corpus"))
    before = file_hashes(root)
    ensure_corpus(root, **{**SMALL, "val_clips": 4})
    counts = json.loads((root / "corpus.json").read_text())["counts"]["val"]
    assert counts["consistent"] == 4 and {n for name, n in counts.items() if name != "consistent"} == {2}
    assert before.items() < file_hashes(root).items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, r"seed 0 \(wanted 5\)"),
        ({"size": 56}, r"size 48 \(wanted 56\)"),
        ({"seed": 5, "test_clips": 1}, r"seed 0 \(wanted 5\)\. Use"),
    ],
)
def test_another_corpus_in_the_same_place_is_refused(small_corpus, change, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ensure_corpus(small_corpus, **{**SMALL, **change})
    assert "delete" in str(error.value) and str(small_corpus) in str(error.value)


def test_another_generator_is_refused(small_corpus, monkeypatch) -> None:
    monkeypatch.setattr(corpus_module, "generator_hash", lambda *_: "0123")
    with pytest.raises(ValueError, match=r"generator '[0-9a-f]{16}' \(wanted '0123'\)"):
        ensure_corpus(small_corpus, **SMALL)


@pytest.mark.parametrize("change", [{"test_clips": 0}, {"size": 47}, {"workers": 0}])
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, change) -> None:
    with pytest.raises(ValueError, match="must be"):
        ensure_corpus(tmp_path / "new", **{**SMALL, **change})
    assert not (tmp_path / "new").exists()


def test_command_line_help_is_light() -> None:
    script = (
        "import sys, runpy; sys.argv = ['synthetic', '--help']\n"
        "try: runpy.run_module('mosear.data.synthetic', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'av', 'pyarrow', 'rich'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--test-clips" in done.stdout


def test_missing_subsets_may_be_smaller(tmp_path) -> None:
    sizes = {"seed": 3, "train_clips": 1, "val_clips": 2, "test_clips": 3, "workers": 1}
    counts = json.loads((ensure_corpus(tmp_path, **sizes, missing_clips=2) / "corpus.json").read_text())["counts"][
        "test"
    ]
    assert counts["contextual"] == 3 and counts["missing_video"] == counts["missing_text"] == 2
    counts = json.loads((ensure_corpus(tmp_path, **sizes) / "corpus.json").read_text())["counts"]["test"]
    assert set(counts.values()) == {3}


def test_missing_subsets_are_never_larger(tmp_path) -> None:
    sizes = {"seed": 3, "train_clips": 1, "val_clips": 2, "test_clips": 1, "workers": 1, "train_flavours": ["natural"]}
    counts = json.loads((ensure_corpus(tmp_path, **sizes, missing_clips=100) / "corpus.json").read_text())["counts"]
    assert set(counts["test"].values()) == {1}
