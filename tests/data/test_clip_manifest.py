import hashlib
import json
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mosear.data import manifest as manifest_module
from mosear.data.clip import COLUMNS, Clip, ModalityLabels, reason_text
from mosear.data.columns import sound_table
from mosear.data.manifest import SCHEMA, Manifest, ManifestError, load_manifest, write_manifest
from mosear.data.series import series_text

FULL = Clip(
    id="0007",
    video="v/0007.mp4",
    audio="video",
    text="Wie schön.",
    label="happy",
    labels=("happy", "surprise"),
    score=0.5,
    modality_labels=ModalityLabels(visual="sad", audio="happy"),
    subset="audio_aligned",
    split="test",
    context=("Hallo.", "你好"),
    speaker="s1",
    reason="brows raised; voice high, voice fast",
    cues='{"video": ["brows raised"], "audio": ["voice high", "voice fast"]}',
    series='{"rate": 5.0, "valence": [0.1, null, -1], "arousal": [0.3, null, 1]}',
)
SPARSE = Clip(id="b", text="only text", split="train", missing=("video", "audio"))
CLIPS = [FULL, SPARSE, Clip(id="c", audio="a/c.wav", label="angry"), Clip(id="d", video="v/d.mp4", label="happy")]


def series_of(**values) -> str:
    return json.dumps({"rate": 5.0, "valence": [0.1], "arousal": [0.2], **values})


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def problems_of(path: Path, **options) -> str:
    with pytest.raises(ManifestError) as caught:
        load_manifest(path, **options)
    assert str(path) in str(caught.value) and isinstance(caught.value, ValueError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return str(caught.value)


def test_columns_are_the_contract():
    assert " ".join(COLUMNS) == (
        "id video audio text label labels score modality_labels subset split context speaker missing reason cues series"
    )
    assert tuple(FULL.to_row()) == COLUMNS


def test_cues_are_phrases_by_modality():
    assert FULL.cue_phrases == {"video": ["brows raised"], "audio": ["voice high", "voice fast"], "text": []}
    assert SPARSE.cue_phrases == {"video": [], "audio": [], "text": []}
    assert reason_text(FULL.cue_phrases) == FULL.reason


def test_a_series_is_valence_and_arousal_over_time():
    rate, values = FULL.annotations
    assert rate == 5.0 and values.dtype == np.float64
    np.testing.assert_array_equal(values, [[0.1, 0.3], [np.nan, np.nan], [-1, 1]])
    assert json.loads(series_text(rate, values)) == json.loads(FULL.series)
    assert SPARSE.annotations is None
    with pytest.raises(ValueError, match=r"valence of a series is null or a number in -1\.\.1, got 1\.5 at step 0"):
        series_text(5, [[1.5, None]])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_bad_series_of_a_manifest_are_named(tmp_path, suffix):
    rows = [{**clip.to_row(), "series": '{"rate": 5}' if clip is SPARSE else clip.series} for clip in CLIPS]
    path = tmp_path / f"m{suffix}"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path) if suffix == ".parquet" else write_rows(path, rows)
    assert " 2: series must be a JSON object such as" in problems_of(path)


def test_bad_cues_of_a_manifest_are_named(tmp_path):
    rows = [{**clip.to_row(), "cues": '{"video": 1}' if clip is SPARSE else clip.cues} for clip in CLIPS]
    path = tmp_path / "m.parquet"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    assert "row 2: cues must be a JSON object" in problems_of(path)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.id)
