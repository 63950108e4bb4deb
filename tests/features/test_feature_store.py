"""Directories of features: what is written is what is read."""

import hashlib
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from mosear.data.clip import ModalityLabels
from mosear.data.manifest import load_manifest
from mosear.data.series import series_text
from mosear.features import FeatureStore
from mosear.features.items import Item, Reading
from mosear.features.writing import write_store
from tests.helpers.feature_files import numbers

ITEMS = {
    "train": [
        Item(
            "a/0", {"text": numbers(2, 5), "audio": numbers(4, 3), "video": numbers(7)}, text="one", label=1, score=0.5
        ),
        Item(
            "a/1",
            {"audio": numbers(1, 3), "video": numbers(0, 7)},
            labels=("sad", "fear"),
            speaker="s",
            context=("one",),
        ),
    ],
    "test": [
        Item(
            "b/0",
            {"text": numbers(3, 5)},
            text="two",
            label=0,
            modality_labels=ModalityLabels(text="sad"),
            subset="hard",
            series=series_text(5, [[0.1, None]]),
        )
    ],
}


def reading(items=ITEMS, **options) -> Reading:
    return Reading(dict(items), {name: len(part) for name, part in items.items()}, **{"sources": [], **options})


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    (tmp_path / "source.pkl").write_bytes(b"published")
    write_store(tmp_path / "out", reading(sources=[tmp_path / "source.pkl"]), "mmsa", labels=["joy", "sad"])
    return FeatureStore(tmp_path / "out")


def test_features_come_back_as_they_were(store: FeatureStore):
    assert store.dimensions == {"text": 5, "audio": 3, "video": 7}
    assert store.splits == ("train", "test") and store.labels == ["joy", "sad"]
    for split, items in ITEMS.items():
        for index, item in enumerate(items):
            found = store.features(split, index)
            given = {name: np.atleast_2d(values) for name, values in item.features.items() if values.size}
            assert set(found) == set(given)
            for name, values in given.items():
                assert found[name].dtype == np.float32
                np.testing.assert_array_equal(found[name], values)
    with pytest.raises(IndexError, match="train has no clip 2"):
        store.features("train", 2)
    with pytest.raises(ValueError, match="has no split 'val'; it has train, test"):
        store.clips("val")
    with pytest.raises(ValueError, match="has no split 'val'"):
        store.features("val", 0)


def test_clips_say_what_they_have(store: FeatureStore):
    first, second = store.clips("train")
    assert (first.id, first.text, first.label, first.score, first.split) == ("a/0", "one", "sad", 0.5, "train")
    assert first.video == first.audio == "train.safetensors" and first.present == ("video", "audio", "text")
    assert second.video is None and second.present == ("audio",)
    assert second.labels == ("sad", "fear") and second.speaker == "s" and second.context == ("one",)
    (third,) = store.clips("test")
    assert third.label == "joy" and third.subset == "hard" and third.modality_labels.text == "sad"
    assert third.annotations.rate == 5
    assert store.manifest("train").check_files() == []


def test_the_directory_explains_itself(store: FeatureStore):
    about = json.loads((store.directory / "features.json").read_text())
    source = store.directory.parent / "source.pkl"
    assert about["sources"] == [
        {"name": "source.pkl", "bytes": 9, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    ]
    assert about["layout"] == "mmsa" and about["splits"]["train"]["clips"] == 2
    assert about["splits"]["train"]["lengths"]["text"] == {"shortest": 2, "median": 2, "longest": 2, "absent": 1}
    assert about["splits"]["train"]["labels"] == {"sad": 1}
    assert about["splits"]["train"]["label_sets"] == {"fear": 1, "sad": 1}
    assert sorted(os.listdir(store.directory)) == sorted(
        ["features.json", "train.parquet", "train.safetensors", "test.parquet", "test.safetensors"]
    )
    with safe_open(store.directory / "train.safetensors", framework="numpy") as file:
        assert sorted(file.keys()) == ["0/audio", "0/text", "0/video", "1/audio"]
    assert len(load_manifest(store.directory / "train.parquet")) == 2


def test_a_store_can_be_sent_and_shared(store: FeatureStore):
    store.features("train", 0)
    again = pickle.loads(pickle.dumps(store))
    assert again.dimensions == store.dimensions
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: again.features("train", 0)["audio"], range(16)):
            np.testing.assert_array_equal(found, ITEMS["train"][0].features["audio"])


