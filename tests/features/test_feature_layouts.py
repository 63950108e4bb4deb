"""Published layouts other than MMSA's, each on small files of the same shape."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mosear.__main__ import main
from mosear.commands.features import parse_arguments
from mosear.features import FeatureStore
from mosear.features.layouts import LAYOUTS
from mosear.features.layouts.base import LayoutError, held_out
from tests.helpers import feature_files
from tests.helpers.feature_files import dumped, label_archive, numbers

ROOT = Path(__file__).parents[2]


def convert(layout: str, source: Path, out: Path, *options: str) -> int:
    return main(["features", "import", layout, "--source", str(source), "--out", str(out), *options])


def converted(layout: str, source: Path, out: Path, *options: str) -> FeatureStore:
    assert convert(layout, source, out, *options) == 0
    return FeatureStore(out)


def refused(capsys, layout: str, source: Path, out: Path, *options: str) -> str:
    assert convert(layout, source, out, *options) == 2
    assert not out.exists()
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "Traceback" not in told
    return told


def sizes(store: FeatureStore) -> dict[str, int]:
    return {split: len(store.clips(split)) for split in store.splits}


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_layouts_are_found_and_explained():
    assert set(LAYOUTS) == {"affwild2", "deepmsi", "dialogue_rnn", "list_pickle", "merbench", "mmsa"}
    for name in LAYOUTS:
        command = [sys.executable, "-m", "mosear", "features", "import", name, "--help"]
        if name in ("mmsa", "merbench"):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0 and LAYOUTS[name].tree in done.stdout
    assert all(layout.evidence.endswith(".") for layout in LAYOUTS.values())


def test_the_commands_of_the_page_are_understood():
    page = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    commands = [line.strip() for line in re.findall(r"mosear features (import .*?)(?:`|$)", page, re.MULTILINE)]
    parsed = [parse_arguments(command.split()) for command in commands if "--source" in command]
    assert {options.layout for options in parsed} == set(LAYOUTS)


# --- MSE-Adapter


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("steps_last", [False, True])
def test_list_pickles(tmp_path: Path, protocol: int, steps_last: bool):
    source = feature_files.list_pickles(tmp_path / "MELD", protocol=protocol, steps_last=steps_last)
    store = converted("list_pickle", source, tmp_path / "out", *(["--steps-last"] if steps_last else []))
    assert sizes(store) == {"train": 4, "val": 2, "test": 3} and store.dimensions == {"audio": 3, "video": 4}
    for index, clip in enumerate(store.clips("train")):
        found = store.features("train", index)
        np.testing.assert_array_equal(found["audio"], numbers(9, 3)[: 2 + index])
        np.testing.assert_array_equal(found["video"], numbers(7, 4)[: 1 + index])
        assert (clip.id, clip.text) == (f"train/{index:05d}", f"words {index}")
        assert clip.label == ("neutral", "joy", "anger")[index % 3]
    assert store.labels == ["anger", "joy", "neutral"]


def test_list_pickles_that_are_not_so(tmp_path: Path, capsys):
    source = feature_files.list_pickles(tmp_path / "MELD")
    out = tmp_path / "out"
    assert "meld_test.pkl is a file" in refused(capsys, "list_pickle", source / "meld_test.pkl", out).replace("\n", " ")
    assert "the label 'joy' is not one of --labels neutral" in refused(
        capsys, "list_pickle", source, out, "--labels", "neutral"
    )
    dumped(source / "cherma_train.pkl", [])
    told = refused(capsys, "list_pickle", source, out)
    assert "there are cherma, meld; choose with --name" in told
    told = refused(capsys, "list_pickle", source, out, "--name", "cherma")
    assert "cherma_valid.pkl, cherma_test.pkl not found" in told
    entries = pickle.loads((source / "meld_train.pkl").read_bytes())
    entries[1]["features"]["audio_len"] = 99
    dumped(source / "meld_train.pkl", entries)
    told = refused(capsys, "list_pickle", source, out, "--name", "meld")
    assert "train, clip 1: audio_len is 99, audio has 9 steps (--steps-last reads the other axis" in told
    dumped(source / "meld_train.pkl", {"features": 1})
    assert "expected a list of clips, found dict" in refused(capsys, "list_pickle", source, out, "--name", "meld")


# --- DialogueRNN


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("form", ["iemocap", "meld", "meld_video"])
def test_dialogues(tmp_path: Path, capsys, form: str, protocol: int):
    source = feature_files.dialogue_rnn(tmp_path / "features.pkl", form=form, protocol=protocol)
    options = ["--labels", "hap,sad,neu", "--validation", "0.2", "--context", "1"]
    store = converted("dialogue_rnn", source, tmp_path / "out", *options)
    assert store.dimensions == {"text": 5, "audio": 3, **({} if form == "meld" else {"video": 4})}
    clips = {split: store.clips(split) for split in store.splits}
    dialogues = {split: {clip.id.rsplit("/", 1)[0] for clip in found} for split, found in clips.items()}
    assert {split: len(found) for split, found in dialogues.items()} == {"train": 8, "val": 2, "test": 2}
    assert not dialogues["train"] & dialogues["val"] and not dialogues["test"] & (dialogues["train"] | dialogues["val"])
    first, second = clips["test"][:2]
    at = 10
    name = "Ses04F_impro10" if form == "iemocap" else "10"
    assert (first.id, first.label, second.label) == (f"{name}/000", "sad", "neu")
    assert first.speaker == f"{name}/{'F' if form == 'iemocap' else 0}"
    assert second.speaker == f"{name}/{'M' if form == 'iemocap' else 1}"
    assert first.text == f"It’s {name}, 0" and first.context == () and second.context == (first.text,)
    for turn in (0, 1):
        found = store.features("test", turn)
        np.testing.assert_array_equal(found["text"], numbers(5, seed=1000 + at * 10 + turn)[None])
        np.testing.assert_array_equal(found["audio"], numbers(3, seed=2000 + at * 10 + turn)[None])
    assert "dialogues: train 8, val 2, test 2" in capsys.readouterr().out
    again = converted("dialogue_rnn", source, tmp_path / "again", *options)
    assert [clip.id for clip in again.clips("val")] == [clip.id for clip in clips["val"]]


def test_sentiment_of_meld(tmp_path: Path, capsys):
    meld = feature_files.dialogue_rnn(tmp_path / "meld.pkl", form="meld")
    assert converted("dialogue_rnn", meld, tmp_path / "out", "--sentiment").labels == ["2"]
    iemocap = feature_files.dialogue_rnn(tmp_path / "iemocap.pkl")
    assert "IEMOCAP's file has no sentiment" in refused(
        capsys, "dialogue_rnn", iemocap, tmp_path / "none", "--sentiment"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.pop(), "expected a tuple of 9 or 10, found tuple of 8"),
        (lambda parts: parts[3].popitem(), "labels, but nothing under text"),
        (lambda parts: parts[6]["Ses01F_impro00"].pop(), "has 2 labels, but 1 turns under sentences"),
        (lambda parts: parts[8].append("Ses01F_impro00"), "1 dialogues are in training and in test"),
        (lambda parts: parts[8].append("Ses09F"), "1 dialogues have no labels, e.g. Ses09F"),
        (lambda parts: parts.__setitem__(7, {}), "part train of iemocap is no list of dialogues; see --form"),
        (lambda parts: parts.__setitem__(0, []), "part ids of iemocap is no list of a dict by dialogue; see --form"),
    ],
)
def test_dialogues_that_are_not_so(tmp_path: Path, capsys, change, message: str):
    parts = list(pickle.loads(feature_files.dialogue_rnn(tmp_path / "f.pkl").read_bytes()))
    change(parts)
    dumped(tmp_path / "f.pkl", tuple(parts))
    assert message in refused(capsys, "dialogue_rnn", tmp_path / "f.pkl", tmp_path / "out")


def test_a_validation_part_is_the_same_everywhere():
    names = [f"d{i}" for i in range(40)]
    assert held_out(names, 0.1) == held_out(reversed(names), 0.1) and len(held_out(names, 0.1)) == 4
    for share in (0.0, 1.0, -1):
        with pytest.raises(LayoutError, match="a share between 0 and 1"):
            held_out(names, share)
    with pytest.raises(LayoutError, match="leaves nothing to train on"):
        held_out(["a"], 0.5)


# --- MERBench

MERBENCH = ("--audio", "hubert-UTT", "--video", "clip-FRA")


def test_merbench(tmp_path: Path):
    source = feature_files.merbench(tmp_path / "mer2023")
    transcripts = ("--transcripts", "transcription-engchi-polish.csv")
    store = converted("merbench", source, tmp_path / "out", *MERBENCH, *transcripts, "--validation", "0.2")
    assert sizes(store) == {"train": 4, "val": 1, "test": 3} and store.dimensions == {"audio": 6, "video": 4}
    assert [(clip.id, clip.subset, clip.label, clip.score) for clip in store.clips("test")] == [
        ("sample_10", "test1", "neutral", -1.5),
        ("sample_11", "test1", "angry", -0.5),
        ("sample_20", "test3", "neutral", None),
    ]
    everything = {clip.id: (split, at, clip) for split in store.splits for at, clip in enumerate(store.clips(split))}
    split, at, clip = everything["sample_00"]
    assert clip.text == "你好" and everything["sample_01"][2].text is None
    np.testing.assert_array_equal(store.features(split, at)["video"], numbers(2, 4, seed=0))
    np.testing.assert_array_equal(store.features(split, at)["audio"], numbers(6)[None])
    (source_file,) = [source for source in store.about["sources"]]
    assert source_file["name"] == "18 files"


def test_iemocap_of_merbench_is_split_by_session(tmp_path: Path):
    names = [f"Ses0{session}F_impro0{d}_F00{turn}" for session in range(1, 6) for d in range(2) for turn in range(2)]
    (tmp_path / "wav").mkdir()
    for name in names:
        np.save(tmp_path / "wav" / f"{name}.npy", numbers(3))
    label_archive(
        tmp_path / "label_4way.npz", whole_corpus={name: {"emo": i % 4, "val": -10} for i, name in enumerate(names)}
    )
    options = ("--audio", "wav", "--labels", "happy,sad,neutral,anger", "--session", "2")
    store = converted("merbench", tmp_path, tmp_path / "out", *options)
    assert {clip.id[:5] for clip in store.clips("test")} == {"Ses02"}
    dialogues = [{clip.id.rsplit("_", 1)[0] for clip in store.clips(split)} for split in ("train", "val")]
    assert not dialogues[0] & dialogues[1] and dialogues[1]
    assert store.labels == ["happy", "sad", "neutral", "anger"]


def test_sentiment_sets_of_merbench_have_scores_alone(tmp_path: Path):
    (tmp_path / "wav").mkdir()
    for name in "abc":
        np.save(tmp_path / "wav" / f"{name}.npy", numbers(3))
    corpora = {
        f"{part}_corpus": {name: {"emo": 0, "val": np.float32(0.5)}}
        for part, name in zip(("train", "val", "test"), "abc", strict=True)
    }
    label_archive(tmp_path / "label.npz", **corpora)
    store = converted("merbench", tmp_path, tmp_path / "out", "--audio", "wav")
    assert [(clip.label, clip.score) for clip in store.clips("val")] == [(None, 0.5)] and not store.about[
        "own_validation"
    ]


def test_merbench_that_is_not_so(tmp_path: Path, capsys):
    source, out = feature_files.merbench(tmp_path / "mer2023"), tmp_path / "out"
    assert "give at least one of --text, --audio and --video" in refused(capsys, "merbench", source, out)
    assert "is not a directory" in refused(capsys, "merbench", source, out, "--audio", "none")
    (source / "hubert-UTT" / "sample_03.npy").unlink()
    told = refused(capsys, "merbench", source, out, *MERBENCH)
    assert "clips without a feature file: audio: 1, e.g. " in told and "sample_03.npy" in told
    store = converted("merbench", source, tmp_path / "partly", *MERBENCH, "--on-missing", "absent")
    assert sum("audio" not in clip.present for split in store.splits for clip in store.clips(split)) == 1
    made = tmp_path / "made"
    np.save(source / "hubert-UTT" / "sample_03.npy", np.array([_Evil(made)], dtype=object), allow_pickle=True)
    told = refused(capsys, "merbench", source, out, *MERBENCH)
    assert "sample_03.npy is no .npy file of numbers" in told and not made.exists()
    label_archive(source / "label-6way.npz", train_corpus={"sample_00": {"emo": _Evil(made)}})
    told = refused(capsys, "merbench", source, out, *MERBENCH)
    assert "mkdir is not allowed in a feature file" in told and not made.exists()
    label_archive(source / "label-6way.npz", dev_corpus={"../../etc": {"emo": "sad", "val": 0.0}})
    told = refused(capsys, "merbench", source, out, *MERBENCH)
    assert "the archive has dev_corpus; say with --part KEY=SPLIT" in told
    told = refused(capsys, "merbench", source, out, *MERBENCH, "--part", "dev_corpus=val")
    assert "names a clip '../../etc', which is no file name" in told
    assert "parts are dev_corpus" in refused(capsys, "merbench", source, out, *MERBENCH, "--part", "dev_corpus=dev")


# --- DeepMSI-MER


@pytest.mark.parametrize(("tables", "protocol"), [("csv", 2), ("txt", 4)])
def test_deepmsi(tmp_path: Path, capsys, tables: str, protocol: int):
    source = feature_files.deepmsi(tmp_path / "data", tables=tables, protocol=protocol)
    store = converted("deepmsi", source, tmp_path / "out", "--labels", "neutral,surprise,fear")
    assert sizes(store) == {"train": 4, "val": 2, "test": 3} and store.dimensions == {"text": 5, "audio": 3}
    clip = store.clips("val")[1]
    name, speaker = ("dia1_utt1", "Joey") if tables == "csv" else ("Ses02F_impro01_M001", "Ses02M")
    assert (clip.id, clip.label, clip.text, clip.speaker) == (f"val/{name}", "surprise", "It is 1", speaker)
    np.testing.assert_array_equal(store.features("val", 1)["text"], numbers(5, seed=1)[None])
    assert "video holds pixels, which are left out; --pixels flatten takes them" in capsys.readouterr().out
    store = converted("deepmsi", source, tmp_path / "pixels", "--pixels", "flatten")
    np.testing.assert_array_equal(store.features("train", 2)["video"], numbers(4, 3, 2, 2, seed=2).reshape(4, 12))


def test_deepmsi_that_is_not_so(tmp_path: Path, capsys):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    assert "expected train, valid and test with .csv (MELD) or .txt" in refused(
        capsys, "deepmsi", tmp_path / "empty", out
    )
    source = feature_files.deepmsi(tmp_path / "data", tables="txt", images=False)
    path = source / "train" / "audio" / "Ses01F_impro01_F000.pkl"
    content = path.read_bytes()
    path.unlink()
    assert re.search(r"1 files are not there, e\.g\. .*F000\.pkl", refused(capsys, "deepmsi", source, out))
    dumped(path, {"feature": 1})
    assert "expected audio_feature; audio_feature not found. There are feature" in refused(
        capsys, "deepmsi", source, out
    )
    made = tmp_path / "made"
    dumped(path, {"audio_feature": _Evil(made)})
    assert "mkdir is not allowed in a feature file" in refused(capsys, "deepmsi", source, out) and not made.exists()
    path.write_bytes(content)
    (source / "valid.txt").write_text("Ses01F_impro01_F000\thap\n")
    assert "line 1: 2 cells instead of File_name, Emotion and Text" in refused(capsys, "deepmsi", source, out)
    (source / "valid.txt").write_text("../Ses01F_impro01_F000\thap\tHi\n")
    assert "is no file name" in refused(capsys, "deepmsi", source, out)


# --- Aff-Wild2

AFFWILD2 = ("--audio", "vggish", "--video", "resnet", "--rate", "30")


def test_affwild2(tmp_path: Path):
    source = feature_files.affwild2(tmp_path / "affwild2")
    store = converted("affwild2", source, tmp_path / "out", *AFFWILD2, "--validation", "0.25")
    assert {split: len({clip.id.split("_")[0] for clip in store.clips(split)}) for split in store.splits} == {
        "train": 6,
        "val": 2,
        "test": 2,
    }
    clip = store.clips("test")[1]
    rate, values = clip.annotations
    assert clip.id == "v1" and rate == 30 and values.shape == (12, 2)
    assert np.isnan(values[1]).all() and values[2].tolist() == [-0.4, 0.1]
    found = store.features("test", 1)
    assert found["audio"].shape == (6, 3) and found["video"].shape == (12, 4)
    everything = {clip.id for split in store.splits for clip in store.clips(split)}
    assert {"t7_left", "t7_right"} <= everything


def test_windows_of_affwild2(tmp_path: Path):
    source = feature_files.affwild2(tmp_path / "affwild2")
    store = converted("affwild2", source, tmp_path / "out", *AFFWILD2, "--stride", "2", "--window", "4")
    first, second = store.clips("test")[:2]
    assert (first.id, second.id, first.speaker) == ("v0/000000", "v0/000004", "v0")
    whole = np.array([[(frame - 6) / 10, 0.0] for frame in range(0, 12, 2)])
    assert first.annotations.rate == 15
    np.testing.assert_allclose(first.annotations.values, whole[:4])
    np.testing.assert_allclose(second.annotations.values, whole[4:])
    audio = numbers(6, 3, seed=0)
    np.testing.assert_array_equal(store.features("test", 0)["audio"], audio[:4])
    np.testing.assert_array_equal(store.features("test", 1)["audio"], audio[4:])
    assert len(store.features("test", 0)["video"]) == 8 and len(store.features("test", 1)["video"]) == 4


def test_training_windows_of_affwild2_overlap(tmp_path: Path, capsys):
    source = feature_files.affwild2(tmp_path / "affwild2")
    store = converted("affwild2", source, tmp_path / "out", *AFFWILD2, "--window", "6", "--hop", "4")
    starts = {split: {clip.id.split("/")[1] for clip in store.clips(split)} for split in store.splits}
    assert starts["train"] == {"000000", "000004", "000008"}, "12 frames: the last window holds what is left"
    assert starts["test"] == {"000000", "000006"}, "each annotated frame counts once"
    told = refused(capsys, "affwild2", source, tmp_path / "o", *AFFWILD2, "--window", "4", "--hop", "5")
    assert "--hop 5 needs a --window of at least as many frames, got 4" in told


def test_affwild2_that_is_not_so(tmp_path: Path, capsys):
    source, out = feature_files.affwild2(tmp_path / "affwild2"), tmp_path / "out"
    assert "give at least one of --audio, --video and --text" in refused(
        capsys, "affwild2", source, out, "--rate", "30"
    )
    assert "--window is at least 2, got 1" in refused(capsys, "affwild2", source, out, *AFFWILD2, "--window", "1")
    for folder in ("vggish", "resnet"):
        (source / folder / "t3.npy").unlink()
    assert "1 annotations have no feature file, e.g. t3" in refused(capsys, "affwild2", source, out, *AFFWILD2)
    store = converted("affwild2", source, tmp_path / "others", *AFFWILD2, "--on-missing", "skip")
    assert "left out, without features: 1" in store.about["notes"]
    (path,) = source.rglob("v0.txt")
    for text, message in (
        ("0.1,0.2\n", "the first line is '0.1,0.2', not valence,arousal"),
        ("valence,arousal\n0.1\n", "line 2: '0.1' is no pair of numbers"),
        ("valence,arousal\n0.1,7\n", "line 2: '0.1,7' is not in -1..1, nor -5"),
        ("valence,arousal\n", "annotates no frame"),
    ):
        path.write_text(text)
        assert message in refused(capsys, "affwild2", source, out, *AFFWILD2, "--on-missing", "skip")