def test_row_round_trip(clip):
    assert Clip.from_row(clip.to_row()) == clip
    assert Clip.from_row(json.loads(json.dumps(clip.to_row()))) == clip
    assert hash(clip) == hash(replace(clip))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"id": ""}, "id must be a non-empty string"),
        ({"id": 7}, "id must be a non-empty string, got 7"),
        ({"video": None}, 'audio is "video"'),
        ({"video": ""}, "use null"),
        ({"missing": ("face",)}, "missing names 'face'; it may hold video, audio, text"),
        ({"missing": ("text",)}, "missing lists 'text' but text is set"),
        ({"missing": ("video",)}, "put its path in audio"),
        ({"video": None, "audio": None, "text": None}, "no modality"),
        ({"video": None, "audio": None, "text": "  "}, "no modality"),
        ({"score": float("nan")}, "score must be a finite number"),
        ({"reason": 3}, "reason must be a string or null, got 3"),
        ({"cues": "brows raised"}, "cues must be a JSON object of phrases by modality"),
        ({"cues": '{"face": []}'}, "lists of phrases under video, audio, text"),
        ({"cues": '{"video": "brows raised"}'}, "lists of phrases under video, audio, text"),
        ({"cues": '{"video": [1]}'}, "lists of phrases under video, audio, text"),
        ({"series": 3}, "series must be a string or null, got 3"),
        ({"series": "0.5"}, "series must be a JSON object"),
        ({"series": "["}, "series must be a JSON object"),
        ({"series": '{"rate": 5, "valence": [0.1]}'}, "with exactly these keys"),
        ({"series": series_of(rate=0)}, "above 0, got 0"),
        ({"series": series_of(rate="5")}, "above 0, got '5'"),
        ({"series": series_of(rate=float("inf"))}, "above 0, got inf"),
        ({"series": series_of(valence=0.1)}, "valence and arousal are lists"),
        ({"series": series_of(valence=[0.1, 0.2])}, "one value per step each, got 2 and 1"),
        ({"series": series_of(valence=[], arousal=[])}, "one value per step each, got 0 and 0"),
        ({"series": series_of(valence=[-5])}, "valence of a series is null or a number in -1..1, got -5 at step 0"),
        ({"series": series_of(arousal=[float("nan")])}, "arousal of a series is null or a number"),
        ({"series": series_of(arousal=[True])}, "arousal of a series is null or a number"),
        ({"label": 3}, "label must be a string or null, got 3"),
        ({"labels": "happy"}, "labels must be a list of strings"),
        ({"context": (1,)}, "context must be a list of strings"),
        ({"split": None}, "split must be a non-empty string"),
        ({"modality_labels": {"visual": "sad"}}, "modality_labels"),
    ],
)
def test_bad_clips(values, message):
    with pytest.raises(ValueError, match=message):
        replace(FULL, **values)
    with pytest.raises(ValueError, match="modality_labels" if "modality_labels" in values else message):
        Clip.from_row(FULL.to_row() | values)


def test_present():
    assert FULL.present == ("video", "audio", "text") and SPARSE.present == ("text",)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("mapped", [False, True])
def test_write_load_round_trip(tmp_path, monkeypatch, suffix, mapped):
    if mapped:
        monkeypatch.setattr(manifest_module, "IN_MEMORY_BYTES", 0)
    path = write_manifest(iter(CLIPS), tmp_path / "sub" / f"m{suffix}")
    loaded = load_manifest(path, cache_dir=tmp_path / "cache")
    assert list(loaded) == CLIPS and [loaded[i] for i in range(-4, 4)] == CLIPS + CLIPS
    assert isinstance(loaded[1:3], Manifest) and list(loaded[1:3]) == CLIPS[1:3]
    assert loaded.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.root == path.parent and loaded.path == path
    assert bool(loaded.dataset.cache_files) == mapped == (tmp_path / "cache").exists()
    assert os.listdir(path.parent) == [path.name]
    assert list(pickle.loads(pickle.dumps(loaded))) == CLIPS
    with pytest.raises(IndexError):
        loaded[4]


def test_selection(tmp_path):
    loaded = load_manifest(write_manifest(CLIPS, tmp_path / "m.jsonl"))
    assert loaded.labels() == ["angry", "happy"]
    assert [c.id for c in loaded.filter(lambda c: c.label == "happy")] == ["0007", "d"]
    assert [c.id for c in loaded.select([3, 0])] == ["d", "0007"]
    assert len(loaded.filter(lambda c: False)) == 0
    assert list(loaded.select([3, 0])[:1].filter(bool)) == [CLIPS[3]]


def test_split_and_subset(tmp_path):
    path = write_manifest(CLIPS, tmp_path / "m.parquet")
    assert [c.id for c in load_manifest(path, split="test")] == ["0007", "c", "d"]
    assert [c.id for c in load_manifest(path, split="test", subset="audio_aligned")] == ["0007"]
    assert "no clip has split='tset' (the manifest has split: 'test', 'train')" in problems_of(path, split="tset")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_wrong_columns(tmp_path, suffix):
    rows = [{("emotion" if k == "label" else k): v for k, v in clip.to_row().items()} for clip in CLIPS]
    path = tmp_path / f"m{suffix}"
    pq.write_table(pa.Table.from_pylist(rows), path) if suffix == ".parquet" else write_rows(path, rows)
    message = problems_of(path)
    assert "1 and 3 more: unknown columns emotion (expected id, video" in message
    assert "found id, video, audio, text, emotion" in message


