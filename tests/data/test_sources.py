"""Importers of published layouts, each on a small tree of the same shape."""

import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mosear.data.clip import Clip
from mosear.data.conflict_rules import IntensityRule
from mosear.data.sources import NAMES, LayoutError, Request, source
from mosear.data.sources.base import split_of_fold
from mosear.data.sources.ca_mer import word
from mosear.data.sources.checks import check_duplicates, check_files, check_leakage
from mosear.data.sources.meld import seconds
from mosear.data.sources.pickles import read_label_archive
from tests.helpers import source_trees

ROOT = Path(__file__).parents[2]
TREES = {
    "meld": source_trees.meld,
    "mer2023": source_trees.mer2023,
    "mer2025": source_trees.mer2025,
    "mafw": source_trees.mafw,
    "ch-sims-v2": source_trees.sims_v2,
    "ch-sims": source_trees.sims_old,
    "cmu-mosi": source_trees.mosi,
    "cmu-mosei": source_trees.mosei,
    "affwild2": source_trees.affwild2,
    "iemocap-4": source_trees.iemocap,
    "dfew": source_trees.dfew,
    "emer": source_trees.emer,
    "ca-mer": source_trees.ca_mer,
    "emomm": source_trees.emomm,
}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in TREES.items()}


def read(root: Path, name: str, **options):
    return source(name).import_from(Request(root, root / "out.parquet", **options))


def clips_of(reading) -> dict[str, Clip]:
    return {row.clip.id: row.clip for row in reading.rows}


def copied(tree: Path, target: Path) -> Path:
    """The tables of a tree, without its media."""
    for path in tree.rglob("*.csv"):
        copy = target / path.relative_to(tree)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return target


# --- every importer


def test_registry_is_complete_and_light():
    code = (
        "import sys; from mosear.data.sources import NAMES, source;"
        "loaded = [source(name).name for name in NAMES];"
        "assert not {'torch', 'transformers', 'numpy', 'av'} & set(sys.modules); print(len(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(len(NAMES)), done.stderr
    with pytest.raises(ValueError, match="unknown data set 'fer2013'; there are importers for crema-d"):
        source("fer2013")


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_layout_is_shown_beside_the_expected_one(name: str, tmp_path: Path):
    (tmp_path / "something").mkdir()
    (tmp_path / "something" / "else.txt").write_text("x")
    with pytest.raises(LayoutError) as caught:
        read(tmp_path, name)
    expected, found = str(caught.value).split("found:")
    assert source(name).layout.splitlines()[0].strip() in expected
    assert found.split() == ["something/", "else.txt"]
    with pytest.raises(LayoutError, match="is not a directory"):
        read(tmp_path / "nowhere", name)


@pytest.mark.parametrize("name", TREES)
def test_media_paths_exist_and_ids_are_unique(name: str, trees: dict[str, Path]):
    rows = read(trees[name], name).rows
    assert len({row.clip.id for row in rows}) == len(rows) > 0
    files = {path for row in rows for path in (row.clip.video, row.clip.audio) if path not in (None, "video")}
    assert files and all((trees[name] / str(path)).is_file() for path in files)
    labels = source(name).labels
    assert labels is None or {row.clip.label for row in rows} <= set(labels)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("meld", {"fold": 1}, "has no folds"),
        ("ravdess", {"fold": 7}, "has folds 1 to 6"),
        ("meld", {"rule": "camer"}, "no unimodal labels"),
        ("ch-sims", {"rule": "camer"}, "its rules are polarity_any, strong_range, intensity, emomm"),
        ("ravdess", {"min_agreement": 0.5}, "publishes no votes"),
        ("crema-d-conflict", {"min_agreement": 60}, "share of votes in 0..1, got 60"),
        ("meld", {"language": "english"}, "one transcript only"),
        ("cmu-mosi", {"emotions": True}, "--emotions: cmu-mosi has no emotions beside its label"),
    ],
)
def test_options_that_do_not_apply_are_refused(name: str, options: dict, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, name, **options)


