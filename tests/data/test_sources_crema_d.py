"""CREMA-D and CREMA-D-Conflict: on a small tree, and on the published vote table where a user holds it."""

import csv
import os
from collections import Counter
from pathlib import Path

import pytest

from mosear.data.manifest import load_manifest
from mosear.data.media import decode
from mosear.data.prepare import main
from mosear.data.sources import LayoutError, Request, source
from mosear.data.sources.base import tally_of
from mosear.data.sources.checks import check_rows
from mosear.data.sources.crema_d import BROKEN, FOLDS, LABELS, fold_of, group_of, read_votes
from tests.helpers import source_trees

PLACES = [os.environ.get("MOSEAR_CREMA_D"), Path(__file__).parents[2].parent / "shared" / "data" / "crema-d"]
TABLES = [found for place in PLACES if place for found in sorted(Path(place).rglob("summaryTable.csv"))]
TABULATED = [path.with_name("tabulatedVotes.csv") for path in TABLES if path.with_name("tabulatedVotes.csv").is_file()]
needs_table = pytest.mark.skipif(not TABLES, reason="needs CREMA-D's summaryTable.csv (set MOSEAR_CREMA_D)")
needs_counts = pytest.mark.skipif(not TABULATED, reason="needs CREMA-D's tabulatedVotes.csv (set MOSEAR_CREMA_D)")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source_trees.crema_d(tmp_path_factory.mktemp("crema-d"))


def read(root: Path, name: str = "crema-d-conflict", **options):
    return source(name).import_from(Request(root, root / "out.parquet", **options))


def test_groups_follow_the_votes(tree: Path):
    reading = read(tree)
    clips = {row.clip.id: row.clip for row in reading.rows}
    assert {name: clip.subset for name, clip in clips.items()} == {
        "1001_DFA_ANG_XX": "consistent",
        "1001_IEO_HAP_HI": "video_aligned",
        "1002_TIE_SAD_XX": "audio_aligned",
        "1073_WSI_NEU_XX": "consistent",
    }
    aligned = clips["1001_IEO_HAP_HI"]
    assert (aligned.label, aligned.modality_labels.visual, aligned.modality_labels.audio) == (
        "happy",
        "happy",
        "neutral",
    )
    assert (aligned.text, aligned.speaker) == ("It's eleven o'clock.", "1001")
    assert reading.dropped == {
        "tie": ["1019_IOM_FEA_XX"],
        "outside the definition: all_different": ["1037_MTI_DIS_XX"],
        "outside the definition: joint_differs": ["1055_TAI_NEU_XX"],
        "known to be broken": ["1064_TIE_SAD_XX"],
    }


def test_agreement_is_the_share_of_votes_and_not_the_level(tree: Path):
    # 1001_DFA_ANG_XX: six of ten voices; all others eight of ten. Every level in the summary is 50 or more.
    assert "1001_DFA_ANG_XX" in {row.clip.id for row in read(tree, min_agreement=0.6).rows}
    kept = [row.clip.id for row in read(tree, min_agreement=0.61).rows]
    assert kept == ["1001_IEO_HAP_HI", "1002_TIE_SAD_XX", "1073_WSI_NEU_XX"]


def test_folds_share_no_actor(tree: Path):
    for fold in range(1, len(FOLDS) + 1):
        rows = read(tree, "crema-d", fold=fold).rows
        by_split = {
            split: {row.clip.speaker for row in rows if row.clip.split == split} for split in ("train", "val", "test")
        }
        assert {fold_of(actor) for actor in by_split["test"]} == {fold}
        assert {fold_of(actor) for actor in by_split["val"]} == {fold % 5 + 1}
        assert not by_split["train"] & (by_split["val"] | by_split["test"])
    assert {row.clip.split for row in read(tree, "crema-d").rows} == {"test"}