def test_everything_wrong_at_once(tmp_path):
    good = CLIPS[3].to_row()
    rows = [
        good,
        good,
        good | {"id": "e", "video": "../secret.mp4"},
        good | {"id": "f", "audio": "/etc/passwd"},
        good | {"id": "g", "score": "high"},
        good | {"id": "h", "extra": 1},
        ["not", "an", "object"],
    ]
    message = problems_of(write_rows(tmp_path / "m.jsonl", rows))
    for part in (
        "has 6 problems",
        "line 2: duplicate id 'd', first in line 1",
        "line 3: path '../secret.mp4' leads out of the root",
        "line 4: path '/etc/passwd' leads out of the root",
        "line 5: score must be a finite number or null, got 'high'",
        "line 6: unknown columns extra",
        "line 7: expected an object",
    ):
        assert part in message


def test_only_twenty_problems_are_shown(tmp_path):
    path = write_rows(tmp_path / "m.jsonl", [CLIPS[3].to_row()] * 31)
    message = problems_of(path)
    assert "has 30 problems" in message and message.count("duplicate") == 20 and "... and 10 more" in message


def test_numeric_ids_are_refused(tmp_path):
    table = pa.Table.from_pylist([CLIPS[3].to_row() | {"id": 7}])
    pq.write_table(table, tmp_path / "m.parquet")
    assert "row 1: id must be a non-empty string, got 7" in problems_of(tmp_path / "m.parquet")