@pytest.mark.parametrize("folds", [2, 5, 6])
def test_folds_partition_every_member(folds: int):
    for fold in range(1, folds + 1):
        splits = Counter(split_of_fold(member, fold, folds) for member in range(1, folds + 1))
        assert splits == Counter(test=1, val=1, train=folds - 2)
    tested = [
        member
        for fold in range(1, folds + 1)
        for member in range(1, folds + 1)
        if split_of_fold(member, fold, folds) == "test"
    ]
    assert sorted(tested) == list(range(1, folds + 1))


# --- MELD


def test_meld(trees: dict[str, Path]):
    reading = read(trees["meld"], "meld")
    clips = clips_of(reading)
    assert list(clips) == [
        *("train_dia0_utt2", "train_dia0_utt10", "train_dia1_utt0"),  # 2 before 10
        "val_dia0_utt0",
        *("test_dia0_utt2", "test_dia1_utt0", "test_dia2_utt0"),
    ]
    assert clips["train_dia0_utt2"].text == "“Hi, there”"
    assert clips["train_dia0_utt10"].text == "NA" and clips["train_dia0_utt10"].label == "sadness"
    assert clips["train_dia0_utt10"].context == ("Joey: “Hi, there”",)
    assert clips["train_dia1_utt0"].text == "I’m fine" and clips["train_dia1_utt0"].context == ()
    assert clips["val_dia0_utt0"].label == "surprise"
    assert clips["train_dia0_utt2"].video != clips["test_dia0_utt2"].video
    told = " ".join(reading.notes)
    assert "2 clips last 0 s" in told and "train_dia1_utt0" in told and "test_dia0_utt2" in told
    leakage = check_leakage(reading.rows, source("meld").disjoint)
    assert [(found.status, found.text.split()[-1]) for found in leakage if found.status != "ok"] == [("note", "train)")]


@pytest.mark.parametrize(("time", "expected"), [("00:05:05,900", 305.9), ("1:00:00.001", 3600.001), ("5.9", None)])
def test_meld_times(time: str, expected: float | None):
    assert seconds(time) == pytest.approx(expected) if expected else seconds(time) is None


# --- MER2023


def test_mer2023(trees: dict[str, Path]):
    clips = clips_of(read(trees["mer2023"], "mer2023"))
    assert clips["train/sample_00000001"].text == "你好" and clips["train/sample_00000012"].text is None
    # Another file's name begins with this one's, or it begins with it.
    assert clips["train/sample_00000001"].video == "train/sample_00000001.mp4"
    assert clips["train/sample_2"].video == "train/sample_2.mp4"
    assert clips["test2/sample_00000004"].video == "test2/sample_00000004.avi"
    assert (clips["test1/sample_00000003"].subset, clips["test1/sample_00000003"].score) == ("multi", 0.5)
    assert (clips["test3/samplenew_00000005"].subset, clips["test3/samplenew_00000005"].score) == ("semi", None)
    english = clips_of(read(trees["mer2023"], "mer2023", language="english"))
    assert english["train/sample_00000001"].text == "Hello"


def test_mer2023_folds_partition_the_training_set(trees: dict[str, Path]):
    validated = []
    for fold in range(1, 6):
        clips = clips_of(read(trees["mer2023"], "mer2023", fold=fold)).values()
        validated += [clip.id for clip in clips if clip.split == "val"]
        assert Counter(clip.split for clip in clips)["test"] == 3
    assert sorted(validated) == ["train/sample_00000001", "train/sample_00000012", "train/sample_2"]


def label_archive(path: Path, **corpora: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{key: np.array(value, dtype=object) for key, value in corpora.items()})
    return path


