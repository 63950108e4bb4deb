"""Reference reasons of the synthetic corpus: decided by what is drawn, complete, and silent about the label."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mosear.data.clip import Clip, reason_text
from mosear.data.manifest import load_manifest
from mosear.data.synthetic import EMOTIONS, ensure_corpus, faces, folder, render_clip_arrays, voices
from mosear.data.synthetic import corpus as corpus_module
from mosear.data.synthetic.ood import OOD
from mosear.data.synthetic.plans import GROUPS, clip_rngs, plan_clip
from mosear.data.synthetic.reasons import (
    MOST_PHRASES,
    VOCABULARY,
    clip_cues,
    face_cues,
    phrase_f1,
    read_reason,
    voice_cues,
    word_cues,
)
from mosear.data.synthetic.transcripts import LABEL_WORDS, TEST_TEMPLATES, TRAIN_TEMPLATES
from mosear.methods.conflict_mixing.pairs import recombined_clip
from tests.helpers.drawn import drawn_parameters

SMALL = {"train_clips": 2, "val_clips": 2, "test_clips": 2, "workers": 1, "size": 48}
CALM_FACE = dict.fromkeys(faces.FACE_CUES.names, 0.0)
EVEN_VOICE = dict.fromkeys(voices.VOICE_CUES.names, 0.0)


def literal_face(p: dict[str, float]) -> list[tuple[float, str]]:
    """The thresholds once more, written out."""
    return [
        (-p["brow_angle"] - 0.5, "brows knitted"),
        (p["brow_angle"] - 0.6, "brows slanted"),
        (-p["brow_height"] - 0.5, "brows lowered"),
        (p["brow_height"] - 0.6, "brows raised"),
        (p["mouth_curve"] - 0.5, "mouth smiling"),
        (-p["mouth_curve"] - 0.6, "mouth downturned"),
        (p["mouth_open"] - 0.5, "mouth open"),
        (-p["mouth_open"] - 0.6, "mouth pressed"),
        (p["eye_open"] - 0.6, "lids wide"),
        (-p["eye_open"] - 0.5, "lids lowered"),
        (p["nod"] - 0.3, "head nodding"),
        (p["shake"] - 0.4, "head shaking"),
        (p["droop"] - 0.5, "head drooping"),
        (-p["droop"] - 0.6, "head lifted"),
        (-max(p["nod"], p["shake"]) - 0.8, "head still"),
    ]


def literal_voice(p: dict[str, float]) -> list[tuple[float, str]]:
    return [
        (p["pitch"] - 0.5, "voice high"),
        (-p["pitch"] - 0.45, "voice deep"),
        (p["slope"] - 0.45, "voice rising"),
        (-p["slope"] - 0.45, "voice falling"),
        (p["energy"] - 0.45, "voice loud"),
        (-p["energy"] - 0.45, "voice soft"),
        (p["syllable_rate"] - 0.5, "voice fast"),
        (-p["syllable_rate"] - 0.55, "voice slow"),
        (p["vibrato_depth"] - 0.4, "voice trembling"),
        (-p["vibrato_depth"] - 0.65, "voice steady"),
    ]


def three_most_marked(margins: list[tuple[float, str]]) -> set[str]:
    return {phrase for margin, phrase in sorted(margins, reverse=True)[:3] if margin >= 0}


@pytest.mark.parametrize(
    ("space", "cues", "literal", "calm"),
    [
        (faces.FACE_CUES, face_cues, literal_face, "face calm"),
        (voices.VOICE_CUES, voice_cues, literal_voice, "voice even"),
    ],
    ids=["face", "voice"],
)
def test_thresholds_decide_the_phrases(space, cues, literal, calm) -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        parameters = dict(zip(space.names, rng.normal(0.0, 0.6, len(space.names)).tolist(), strict=True))
        expected = three_most_marked(literal(parameters)) or {calm}
        found = cues(parameters)
        assert set(found) == expected and len(found) == len(expected)


@pytest.mark.parametrize(
    ("parameters", "phrases"),
    [
        ({}, ["face calm"]),
        ({"brow_height": 0.59, "mouth_curve": -0.59, "droop": 0.49}, ["face calm"]),  # each below its threshold
        ({"brow_height": 0.6}, ["brows raised"]),
        ({"nod": -0.9}, ["face calm"]),  # it is still only if it does not shake either
        ({"nod": -0.9, "shake": -0.8}, ["head still"]),
        (
            {"brow_angle": -0.9, "brow_height": -0.55, "mouth_open": 0.8, "shake": 1.0},
            ["brows knitted", "mouth open", "head shaking"],  # four are marked: the least marked one is left out
        ),
    ],
)
def test_weak_cues_are_not_named(parameters, phrases) -> None:
    assert face_cues({**CALM_FACE, **parameters}) == phrases


def test_a_weak_voice_is_even() -> None:
    assert voice_cues({**EVEN_VOICE, "energy": 0.44, "slope": -0.44}) == ["voice even"]
    assert voice_cues({**EVEN_VOICE, "energy": 0.45, "slope": -0.45}) == ["voice falling", "voice loud"]


def test_words_are_described_by_what_they_fit() -> None:
    assert word_cues("they sold our house without asking.") == ["words cross", "words gloomy"]  # angry, sad
    assert word_cues("the keys are on the table.") == ["words plain"]


def all_cues(count: int) -> list[dict[str, list[str]]]:
    return [clip_cues(0, plan_clip(0, group, i), i) for group in (*GROUPS, OOD) for i in range(count)]


def test_every_phrase_is_said_and_no_other() -> None:
    cues = all_cues(60)
    for modality, phrases in VOCABULARY.items():
        assert {phrase for own in cues for phrase in own[modality]} == set(phrases)
        assert all(len(own[modality]) <= MOST_PHRASES for own in cues)


def test_reasons_never_name_a_label() -> None:
    spoken = " ".join(phrase for phrases in VOCABULARY.values() for phrase in phrases)
    assert not LABEL_WORDS.search(spoken)
    assert not set(spoken.split()) & set(EMOTIONS)


def test_phrases_are_those_of_the_pixels_and_samples(monkeypatch) -> None:
    """What a reason is made from is what the renderer drew: nothing is drawn twice."""
    drawn = drawn_parameters(monkeypatch)
    group = next(group for group in GROUPS if group.name == "test_video_aligned")
    for index in range(12):
        plan, (_, rng) = plan_clip(0, group, index), clip_rngs(0, group, index)
        render_clip_arrays(plan.face, plan.voice, plan.speaker, rng, size=32)
        cues = clip_cues(0, plan, index)
        assert cues["video"] == face_cues(drawn["face"]) and cues["audio"] == voice_cues(drawn["voice"])


def test_a_missing_modality_has_no_cues() -> None:
    for group in GROUPS:
        cues = clip_cues(0, plan_clip(0, group, 3), 3)
        missing = group.subset.removeprefix("missing_")
        assert missing not in cues or cues[missing] == []
        assert cues["video"] or missing == "video"
        assert cues["audio"] or missing == "audio"


def test_what_is_written_is_read_back() -> None:
    for cues in all_cues(20):
        assert read_reason(reason_text(cues)) == cues
    assert read_reason("mouth open, mouth open, mouth huge; happy; voice loud") == {
        "video": ["mouth open"],
        "audio": ["voice loud"],
        "text": [],
    }


def test_phrase_f1_counts_phrases() -> None:
    reference = {"video": ["mouth open", "lids wide"], "audio": ["voice loud"], "text": []}
    scores = phrase_f1(["mouth open, head still; voice soft"], [reference])
    assert scores == {"video": 0.5, "audio": 0.0, "text": 1.0}


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory) -> Path:
    return ensure_corpus(tmp_path_factory.mktemp("synthetic"), **SMALL, ood_clips=3)


def test_reason_and_cues_of_a_manifest_agree(small_corpus) -> None:
    for path in small_corpus.glob("t*.parquet"):
        for clip in load_manifest(path):
            assert clip.reason and reason_text(clip.cue_phrases) == clip.reason
            assert clip.cue_phrases["text"] or clip.text is None


def as_before(root: Path) -> None:
    """Turns a corpus into one of an earlier version, whose manifests have no reasons."""
    for path in (*root.glob("t*.parquet"), root / "val.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["reason", "cues"]), path)
    record = json.loads((root / "corpus.json").read_text())
    del record["reasons"]
    (root / "corpus.json").write_text(json.dumps(record))


def test_an_earlier_corpus_gets_reasons_and_keeps_its_clips(small_corpus, tmp_path, monkeypatch) -> None:
    root = Path(shutil.copytree(small_corpus, tmp_path / "corpus"))
    as_before(root)
    assert load_manifest(root / "test.parquet")[0].reason is None  # still a manifest
    monkeypatch.setattr(corpus_module, "render_task", lambda task: pytest.fail(f"{task} was rendered"))
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")}
    next(iter(stamps)).unlink()  # a folder with manifests alone is served as before
    ensure_corpus(root, **SMALL, ood_clips=3)
    for name in ("train_natural", "val", "test"):
        assert (root / f"{name}.parquet").read_bytes() == (small_corpus / f"{name}.parquet").read_bytes()
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path.exists())


def test_an_earlier_corpus_that_cannot_be_written_is_used_as_it_is(small_corpus, tmp_path, monkeypatch) -> None:
    root = Path(shutil.copytree(small_corpus, tmp_path / "corpus"))
    as_before(root)
    before = (root / "test.parquet").read_bytes()

    def refuse(path, write):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder, "_write_atomically", refuse)
    with pytest.warns(UserWarning, match="have no reference reasons, and cannot be written"):
        assert ensure_corpus(root, **SMALL, ood_clips=3) == root
    assert (root / "test.parquet").read_bytes() == before


def test_clips_of_earlier_versions_stay_valid() -> None:
    """The code that makes clips is what it was: a corpus rendered before is not refused."""
    assert corpus_module.generator_hash() == "e2b1335a38c143fd"


def test_a_recombined_clip_has_the_cues_of_its_parts() -> None:
    own = [clip_cues(0, plan_clip(0, GROUPS[0], index), index) for index in (0, 1)]
    face, voice = (
        Clip(id=str(i), video=f"{i}.mp4", audio="video", text=f"words {i}", cues=json.dumps(cues))
        for i, cues in enumerate(own)
    )
    mixed = recombined_clip(face, voice, voice.text)
    assert mixed.cue_phrases == {"video": own[0]["video"], "audio": own[1]["audio"], "text": own[1]["text"]}
    assert mixed.reason == reason_text(mixed.cue_phrases)
    assert recombined_clip(face, voice, "words of a third clip").cue_phrases["text"] == []
    bare = recombined_clip(Clip(id="a", video="a.mp4"), Clip(id="b", audio="b.wav"), None)
    assert bare.cues is None and bare.reason is None


# The subset in another style


def test_ood_is_listed_only_when_asked_for(small_corpus, tmp_path, monkeypatch) -> None:
    root = Path(shutil.copytree(small_corpus, tmp_path / "corpus"))
    rows = pq.read_table(root / "test.parquet").to_pylist()
    ood = [row for row in rows if row["subset"] == "ood"]
    assert len(ood) == 3 and all((root / row["video"]).is_file() for row in ood)
    monkeypatch.setattr(corpus_module, "render_task", lambda task: pytest.fail(f"{task} was rendered"))
    ensure_corpus(root, **SMALL)
    assert pq.read_table(root / "test.parquet").to_pylist() == [row for row in rows if row["subset"] != "ood"]
    ensure_corpus(root, **SMALL, ood_clips=3)  # its clips are still there
    assert pq.read_table(root / "test.parquet").to_pylist() == rows


def test_ood_of_another_generator_is_refused(small_corpus, tmp_path) -> None:
    root = Path(shutil.copytree(small_corpus, tmp_path / "corpus"))
    record = json.loads((root / "corpus.json").read_text())
    (root / "corpus.json").write_text(json.dumps({**record, "ood_generator": "0" * 16}))
    ensure_corpus(root, **SMALL)
    with pytest.raises(ValueError, match="made with another ood_generator '0000000000000000'"):
        ensure_corpus(root, **SMALL, ood_clips=3)


def test_ood_counts_are_checked(tmp_path) -> None:
    with pytest.raises(ValueError, match="ood_clips must be at least 0, got -1"):
        ensure_corpus(tmp_path, **SMALL, ood_clips=-1)


def test_transcripts_templates_are_known_to_reasons() -> None:
    for template in (*TRAIN_TEMPLATES, *TEST_TEMPLATES):
        assert word_cues(template.format(clause="it is ten past four")) == ["words plain"]