def test_the_written_manifest_decodes(tree: Path, tmp_path: Path):
    (path,) = main(["crema-d-conflict", "--root", str(tree), "--out", str(tmp_path / "m.parquet")])
    manifest = load_manifest(path, root=tree)
    assert manifest.check_files() == []
    clip = manifest[0]
    assert (clip.video, clip.audio) == ("VideoFlash/1001_DFA_ANG_XX.flv", "AudioWAV/1001_DFA_ANG_XX.wav")
    media = decode(*manifest.resolve(clip))
    assert media.frames is not None and media.audio is not None and len(media.audio) == pytest.approx(4800, abs=160)


def test_without_wav_files_the_sound_is_that_of_the_video(tree: Path, tmp_path: Path):
    source_trees.media(tmp_path / "VideoFlash" / "1001_DFA_ANG_XX.flv")
    (row,) = read(tmp_path, "crema-d").rows
    assert row.clip.audio == "video" and row.clip.label == "angry"


def test_a_name_that_lost_its_last_letter_is_found(tmp_path: Path):
    source_trees.media(tmp_path / "VideoFlash" / "1040_ITH_SAD_XX.flv")
    source_trees.media(tmp_path / "AudioWAV" / "1040_ITH_SAD_X.wav", video=False)
    (row,) = read(tmp_path, "crema-d").rows
    assert row.clip.audio == "AudioWAV/1040_ITH_SAD_X.wav"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("MultiModalVote", "Vote"), "columns MultiModalVote are missing"),
        (lambda text: text.replace("1001_IEO_HAP_HI", "1001_DFA_ANG_XX"), "listed twice"),
        (lambda text: text.replace(",A:D,", ",X,"), "expected letters of A D F H N S"),
        (lambda text: text.replace("1073_WSI_NEU_XX", "9999_WSI_NEU_XX"), "is no CREMA-D clip"),
        (lambda text: text.replace("1001_IEO_HAP_HI,N,", "1001_IEO_HAP_HI,N,1,"), "cells, but the header has 8"),
        (lambda text: "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tree: Path, tmp_path: Path, change, message: str):
    text = (tree / "processedResults" / "summaryTable.csv").read_text()
    (tmp_path / "VideoFlash").symlink_to(tree / "VideoFlash")
    (tmp_path / "summaryTable.csv").write_text(change(text))
    with pytest.raises(LayoutError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("300001,", "400001,"), "row '400001' does not begin with 1"),
        (("300002,0,0,0,8,0,2", "300002,0,0,0,0,0,0"), "300002: there are no votes"),
        (("300002,0,0,0,8,0,2", "300002,0,0,0,x,0,2"), "'x' is not a number"),
        (("1001_DFA_ANG_XX", "1001_DFA_ANG_LO"), "lacks the votes on voice, face or both of 1001_DFA_ANG_XX"),
    ],
)
def test_what_is_wrong_with_the_counts_of_votes_is_said(tree: Path, tmp_path: Path, change: tuple, message: str):
    text = (tree / "processedResults" / "tabulatedVotes.csv").read_text()
    assert change[0] in text
    (tmp_path / "VideoFlash").symlink_to(tree / "VideoFlash")
    (tmp_path / "summaryTable.csv").symlink_to(tree / "processedResults" / "summaryTable.csv")
    (tmp_path / "tabulatedVotes.csv").write_text(text.replace(*change))
    with pytest.raises(LayoutError, match=message):
        read(tmp_path, min_agreement=0.5)


@needs_table
def test_published_votes_give_the_published_groups():
    votes = read_votes(TABLES[0])
    groups = {name: group_of(found) for name, found in votes.items()}
    assert len(votes) == 7442
    assert Counter(groups.values()) == {
        "consistent": 3034,
        "video_aligned": 1887,
        "audio_aligned": 548,
        "all_different": 359,
        "joint_differs": 214,
        None: 1400,
    }
    gold = {
        name: Counter(votes[clip].both for clip, group in groups.items() if group == name)
        for name in ("video_aligned", "audio_aligned")
    }
    assert gold["video_aligned"] == {"H": 746, "D": 436, "F": 282, "S": 201, "A": 137, "N": 85}
    assert gold["audio_aligned"] == {"N": 206, "A": 114, "F": 110, "D": 75, "S": 42, "H": 1}
    conflicts = [votes[clip] for clip, group in groups.items() if group in gold]
    assert sum("N" not in (found.face, found.voice) for found in conflicts) == 701