def test_mer2023_as_merbench_keeps_it(tmp_path: Path):
    corpora = {
        "train_corpus": {"sample_1": {"emo": "happy", "val": np.float32(1.5)}},
        "test1_corpus": {"sample_2": {"emo": np.str_("sad"), "val": -1.0}},
        "test2_corpus": {"sample_3": {"emo": "neutral", "val": 0.0}},
        "test3_corpus": {"sample_4": {"emo": "worried", "val": -10}},
    }
    label_archive(tmp_path / "label-6way.npz", **corpora)
    for number_ in range(1, 5):
        source_trees.media(tmp_path / "video" / f"sample_{number_}.mp4")
    clips = clips_of(read(tmp_path, "mer2023"))
    assert [(clip.label, clip.score) for clip in clips.values()] == [
        ("happy", 1.5),
        ("sad", -1.0),
        ("neutral", 0.0),
        ("worried", None),
    ]
    assert clips["train/sample_1"].video == "video/sample_1.mp4"


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_pickle_that_does_something_is_refused(tmp_path: Path):
    target = tmp_path / "made-by-a-pickle"
    path = label_archive(tmp_path / "label-6way.npz", train_corpus={"a": {"emo": _Evil(target)}})
    with pytest.raises(LayoutError, match=r"its pickle: (posix|nt|os)\.mkdir is not allowed"):
        read_label_archive(path, ("train_corpus",))
    assert not target.exists()
    pickle.loads(pickle.dumps(_Evil(target)))  # the same pickle does act when it is loaded without care
    assert target.exists()


def test_label_archives_of_another_shape_are_refused(tmp_path: Path):
    path = label_archive(tmp_path / "a.npz", train_corpus={"x": {"emo": "sad"}})
    with pytest.raises(LayoutError, match="expected test1_corpus, found train_corpus"):
        read_label_archive(path, ("test1_corpus",))
    np.savez(tmp_path / "b.npz", train_corpus=np.arange(3))
    with pytest.raises(LayoutError, match="instead of one pickled dict"):
        read_label_archive(tmp_path / "b.npz", ("train_corpus",))
    with pytest.raises(LayoutError, match="no dict of clip names"):
        read_label_archive(label_archive(tmp_path / "c.npz", train_corpus=7), ("train_corpus",))
    (tmp_path / "d.npz").write_text("not a zip file")
    with pytest.raises(LayoutError, match="is no label file that can be read safely"):
        read_label_archive(tmp_path / "d.npz", ("train_corpus",))


def test_mer2025(trees: dict[str, Path]):
    clips = clips_of(read(trees["mer2025"], "mer2025"))
    assert clips["samplenew3_00000000"].text == "你好, 再见" and clips["samplenew3_00000002"].text is None
    assert [clip.score for clip in clips.values()] == [-2.0, -1.0, 0.0, 1.0, 2.0]
    validated = [
        [clip.id for clip in clips_of(read(trees["mer2025"], "mer2025", fold=fold)).values() if clip.split == "val"]
        for fold in range(1, 6)
    ]
    assert sorted(name for part in validated for name in part) == list(clips) and {len(part) for part in validated} == {
        1
    }


@pytest.mark.parametrize(
    ("name", "folder", "table"),
    [("mer2024", "video-labeled", "label-disdim.csv"), ("mer2026", "video", "track1_train.csv")],
)
def test_other_years_differ_in_names_only(name: str, folder: str, table: str, tmp_path: Path):
    source_trees.table(tmp_path / table, ("name", "discrete"), [("a", "happy")])
    source_trees.media(tmp_path / folder / "a.mp4")
    (clip,) = clips_of(read(tmp_path, name)).values()
    assert (clip.video, clip.label, clip.score, clip.split) == (f"{folder}/a.mp4", "happy", None, "train")


# --- CH-SIMS, CMU-MOSI