def test_paths_and_links(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.mp4").write_bytes(b"x")
    (root / "inside.mp4").write_bytes(b"x")
    (root / "link_out.mp4").symlink_to(tmp_path / "outside.mp4")
    (root / "link_in.mp4").symlink_to(root / "inside.mp4")
    (root / "dir_out").symlink_to(tmp_path)
    for video in ("link_out.mp4", "dir_out/outside.mp4", "../outside.mp4", "x/../../outside.mp4", "..", "dir_out/.."):
        path = write_rows(root / "m.jsonl", [Clip(id="a", video=video).to_row()])
        assert "leads out of the root" in problems_of(path), video
    for video in ("inside.mp4", "link_in.mp4", str(root / "inside.mp4"), "x/../inside.mp4", "./inside.mp4"):
        loaded = load_manifest(write_manifest([Clip(id="a", video=video, audio="video")], root / "m.jsonl"))
        assert loaded.resolve(loaded[0]) == (root / "inside.mp4", "video")


def test_resolve_and_check_files(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "c.wav").write_bytes(b"x")
    clips = [Clip(id="c", audio="c.wav", video="v/d.mp4"), Clip(id="t", text="t")]
    loaded = load_manifest(write_manifest(clips, tmp_path / "m.jsonl"), root=tmp_path / "media")
    assert loaded.resolve(loaded[0]) == (tmp_path / "media/v/d.mp4", tmp_path / "media/c.wav")
    assert loaded.resolve(loaded[1]) == (None, None)
    assert loaded.check_files() == [f"c: {tmp_path / 'media/v/d.mp4'}"]
    with pytest.raises(ValueError, match="leads out of the root"):
        loaded.resolve(Clip(id="x", video="../m.jsonl"))


def test_transcript_that_is_not_utf8(tmp_path):
    lines = [json.dumps(clip.to_row(), ensure_ascii=False).encode() + b"\n" for clip in CLIPS[:2]]
    bad = lines[1].replace(b"only", "schön".encode("latin-1"))
    path = tmp_path / "m.jsonl"
    path.write_bytes(lines[0] + bad)
    offset = path.read_bytes().index(b"\xf6")
    assert f"line 2: not UTF-8: byte 0xf6 at byte offset {offset} of the file" in problems_of(path)


def test_broken_files(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"id": \n')
    assert "line 1: not JSON" in problems_of(tmp_path / "m.jsonl")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 not really")
    assert "the Parquet data cannot be read" in problems_of(tmp_path / "m.parquet")
    assert "no such file" in problems_of(tmp_path / "none.parquet")
    assert "unknown suffix '.csv'" in problems_of(tmp_path / "m.csv")


def test_blank_lines_are_skipped_and_an_empty_manifest_is_allowed(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text("\n" + json.dumps(FULL.to_row()) + "\n\n")
    assert list(load_manifest(path)) == [FULL]
    for suffix in (".jsonl", ".parquet"):
        assert list(load_manifest(write_manifest([], tmp_path / f"empty{suffix}"))) == []


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_manifest(CLIPS, tmp_path / "m.jsonl")
    before = path.read_bytes()
    with pytest.raises(ManifestError, match="duplicate id 'd'"):
        write_manifest([CLIPS[3], CLIPS[3]], path)

    def broken():
        yield FULL
        raise RuntimeError("importer failed")

    with pytest.raises(RuntimeError):
        write_manifest(broken(), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.jsonl"]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("mapped", [False, True])
def test_optional_columns_may_be_left_out(tmp_path, monkeypatch, suffix, mapped):
    if mapped:
        monkeypatch.setattr(manifest_module, "IN_MEMORY_BYTES", 0)
    rows = [{"id": str(i), "text": "Oh.", "label": "sad", "subset": "all", "split": "train"} for i in range(3)]
    path = tmp_path / f"m{suffix}"
    pq.write_table(pa.Table.from_pylist(rows), path) if suffix == ".parquet" else write_rows(path, rows)
    expected = [Clip(id=row["id"], text="Oh.", label="sad", split="train") for row in rows]
    assert list(load_manifest(path, cache_dir=tmp_path / "cache")) == expected
    rows = [{k: v for k, v in row.items() if k != "split"} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), path) if suffix == ".parquet" else write_rows(path, rows)
    assert "missing columns split" in problems_of(path)


@pytest.mark.parametrize(
    "values",
    [
        {"id": " "},
        {"id": None},
        {"split": "\t"},
        {"video": ""},
        {"video": None},
        {"video": "../x.mp4"},
        {"score": float("inf")},
        {"video": None, "audio": None, "text": " \n"},
        {"missing": ["face"]},
        {"missing": ["text"]},
        {"labels": [None]},
        {"context": ["a", None]},
        {"video": "link.mp4"},
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_the_fast_check_passes_nothing_that_the_rows_check_refuses(tmp_path, values, suffix):
    (tmp_path / "link.mp4").symlink_to("/etc/passwd")
    rows = [SPARSE.to_row(), FULL.to_row() | values]
    path = tmp_path / f"m{suffix}"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path) if suffix == ".parquet" else write_rows(path, rows)
    assert sound_table(path, SCHEMA, str(tmp_path)) is None
    assert "2: " in problems_of(path)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_the_fast_check_vouches_for_sound_manifests(tmp_path, suffix):
    assert sound_table(write_manifest(CLIPS, tmp_path / f"m{suffix}"), SCHEMA, str(tmp_path)).num_rows == 4


def test_a_large_manifest_is_checked_in_seconds(tmp_path):
    rows = 100_000
    names = [str(i) for i in range(rows)]
    columns = {
        "id": names,
        "video": [f"v/{i % 100}/{i}.mp4" for i in range(rows)],
        "audio": ["video"] * rows,
        "label": ["happy", "sad"] * (rows // 2),
        "subset": ["all"] * rows,
        "split": ["train"] * rows,
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    start = time.process_time()
    loaded = load_manifest(tmp_path / "m.parquet")
    assert loaded.unlabelled() == [] and loaded.labels() == ["happy", "sad"] and len(loaded) == rows
    assert time.process_time() - start < 4, "30 s row by row"


def test_half_a_surrogate_pair_is_one_sentence(tmp_path):
    path = write_rows(tmp_path / "m.jsonl", [SPARSE.to_row(), FULL.to_row() | {"text": "a \ud83d b"}])
    assert problems_of(path).splitlines()[1:] == ["  line 2: '\\ud83d' is half of a surrogate pair; correct the text"]
    whole = write_rows(tmp_path / "w.jsonl", [FULL.to_row() | {"text": "a \U0001f600 b"}])
    assert load_manifest(whole)[0].text == "a \U0001f600 b"