def test_what_is_not_finite_becomes_zero_and_is_counted(tmp_path: Path):
    audio = numbers(3, 3).astype(np.float64)
    audio[0, 0], audio[1, 1], audio[2, 2], audio[0, 1] = -np.inf, np.nan, np.inf, 1e300
    about = write_store(tmp_path / "out", reading({"test": [Item("a", {"audio": audio})]}), "mmsa")
    assert about["splits"]["test"]["replaced"] == {"audio": 4}
    found = FeatureStore(tmp_path / "out").features("test", 0)["audio"]
    expected = np.where(np.isfinite(audio) & (np.abs(audio) < 1e38), audio, 0).astype(np.float32)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"test": [Item("a", {"audio": numbers(2, 3, 4)})]}, r"'a': audio has the shape \[2, 3, 4\]"),
        ({"test": [Item("a", {"audio": [[1, 2], [3]]})]}, "'a': audio does not hold numbers of one shape"),
        ({"test": [Item("a", {"audio": ["x"]})]}, "'a': audio does not hold numbers"),
        ({"test": [Item("a", {"face": numbers(2)})]}, "unknown modalities face"),
        (
            {"train": [Item("a", {"audio": numbers(3)})], "test": [Item("b", {"audio": numbers(4)})]},
            "4 numbers per step",
        ),
        (
            {"train": [Item("a", {"audio": numbers(3)})], "test": [Item("a", {"audio": numbers(3)})]},
            "the split train has",
        ),
        ({"test": [Item("a", {"audio": numbers(3)})] * 2}, "duplicate id 'a'"),
        ({"test": [Item("a", {})]}, "no modality is present"),
        ({"test": []}, "the split test has no clips"),
        ({"test": [Item("a", {"audio": numbers(3)}, label=2)]}, "the class 2 has no name; --labels names 2"),
        ({"test": [Item("a", {"audio": numbers(3)}, label="rage")]}, "the label 'rage' is not one of --labels joy,sad"),
    ],
)
def test_wrong_items_are_named_and_leave_nothing(tmp_path: Path, items, message: str):
    with pytest.raises(ValueError, match=message):
        write_store(tmp_path / "out", reading(items), "mmsa", labels=["joy", "sad"])
    assert os.listdir(tmp_path) == []


def test_features_are_not_overwritten_unasked(store: FeatureStore, tmp_path: Path):
    one = reading({"test": [Item("a", {"audio": numbers(3)})]})
    with pytest.raises(ValueError, match="holds features already; --overwrite replaces them"):
        write_store(store.directory, one, "mmsa")
    assert store.splits == ("train", "test")
    write_store(store.directory, one, "mmsa", overwrite=True)
    assert FeatureStore(store.directory).splits == ("test",)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for target in (tmp_path / "mine", tmp_path / "source.pkl"):
        with pytest.raises(ValueError, match="holds no features; name a directory that is not there"):
            write_store(target, one, "mmsa", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_damaged_directories_say_so(store: FeatureStore, tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no features: there is no features\.json"):
        FeatureStore(tmp_path)
    (store.directory / "train.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"train\.safetensors cannot be read .*; import the features again"):
        store.features("train", 0)
    (store.directory / "train.parquet").write_bytes((store.directory / "test.parquet").read_bytes())
    with pytest.raises(ValueError, match="has 1 clips, not 2; import it again"):
        store.clips("train")
    for content, message in (('{"format": 99}', "has the format 99, this version reads 1"), ("{", "is damaged")):
        (store.directory / "features.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            FeatureStore(store.directory)