def test_sims_v2_ids_stay_text(trees: dict[str, Path]):
    clips = clips_of(read(trees["ch-sims-v2"], "ch-sims-v2"))
    assert list(clips) == [f"{video}/{clip}" for video, clip, *_ in source_trees.SIMS_V2_ROWS]
    clip = clips["aqgy3_0001/00000"]
    assert (clip.label, clip.score, clip.split, clip.video) == ("negative", -0.8, "train", "Raw/aqgy3_0001/00000.mp4")
    assert (clip.modality_labels.text, clip.modality_labels.audio) == ("positive", "negative")
    assert clips["aqgy4_0005/00011_0"].label == "neutral"  # -0.1 is
    assert clips["test10/00001"].split == "val"


def test_sims_rules_name_subsets(trees: dict[str, Path]):
    def subsets(rule: str) -> dict[str, str]:
        return {
            name: clip.subset for name, clip in clips_of(read(trees["ch-sims-v2"], "ch-sims-v2", rule=rule)).items()
        }

    assert set(subsets("polarity_any").values()) == {"same_polarity", "different_polarity"}
    strong = [name for name, subset in subsets("strong_range").items() if subset == "strong_range"]
    assert strong == ["aqgy3_0001/00000", "csbgs2_0001/00003"]  # a range of 1.4 and of 1.2; one of 0.6 is none
    assert subsets("emomm")["video_xjzw/00012"] == "conflict" and subsets("emomm")["video_0001/0001"] == "align"
    train = {
        f"{v}/{c}": (float(t), float(a), float(s))
        for v, c, _, _, t, a, s, _, mode in source_trees.SIMS_V2_ROWS
        if mode == "train"
    }
    rule = IntensityRule.fit(train)
    for video, clip, _, _, t, a, s, *_ in source_trees.SIMS_V2_ROWS:
        name = f"{video}/{clip}"
        assert subsets("intensity")[name] == rule(name, text=float(t), audio=float(a), visual=float(s))


def test_sims_lost_zeros_are_told(trees: dict[str, Path], tmp_path: Path):
    source_trees.media(tmp_path / "Raw" / "video_0001" / "0001.mp4")
    row = ("video_0001", "1", *source_trees.SIMS_V2_ROWS[0][2:])
    source_trees.table(tmp_path / "meta.csv", source_trees.SIMS_COLUMNS, [row])
    (note,) = read(tmp_path, "ch-sims-v2").notes
    assert "lost their leading zeros: the table says '1', the file is named 0001" in note


def test_sims_first_release(trees: dict[str, Path]):
    clips = clips_of(read(trees["ch-sims"], "ch-sims", rule="polarity_any"))
    assert [(clip.split, clip.score, clip.text) for clip in clips.values()] == [
        ("train", 0.8, "好的"),
        ("train", -0.2, "好的"),
        ("val", 0.0, "好的"),
        ("test", -1.0, "好的"),
    ]
    assert [clip.subset for clip in clips.values()] == [
        "same_polarity",
        "different_polarity",
        "same_polarity",
        "same_polarity",
    ]
    assert clips_of(read(trees["ch-sims"], "ch-sims", language="english"))["video_0001/0001"].text == "Fine"


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("test_index.csv", ["4"], r"index '4' is no row of label_M.csv \(0..3\)"),
        ("test_index.csv", ["2"], "index 2 is in val_index.csv too"),
        ("train_index.csv", ["0"], "video_0001/0002 is in no split"),
        ("Translation.csv", None, "no file Translation.csv"),
    ],
)
def test_sims_first_release_is_checked(
    name: str, rows: list | None, message: str, trees: dict[str, Path], tmp_path: Path
):
    root = copied(trees["ch-sims"], tmp_path)
    if rows is None:
        (root / "metadata" / name).unlink()
    else:
        source_trees.table(root / "metadata" / name, ("index",), [(row,) for row in rows])
    with pytest.raises(LayoutError, match=message):
        read(root, "ch-sims")


