"""Small feature files in published layouts; the numbers are drawn, nothing of any data set is in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = {"train": 4, "valid": 2, "test": 3}


def dumped(path: Path, value: Any, protocol: int = 4) -> Path:
    """Writes a real pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """float32, none of them 0."""
    return np.random.default_rng([seed, *shape]).uniform(0.1, 1.0, shape).astype(np.float32)


def mmsa_part(clips: int, *, seed: int = 0, aligned: bool = False, unimodal: bool = False) -> dict[str, Any]:
    """One split: clip i has 2 + i audio steps, 1 + i video steps and 3 words (all 2 + i, if aligned)."""
    steps = {"text": 6, "audio": 8, "vision": 8} if not aligned else dict.fromkeys(("text", "audio", "vision"), 8)
    sizes = {"text": 5, "audio": 3, "vision": 4}
    part: dict[str, Any] = {key: numbers(clips, steps[key], sizes[key], seed=seed) for key in steps}
    lengths = {
        "text": [2 + i if aligned else 3 for i in range(clips)],
        "audio": [2 + i for i in range(clips)],
        "vision": [2 + i if aligned else 1 + i for i in range(clips)],
    }
    for key in steps:
        for index, length in enumerate(lengths[key]):
            part[key][index, length:] = 0
    part["id"] = [f"v{seed}$_$000{i}" for i in range(clips)]
    part["raw_text"] = np.array([f"words {i}" for i in range(clips)])
    part["text_bert"] = np.zeros((clips, 3, steps["text"]), np.float32)
    for index, length in enumerate(lengths["text"]):
        part["text_bert"][index, 1, :length] = 1
    scale = 0.2 if unimodal else 1.0
    part["regression_labels"] = np.array([(i - 1) * scale for i in range(clips)], np.float32)
    part["annotations"] = [("Negative", "Neutral", "Positive")[min(i, 2)] for i in range(clips)]
    if unimodal:
        for letter, at in zip("TAV", (-1, 0, 1), strict=True):
            part[f"regression_labels_{letter}"] = np.full(clips, at, np.float32)
    if not aligned:
        part["audio_lengths"], part["vision_lengths"] = lengths["audio"], lengths["vision"]
    return part


def mmsa(path: Path, *, protocol: int = 4, tgt: bool = False, **options: Any) -> Path:
    """A pickle of MMSA."""
    data = {name: mmsa_part(count, seed=at, **options) for at, (name, count) in enumerate(SPLITS.items())}
    if tgt:
        for part in data.values():
            part["tgt"] = [[2, 4, 9, 3], [2, 3], [2, 5, 3], [2, 6, 3]][: len(part["id"])]
    return dumped(path, data, protocol)


def list_pickles(directory: Path, *, protocol: int = 4, steps_last: bool = False) -> Path:
    """MSE-Adapter's three files: clip i has 2 + i audio and 1 + i video steps."""
    names = ("neutral", "joy", "anger")
    for at, (split, count) in enumerate(SPLITS.items()):
        entries = []
        for index in range(count):
            audio, video = numbers(9, 3, seed=at), numbers(7, 4, seed=at)
            audio[2 + index :], video[1 + index :] = 0, 0
            features = {"text": f"words {index}", "audio_len": 2 + index, "video_len": 1 + index}
            features |= {"audio": audio.T if steps_last else audio, "video": video.T if steps_last else video}
            entries.append({"features": features, "label": names[index % 3]})
        dumped(directory / f"meld_{split}.pkl", entries, protocol)
    return directory


def dialogue_rnn(path: Path, *, form: str = "iemocap", protocol: int = 2) -> Path:
    """Twelve dialogues of 2 or 3 turns; the last two are tested."""
    names = [f"Ses0{1 + at // 3}F_impro{at:02d}" if form == "iemocap" else at for at in range(12)]
    turns = {name: 2 + at % 2 for at, name in enumerate(names)}

    def each(value: Any) -> dict[Any, Any]:
        return {name: [value(name, turn) for turn in range(count)] for name, count in turns.items()}

    ids = each(lambda name, turn: f"{name}_{turn}")
    speakers = each(lambda name, turn: "FM"[turn % 2] if form == "iemocap" else [int(turn % 2 == k) for k in range(3)])
    labels = each(lambda name, turn: (names.index(name) + turn) % 3)
    text, audio, video = (
        each(lambda name, turn, seed=seed, size=size: numbers(size, seed=seed + names.index(name) * 10 + turn))
        for seed, size in ((1000, 5), (2000, 3), (3000, 4))
    )
    audio = {name: [values.tolist() for values in found] for name, found in audio.items()}  # lists occur as well
    sentences = each(lambda name, turn: f"It\x92s {name}, {turn}")
    train, test = names[:10], names[10:]
    sentiment = each(lambda name, turn: 2)
    if form == "iemocap":
        return dumped(path, (ids, speakers, labels, text, audio, video, sentences, train, test), protocol)
    middle = (audio, video, sentences) if form == "meld_video" else (audio, sentences)
    return dumped(path, (ids, speakers, labels, text, *middle, train, test, sentiment), protocol)


