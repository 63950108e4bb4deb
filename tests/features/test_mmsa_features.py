"""MMSA's pickles, and what `mosear features` tells."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mosear.__main__ import main
from mosear.features import FeatureStore
from mosear.features.expected import differences
from tests.helpers.feature_files import dumped, mmsa, mmsa_part

ROOT = Path(__file__).parents[2]


def convert(source: Path, out: Path, *options: str, layout: str = "mmsa") -> int:
    return main(["features", "import", layout, "--source", str(source), "--out", str(out), *options])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_an_unaligned_file_is_converted(tmp_path: Path, capsys, protocol: int):
    assert convert(mmsa(tmp_path / "unaligned_50.pkl", protocol=protocol), tmp_path / "out") == 0
    store = FeatureStore(tmp_path / "out")
    assert store.dimensions == {"text": 5, "audio": 3, "video": 4}
    assert {name: len(store.clips(name)) for name in store.splits} == {"train": 4, "val": 2, "test": 3}
    part = mmsa_part(4)
    for index, clip in enumerate(store.clips("train")):
        found = store.features("train", index)
        np.testing.assert_array_equal(found["text"], part["text"][index, :3])
        np.testing.assert_array_equal(found["audio"], part["audio"][index, : 2 + index])
        np.testing.assert_array_equal(found["video"], part["vision"][index, : 1 + index])
        assert (clip.id, clip.text, clip.score) == (f"v0/000{index}", f"words {index}", index - 1)
        assert clip.label == ("negative", "neutral", "positive", "positive")[index]
    told = capsys.readouterr().out
    assert "audio, size 3" in told and "1 - 4 (3)" in told
    assert "source: unaligned_50.pkl" in told
    assert main(["features", "show", str(tmp_path / "out")]) == 0
    assert "label positive" in capsys.readouterr().out


def test_an_aligned_file_stays_aligned(tmp_path: Path):
    data = {"train": mmsa_part(3, aligned=True), "test": mmsa_part(2, aligned=True, seed=1)}
    data["train"]["vision"][0, 0] = 0  # a face that is not seen at first
    data["train"]["audio"][1] = 0  # no sound at all
    data["train"]["text"][2] = np.roll(data["train"]["text"][2], 4, axis=0)  # padding in front
    data["train"]["audio"][2] = np.roll(data["train"]["audio"][2], 4, axis=0)
    data["train"]["vision"][2] = np.roll(data["train"]["vision"][2], 4, axis=0)
    assert convert(dumped(tmp_path / "aligned_50.pkl", data), tmp_path / "out") == 0
    store = FeatureStore(tmp_path / "out")
    assert {name: len(v) for name, v in store.features("train", 0).items()} == {"text": 2, "audio": 2, "video": 2}
    assert not store.features("train", 0)["video"][0].any()
    assert set(store.features("train", 1)) == {"text", "video"}
    np.testing.assert_array_equal(store.features("train", 2)["text"], mmsa_part(3, aligned=True)["text"][2, :4])
    assert convert(tmp_path / "aligned_50.pkl", tmp_path / "full", "--lengths", "full") == 0
    assert all(len(v) == 8 for v in FeatureStore(tmp_path / "full").features("train", 0).values())


def test_infinite_sound_is_replaced_but_keeps_its_steps(tmp_path: Path, capsys):
    data = {"test": mmsa_part(2)}
    data["test"]["audio"][0, 1] = -np.inf
    data["test"]["vision"][1, 0, 0] = np.nan
    assert convert(dumped(tmp_path / "f.pkl", data), tmp_path / "out", "--lengths", "nonzero") == 0
    found = FeatureStore(tmp_path / "out").features("test", 0)["audio"]
    assert len(found) == 2 and not found[1].any() and found[0].all()
    assert "audio 3, video 1" in capsys.readouterr().out


def test_unimodal_sentiment_of_ch_sims(tmp_path: Path):
    assert convert(mmsa(tmp_path / "f.pkl", unimodal=True), tmp_path / "out") == 0
    clip = FeatureStore(tmp_path / "out").clips("train")[0]
    assert clip.score == pytest.approx(-0.2)
    shown = clip.modality_labels
    assert (shown.text, shown.audio, shown.visual) == ("negative", "neutral", "positive")


def test_label_sets_from_tgt_and_from_a_table(tmp_path: Path, capsys):
    source = mmsa(tmp_path / "f.pkl", tgt=True)
    assert convert(source, tmp_path / "out") == 0
    labels = [clip.labels for clip in FeatureStore(tmp_path / "out").clips("train")]
    assert labels == [("happy", "fear"), (), ("sad",), ("anger",)]
    assert FeatureStore(tmp_path / "out").label_sets == ["anger", "fear", "happy", "sad"]
    assert FeatureStore(tmp_path / "out").labels == ["negative", "neutral", "positive"]
    rows = [f"v{seed},000{i},{i},0,0.33,0,0,3" for seed, count in enumerate((4, 2, 3)) for i in range(count)]
    table = tmp_path / "emotions.csv"
    table.write_text("video_id,clip_id,happy,sad,anger,surprise,disgust,fear\n" + "\n".join(rows))
    assert convert(source, tmp_path / "other", "--emotions", str(table)) == 0
    labels = [clip.labels for clip in FeatureStore(tmp_path / "other").clips("train")]
    assert labels == [("anger", "fear"), *[("happy", "anger", "fear")] * 3]
    capsys.readouterr()
    table.write_text("video_id,clip_id,happy,sad,anger,surprise,disgust,fear\n" + "\n".join(rows[1:]))
    assert convert(source, tmp_path / "third", "--emotions", str(table)) == 2
    assert "has no row for 1 clips, e.g. v0/0000" in capsys.readouterr().err
    table.write_text("video_id,clip_id,happy,sad,anger,surprise,disgust,fear\nv0,0000,9,0,0,0,0,0\n")
    assert convert(source, tmp_path / "third", "--emotions", str(table)) == 2
    assert "happy is '9', not an intensity in 0..3" in capsys.readouterr().err


def test_known_data_sets_are_compared(tmp_path: Path, capsys):
    source = mmsa(tmp_path / "f.pkl")
    assert convert(source, tmp_path / "out", "--expect", "mosi") == 2
    told = capsys.readouterr().err
    assert "train has 4 clips, published are 1,284" in told
    assert "audio has 3 numbers per step, published are 5" in told and "--allow-mismatch" in told
    assert os.listdir(tmp_path) == ["f.pkl"]
    assert convert(source, tmp_path / "out", "--expect", "mosi", "--allow-mismatch") == 0
    assert "differs from mosi: train has 4 clips" in capsys.readouterr().out


def test_published_numbers_match_themselves():
    sizes = {"text": 768, "audio": 74, "video": 35}
    counts = {"train": 16326, "val": 1871, "test": 4659}
    about = {"layout": "mmsa", "own_validation": False, "modalities": sizes}
    about["splits"] = {name: {"clips": count} for name, count in counts.items()}
    assert differences("mosei", about) == []
    assert differences("mosei", {**about, "modalities": {**sizes, "audio": 33}}) == [
        "audio has 33 numbers per step, published are 74"
    ]
    meld = {"layout": "dialogue_rnn", "own_validation": True, "modalities": {"text": 600}}
    meld["splits"] = {name: {"clips": count} for name, count in {"train": 10000, "val": 1098, "test": 2610}.items()}
    assert differences("meld", meld) == []
    assert differences("meld", {**meld, "own_validation": False}) != []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.clear(), "expected train, valid, test, found nothing"),
        (lambda data: data["train"].pop("id"), "train: expected id; id not found. There are text, audio"),
        (lambda data: data["train"].update(audio=np.zeros(4)), r"audio has the shape [4]"),
        (lambda data: data["train"].update(audio_lengths=[1]), "audio_lengths has 1 entries for 4 ids"),
        (lambda data: data["train"].update(regression_labels=np.full(4, 5.0)), "sentiment 5 is beyond 3"),
        (lambda data: data["train"].update(tgt=[[2, 10, 3]] * 4), "tgt holds 10; emotions are the ids 4 to 9"),
        (lambda data: [data["train"].pop(key) for key in ("text", "audio", "vision")], "there are no features"),
        (lambda data: data["test"].update(id=data["train"]["id"][:3]), "the split train has a clip of this name too"),
    ],
)
def test_other_content_is_one_sentence(tmp_path: Path, capsys, change, message: str):
    data = pickle.loads(mmsa(tmp_path / "f.pkl").read_bytes())
    change(data)
    assert convert(dumped(tmp_path / "f.pkl", data), tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert message in told and told.startswith("error: ") and not (tmp_path / "out").exists()


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_malicious_file_is_refused_by_the_command(tmp_path: Path):
    made = tmp_path / "made"
    data = {"train": {**mmsa_part(2), "annotations": _Evil(made)}}
    source = dumped(tmp_path / "f.pkl", data, 2)
    command = [
        sys.executable,
        "-m",
        "mosear",
        "features",
        "import",
        "mmsa",
        "--source",
        source,
        "--out",
        tmp_path / "o",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "mkdir is not allowed in a feature file" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["f.pkl"]


def test_sources_that_are_not_there(tmp_path: Path, capsys):
    assert convert(tmp_path / "none.pkl", tmp_path / "out") == 2
    assert "none.pkl is not there" in capsys.readouterr().err
    mmsa(tmp_path / "Processed" / "unaligned_50.pkl")
    assert convert(tmp_path, tmp_path / "out") == 2
    assert "is a directory; name one pickle of it (there: unaligned_50.pkl)" in capsys.readouterr().err
    assert main(["features", "show", str(tmp_path)]) == 2
    assert "holds no features" in capsys.readouterr().err


def test_help_loads_no_torch():
    code = "import sys; from mosear.features.layouts import LAYOUTS; assert LAYOUTS and 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