def test_sims_missing_unimodal_label_is_not_zero(tmp_path: Path):
    rows = [
        ("video_0001", f"000{i}", "好", "0.6", text, "0.6", "0.6", "", "train")
        for i, text in enumerate(("", "0.0", "nan"))
    ]
    source_trees.table(tmp_path / "label.csv", source_trees.SIMS_COLUMNS, rows)
    (tmp_path / "Raw").mkdir()
    reading = read(tmp_path, "ch-sims", rule="polarity_any")
    assert [row.clip.subset for row in reading.rows] == ["different_polarity"]
    assert reading.dropped == {"polarity_any: a unimodal label is missing": ["video_0001/0000", "video_0001/0002"]}
    with pytest.raises(ValueError, match="only CH-SIMS's first release"):
        read(tmp_path, "ch-sims", language="english")
    everything = clips_of(read(tmp_path, "ch-sims"))
    assert [clip.modality_labels.text for clip in everything.values()] == [None, "neutral", None]


@pytest.mark.parametrize("given", [True, "emotions/all.csv"])
def test_emotions_of_mosei_are_label_sets(given, trees: dict[str, Path]):
    root = trees["cmu-mosei"]
    reading = read(root, "cmu-mosei", emotions=given if given is True else root / given)
    labels = {clip.id: (clip.label, clip.labels, clip.score) for clip in clips_of(reading).values()}
    assert labels == {
        "a/1": ("positive", ("happy", "surprise"), 2.0),
        "b/0": ("neutral", (), 0.0),
        "c/7": ("negative", ("sad", "fear"), -1.0),
    }
    assert "1 clips show none of the six emotions; their labels are empty." in reading.notes
    assert all(clip.labels == () for clip in clips_of(read(root, "cmu-mosei")).values())


def test_emotions_that_are_not_there(trees: dict[str, Path], tmp_path: Path):
    root = copied(trees["cmu-mosei"], tmp_path)
    (root / "Raw").mkdir()
    with pytest.raises(LayoutError, match=r"all\.csv has no row for 3 clips, e\.g\. a/1"):
        table = root / "emotions" / "all.csv"
        table.write_text(table.read_text().splitlines()[0] + "\n1,z,0,0,0,0,0,0\n")
        read(root, "cmu-mosei", emotions=table)
    (root / "label.csv").write_text("video_id,clip_id,text,label,mode\na,1,GOOD,2,train\n")
    with pytest.raises(LayoutError, match="columns happy, sad, anger, surprise, disgust, fear are missing"):
        read(root, "cmu-mosei", emotions=True)


def test_affwild2(trees: dict[str, Path]):
    reading = read(trees["affwild2"], "affwild2", fold=1)
    clips = clips_of(reading)
    assert Counter(clip.split for clip in clips.values()) == {"train": 5, "val": 1, "test": 2}
    folds = [clips_of(read(trees["affwild2"], "affwild2", fold=fold)) for fold in range(1, 6)]
    validated = [clip.id for found in folds for clip in found.values() if clip.split == "val"]
    assert sorted(validated) == [f"{at}-30-1280x720" for at in range(6)]
    rate, values = clips["0-30-1280x720"].annotations
    assert rate == 10
    np.testing.assert_array_equal(values, [[0.5, -0.25], [np.nan, np.nan], [-1, 1]])
    left, right = clips["video1_left"], clips["video1_right"]
    assert left.video == right.video == "batch1/video1.mp4" and left.audio == "video" and left.label is None
    assert right.annotations.values.tolist() == [[0.1, 0.2]] * 3
    assert reading.dropped == {"no frame is annotated": ["silent"]}
    assert "6 frames have no annotation (-5); they are null." in reading.notes
    assert {clip.split for clip in clips_of(read(trees["affwild2"], "affwild2")).values()} == {"train", "test"}


def test_affwild2_without_a_video_is_told(trees: dict[str, Path], tmp_path: Path):
    shutil.copytree(trees["affwild2"], tmp_path / "data")
    (tmp_path / "data" / "batch2" / "1-30-1280x720.mp4").unlink()
    (tmp_path / "data" / "batch3" / "2-30-1280x720.mp4").write_text("no video")
    reading = read(tmp_path / "data", "affwild2")
    told = "the video says no frame rate, so its annotations have no times"
    assert reading.dropped[told] == ["2-30-1280x720"]
    clips = [row.clip for row in reading.rows]
    assert [file.clip_id for file in check_files(clips, tmp_path / "data", "none")] == ["1-30-1280x720"]