def label_archive(path: Path, **corpora: Any) -> Path:
    """A MERBench label file: an .npz of 0-dimensional arrays that hold pickled dicts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{key: np.array(value, dtype=object) for key, value in corpora.items()})
    return path


def merbench(directory: Path) -> Path:
    """Utterance-level sound, frame-level video with one clip as a folder of frames, and a label archive."""
    corpora: dict[str, dict[str, dict[str, Any]]] = {}
    for at, (part, count) in enumerate((("train", 5), ("test1", 2), ("test3", 1))):
        names = [f"sample_{at}{index}" for index in range(count)]
        emotions = ("neutral", "angry", "happy")
        corpora[f"{part}_corpus"] = {
            name: {"emo": emotions[index % 3], "val": -10 if part == "test3" else np.float64(index - 1.5)}
            for index, name in enumerate(names)
        }
        for index, name in enumerate(names):
            for folder, values in (("hubert-UTT", numbers(6)), ("clip-FRA", numbers(2 + index, 4, seed=index))):
                (directory / folder).mkdir(parents=True, exist_ok=True)
                np.save(directory / folder / f"{name}.npy", values)
    single = directory / "clip-FRA" / "sample_00.npy"
    frames = np.load(single)
    single.unlink()
    (directory / "clip-FRA" / "sample_00").mkdir()
    for index, frame in enumerate(frames):
        np.save(directory / "clip-FRA" / "sample_00" / f"frame_{index:04d}.npy", frame)
    label_archive(directory / "label-6way.npz", **corpora)
    (directory / "transcription-engchi-polish.csv").write_text(
        "name,chinese,english\nsample_00,你好,hello\nsample_01,,\n"
    )
    return directory


def deepmsi(directory: Path, *, protocol: int = 4, tables: str = "csv", images: bool = True) -> Path:
    """One pickle per utterance and modality; features are torch tensors, as a tokenizer's model gives them."""
    import torch

    for at, (split, count) in enumerate(SPLITS.items()):
        stems = [
            f"dia{at}_utt{i}" if tables == "csv" else f"Ses0{1 + at}F_impro01_{'FM'[i % 2]}00{i}" for i in range(count)
        ]
        if tables == "csv":
            rows = [f"It is {i},Joey,{at},{i}" for i in range(count)]
            text = "Utterance,Speaker,Dialogue_ID,Utterance_ID\n" + "\n".join(rows)
        else:
            text = "".join(f"{stem}\thap\tIt is {i}\n" for i, stem in enumerate(stems))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{split}.{tables}").write_text(text)
        for index, stem in enumerate(stems):
            folder = directory / split
            words = {"text_feature": torch.from_numpy(numbers(5, seed=index)), "label": torch.tensor(index % 3)}
            dumped(folder / "text" / f"{stem}.pkl", words, protocol)
            dumped(folder / "audio" / f"{stem}.pkl", {"audio_feature": numbers(3, seed=index)}, protocol)
            if images:
                dumped(folder / "video" / f"{stem}.pkl", {"images": numbers(4, 3, 2, 2, seed=index)}, protocol)
    return directory


def affwild2(directory: Path) -> Path:
    """Eight training and two validation videos of 12 frames, sound features at half the rate."""
    for name, stems in (
        ("Train_Set", [f"t{i}" for i in range(7)] + ["t7_left", "t7_right"]),
        ("Validation_Set", ["v0", "v1"]),
    ):
        folder = directory / "5th ABAW Annotations" / "VA_Estimation_Challenge" / name
        folder.mkdir(parents=True)
        for at, stem in enumerate(stems):
            rows = [f"{(frame - 6) / 10},{at / 10}" for frame in range(12)]
            rows[1] = "-5,-5"
            (folder / f"{stem}.txt").write_text("valence,arousal\n" + "\n".join(rows) + "\n")
            for kind, steps, size in (("vggish", 6, 3), ("resnet", 12, 4)):
                (directory / kind).mkdir(exist_ok=True)
                if not stem.endswith("_right"):
                    np.save(directory / kind / f"{stem.removesuffix('_left')}.npy", numbers(steps, size, seed=at))
    return directory