@needs_table
def test_groups_of_published_votes_equal_a_literal_reading():
    """The same counts from the raw rows, without any of our parsing."""
    counts: Counter[str] = Counter()
    with TABLES[0].open(newline="") as file:
        for row in csv.DictReader(file):
            voice, face, both = row["VoiceVote"], row["FaceVote"], row["MultiModalVote"]
            if len(voice) == len(face) == len(both) == 1:
                counts["".join("=" if a == b else "/" for a, b in ((voice, both), (face, both)))] += 1
    assert counts == {"==": 3034, "/=": 1887, "=/": 548, "//": 359 + 214}


@needs_table
def test_people_lean_on_the_face():
    votes = read_votes(TABLES[0])
    shares = {
        kind: sum(getattr(found, kind) == name.split("_")[2][0] for name, found in votes.items()) / len(votes)
        for kind in ("voice", "face", "both")
    }
    assert shares == pytest.approx({"voice": 0.416, "face": 0.663, "both": 0.722}, abs=5e-4)


@needs_table
def test_published_folds_are_disjoint_in_actors():
    sizes = Counter(fold_of(name[:4]) for name in read_votes(TABLES[0]))
    assert [sizes[fold] for fold in range(1, 6)] == [1463, 1470, 1476, 1476, 1557]


@needs_table
def test_the_command_on_the_published_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = tmp_path / "CREMA-D"
    (root / "processedResults").mkdir(parents=True)
    (root / "VideoFlash").mkdir()
    (root / "processedResults" / "summaryTable.csv").symlink_to(TABLES[0])
    for name in read_votes(TABLES[0]):
        (root / "VideoFlash" / f"{name}.flv").touch()
    options = ["--fold", "2", "--check-media", "none", "--out", str(tmp_path / "{split}.parquet")]
    paths = main(["crema-d-conflict", "--root", str(root), *options])
    assert [path.name for path in paths] == ["train.parquet", "val.parquet", "test.parquet"]
    assert "all 4 published counts match" in capsys.readouterr().out
    manifests = [load_manifest(path, root=root) for path in paths]
    clips = [clip for manifest in manifests for clip in manifest]
    # Four clips of the table are broken: one consistent, two video-aligned, one audio-aligned.
    assert Counter(clip.subset for clip in clips) == {"consistent": 3033, "video_aligned": 1885, "audio_aligned": 547}
    assert not {clip.id for clip in clips} & set(BROKEN)
    subsets = ("consistent", "video_aligned", "audio_aligned")
    by_split = [Counter(clip.subset for clip in manifest) for manifest in manifests]
    assert [[counts[name] for name in subsets] for counts in by_split[1:]] == [[608, 398, 108], [592, 346, 120]]
    speakers = [{clip.speaker for clip in manifest} for manifest in manifests]
    assert not speakers[0] & speakers[1] | speakers[0] & speakers[2] | speakers[1] & speakers[2]
    assert [len(found) for found in speakers] == [91 - 18 - 18, 18, 18]
    assert set(manifests[0].labels()) <= set(LABELS)


@needs_counts
@pytest.mark.parametrize(("least", "expected"), [(0.5, (2558, 1301, 284)), (0.6, (1805, 664, 87))])
def test_published_votes_at_a_minimum_of_agreement(least: float, expected: tuple[int, int, int]):
    votes = read_votes(TABLES[0], TABULATED[0])
    counts = Counter(group_of(found, least) for found in votes.values())
    assert tuple(counts[name] for name in ("consistent", "video_aligned", "audio_aligned")) == expected


def test_counts_are_compared_with_the_table_and_not_with_what_is_left(tree: Path):
    importer = source("crema-d-conflict")
    reading = read(tree)
    assert reading.tally is not None and reading.tally["subset video_aligned"] == 2
    assert tally_of(reading.rows)["subset video_aligned"] == 1
    found = check_rows(reading.rows, importer, reading.tally, {"subset video_aligned": 2, "votes": 8})
    assert found[0].status == "ok"