def test_mosi(trees: dict[str, Path]):
    clips = clips_of(read(trees["cmu-mosi"], "cmu-mosi"))
    assert [(clip.label, clip.split) for clip in clips.values()] == [
        ("positive", "train"),
        ("negative", "val"),
        ("neutral", "test"),
    ]
    assert clips["-mJ2ud6oKI8/2"].score == pytest.approx(-1.6) and clips["-mJ2ud6oKI8/2"].modality_labels.text is None
    with pytest.raises(ValueError, match="no unimodal labels"):
        read(trees["cmu-mosi"], "cmu-mosi", rule="polarity_any")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("mode", "mod"), "columns mode are missing"),
        (("test\n", "tset\n"), "mode 'tset'; expected train, valid, test"),
        (("0.0,", "zero,"), "'zero' is not a number"),
        (("0.0,", "-inf,"), "'-inf' is not finite"),
        (("2.4,", ","), "there is no label"),
    ],
)
def test_mosi_bad_tables(change: tuple[str, str], message: str, tmp_path: Path):
    columns = ("video_id", "clip_id", "text", "label", "mode")
    path = source_trees.table(
        tmp_path / "label.csv", columns, [("a", "1", "x", "2.4", "train"), ("b", "2", "y", "0.0", "test")]
    )
    path.write_text(path.read_text().replace(*change))
    (tmp_path / "Raw").mkdir()
    with pytest.raises(LayoutError, match=message):
        read(tmp_path, "cmu-mosi")


# --- IEMOCAP, DFEW, EMER


def test_iemocap(trees: dict[str, Path]):
    reading = read(trees["iemocap-4"], "iemocap-4", fold=2)
    clips = clips_of(reading)
    assert Counter(clip.label for clip in clips.values()) == {"happy": 10, "neutral": 5, "angry": 5, "sad": 5}
    assert {name: len(ids) for name, ids in reading.dropped.items()} == {"labelled xxx": 5, "labelled fru": 5}
    clip = clips["Ses02F_impro01_M000"]
    # The dialogue's letter is F, the speaker's M.
    assert (clip.speaker, clip.split, clip.text, clip.score) == ("Ses02M", "test", "Line 1.", 2.5)
    assert clip.context == ("F: Line 0.",) and clip.video is None
    assert clip.audio == "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_M000.wav"
    assert {c.split for c in clips.values() if c.speaker in ("Ses03M", "Ses03F")} == {"val"}
    assert len({c.speaker for c in clips.values()}) == 10
    assert any("1 lines of the transcripts" in note for note in reading.notes)
    assert [found.status for found in check_leakage(reading.rows, source("iemocap-4").disjoint)] == ["ok"] * 3


def test_iemocap_six_classes_and_cut_videos(trees: dict[str, Path]):
    labels = Counter(row.clip.label for row in read(trees["iemocap-4"], "iemocap-6").rows)
    assert labels == dict.fromkeys(("happy", "excited", "frustrated", "neutral", "angry", "sad"), 5)
    path = source_trees.media(trees["iemocap-4"] / "subvideo" / "Ses01F_impro01_F000.avi", audio=False)
    try:
        clip = clips_of(read(trees["iemocap-4"], "iemocap-4"))["Ses01F_impro01_F000"]
        assert clip.video == "subvideo/Ses01F_impro01_F000.avi" and clip.audio is not None
    finally:
        path.unlink()
        path.parent.rmdir()


def test_iemocap_without_a_transcript(trees: dict[str, Path]):
    path = trees["iemocap-4"] / "Session3" / "dialog" / "transcriptions" / "Ses03F_impro01.txt"
    text = path.read_text()
    path.unlink()
    try:
        with pytest.raises(LayoutError, match=r"no file dialog/transcriptions/Ses03F_impro01\.txt"):
            read(trees["iemocap-4"], "iemocap-4")
    finally:
        path.write_text(text)


def test_published_counts_are_consistent_in_themselves(tmp_path: Path):
    """Golden figures: classes, sessions, folds and splits must add up to the published totals."""

    def counts(name: str, **options) -> dict[str, int]:
        return dict(source(name).counts(Request(tmp_path, tmp_path, **options)))

    four = counts("iemocap-4")
    assert four["clips"] == 5531 == sum(value for key, value in four.items() if key.startswith("label"))
    assert sum(counts("iemocap-4", fold=fold)["split test"] for fold in range(1, 6)) == 5531
    dfew = counts("dfew")
    assert dfew["clips"] == 11697 == sum(value for key, value in dfew.items() if key.startswith("label"))
    assert sum(counts("dfew", fold=fold)["split test"] for fold in range(1, 6)) == 11697
    mafw = counts("mafw")
    assert mafw["clips"] == 9172 == sum(value for key, value in mafw.items() if key.startswith("label"))
    assert sum(counts("mafw", fold=fold)["split test"] for fold in range(1, 6)) == 9172
    mer = counts("mer2023")
    assert (
        sum(v for k, v in mer.items() if k.startswith("subset"))
        == 5030
        == sum(v for k, v in mer.items() if k.startswith("label"))
    )
    meld = counts("meld")
    assert sum(v for k, v in meld.items() if "label" in k) == 2610 == meld["split test"]
    assert sum(v for k, v in counts("ch-sims").items()) == 2281 and sum(counts("ch-sims-v2").values()) == 4403
    sims = counts("ch-sims", rule="polarity_any")
    assert (
        sum(v for k, v in sims.items() if k.startswith("split") and "subset" in k)
        == 1117
        == sims["subset different_polarity"]
    )


def test_dfew(trees: dict[str, Path]):
    clips = clips_of(read(trees["dfew"], "dfew", fold=2))
    assert [name for name, clip in clips.items() if clip.split == "test"] == ["00002", "00007"]
    assert {clip.label for clip in clips.values()} == set(source("dfew").labels)
    assert clips["00001"].label == "happy" and clips["00001"].video == "Clip/original/1.mp4"
    assert clips["00007"].label == "fear" and clips["00007"].video == "Clip/original/00007.mp4"
    assert len(clips) == 7 and {clip.split for clip in clips_of(read(trees["dfew"], "dfew")).values()} == {"test"}


def test_dfew_frames_alone_are_refused(trees: dict[str, Path], tmp_path: Path):
    root = copied(trees["dfew"], tmp_path)
    (root / "Clip" / "jpg_256" / "00001").mkdir(parents=True)
    (root / "Clip" / "jpg_256" / "00001" / "1.jpg").write_bytes(b"")
    with pytest.raises(LayoutError, match="no video file"):
        read(root, "dfew")


def test_mafw(trees: dict[str, Path]):
    reading = read(trees["mafw"], "mafw", fold=2)
    clips = clips_of(reading)
    assert [name for name, clip in clips.items() if clip.split == "test"] == ["00002", "00007"]
    assert [clips[name].label for name in ("00001", "00011")] == ["anger", "disappointment"]
    assert {clip.label for clip in clips.values()} == set(source("mafw").labels)
    bad = check_files(list(clips.values()), trees["mafw"], "headers")
    assert [(file.clip_id, file.cause) for file in bad] == [("00011", "no_audio_track")]


def test_mafw_bad_line(trees: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "Train & Test Set" / "single" / "no_caption" / "set_1"
    folder.mkdir(parents=True)
    (tmp_path / "clips").mkdir()
    (folder / "train.txt").write_text("00001.mp4 anger\r\n\n00002 fear\n")
    with pytest.raises(LayoutError, match=r"train.txt, line 3: '00002 fear' is not like"):
        read(tmp_path, "mafw")


def test_emer(trees: dict[str, Path]):
    reading = read(trees["emer"], "emer", language="english")
    clips = clips_of(reading)
    assert clips["samplenew_00000001"].labels == ("sad", "let down") and clips["samplenew_00000001"].label is None
    assert clips["samplenew_00000001"].text == "“Well, then.”"
    assert clips["samplenew_00000003"].labels == ("surprised",)
    assert reading.dropped == {"no emotion word": ["samplenew_00000002"]}
    assert clips_of(read(trees["emer"], "emer"))["samplenew_00000001"].labels == ("伤心",)


def test_open_vocabulary_tables(tmp_path: Path):
    rows = [("a", "['angry', 'b c']"), ("b", "['surprised']"), ("c", ""), ("d", "[]"), ("e", "joyful")]
    source_trees.table(tmp_path / "track2_train_ovmerd.csv", ("name", "openset"), rows)
    source_trees.table(
        tmp_path / "subtitle_chieng.csv", ("name", "chinese", "english"), [("a", "你，好", "Hello, you")]
    )
    (tmp_path / "video").mkdir()
    reading = read(tmp_path, "emer")
    clips = clips_of(reading)
    assert {name: clip.labels for name, clip in clips.items()} == {
        "a": ("angry", "b c"),
        "b": ("surprised",),
        "e": ("joyful",),
    }
    assert clips["a"].text == "你，好" and clips["b"].text is None
    assert source("emer").counts(Request(tmp_path, tmp_path)) == {"clips": 332} and reading.tally == {"clips": 5}


# --- adapters to layouts that nobody here has seen


def test_ca_mer_adapter(trees: dict[str, Path]):
    reading = read(trees["ca-mer"], "ca-mer")
    assert {name: (clip.subset, clip.label) for name, clip in clips_of(reading).items()} == {
        "sample_1": ("consistent", "angry"),
        "sample_2": ("video_aligned", "worry"),
        "sample_3": ("audio_aligned", "sad"),
    }
    assert reading.dropped == {"outside the definition: all_different": ["sample_4"]}
    assert not source("ca-mer").verified
    assert [word(label) for label in ("Happiness ", "afraid", "contemptuous", "neutral")] == [
        "happy",
        "fear",
        "contempt",
        "neutral",
    ]


def test_emomm_adapter(trees: dict[str, Path]):
    reading = read(trees["emomm"], "emomm")
    clips = clips_of(reading)
    assert {name: clip.subset for name, clip in clips.items()} == {
        "a1": "align",
        "a1#missing_text": "missing_text",
        "a1#missing_audio": "missing_audio",
        "a1#missing_video": "missing_video",
        "b1": "conflict",
    }
    withheld = clips["a1#missing_video"]
    assert withheld.video is None and withheld.audio == "video/a1.mp4" and withheld.missing == ("video",)
    assert clips["b1"].modality_labels.visual is None and clips["b1"].label == "positive"
    assert list(reading.dropped.values()) == [["c1"]] and not source("emomm").verified
    assert check_duplicates(reading.rows).status == "ok"


def test_emomm_sources_may_not_cross_splits(trees: dict[str, Path], tmp_path: Path):
    columns = ("base_id", "lang", "text", "label_T", "label_A", "label_V", "label_M", "drop", "split")
    rows = [
        ("a1", "zh", "好", "0.8", "0.6", "1.0", "0.8", drop, split)
        for drop, split in (("none", "train"), ("T", "test"))
    ]
    source_trees.table(tmp_path / "labels.csv", columns, rows)
    reading = read(tmp_path, "emomm")
    errors = [found.text for found in check_leakage(reading.rows, source("emomm").disjoint) if found.status == "error"]
    assert errors[0] == "1 of 1 sources are in several splits: a1 (test, train)"
