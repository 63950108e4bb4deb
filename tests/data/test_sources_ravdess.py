"""RAVDESS, and clips whose face and voice are acted differently."""

import itertools
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from mosear.data.container import MediaError
from mosear.data.manifest import load_manifest
from mosear.data.media import MediaBudget, decode
from mosear.data.prepare import main
from mosear.data.sources import Remux, Request, source
from mosear.data.sources.base import tally_of
from mosear.data.sources.ravdess_conflict import EMOTIONS, weak_partner
from mosear.data.sources.remux import RATE, fitted, remux, remux_all
from tests.helpers import source_trees


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source_trees.ravdess(tmp_path_factory.mktemp("ravdess"))


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 7,356 names of RAVDESS, songs among them, without content."""
    root = tmp_path_factory.mktemp("names")
    for actor in range(1, 25):
        folder = root / f"Actor_{actor:02d}"
        folder.mkdir()
        for channel, emotion, intensity, statement, repetition in itertools.product(
            (1, 2), range(1, 9), (1, 2), (1, 2), (1, 2)
        ):
            # No strong neutral; nobody sings disgust or surprise, and actor 18 sings nothing.
            if (emotion == 1 and intensity == 2) or (channel == 2 and (emotion > 6 or actor == 18)):
                continue
            for modality, suffix in (("01", "mp4"), ("02", "mp4"), ("03", "wav")):
                fields = (channel, emotion, intensity, statement, repetition, actor)
                (folder / f"{modality}-{'-'.join(f'{field:02d}' for field in fields)}.{suffix}").touch()
    return root


def read(root: Path, name: str = "ravdess", **options):
    return source(name).import_from(Request(root, options.pop("out", root / "out.parquet"), **options))


def test_a_name_says_everything(tree: Path):
    clips = {row.clip.id: row.clip for row in read(tree).rows}
    assert len(clips) == 60
    clip = clips["01-06-02-01-02-02"]
    assert (clip.label, clip.speaker, clip.text) == ("fear", "02", "Kids are talking by the door.")
    assert clip.video == "Actor_02/02-01-06-02-01-02-02.mp4" and clip.audio == "Actor_02/03-01-06-02-01-02-02.wav"
    assert clips["01-02-01-01-01-01"].audio == "video"  # one file holds both tracks
    assert read(tree).dropped == {"song": ["02-03-01-01-01-01"]}


def test_counts_of_the_full_set(names: Path):
    assert len([path for path in names.rglob("*.*")]) == 7356
    for fold in (None, 1, 6):
        rows = read(names, fold=fold).rows
        expected = source("ravdess").counts(Request(names, names, fold))
        assert {key: tally_of(rows)[key] for key in expected} == expected
    test = Counter(row.clip.label for row in read(names, fold=3).rows if row.clip.split == "test")
    assert test == {"neutral": 16, **dict.fromkeys(set(test) - {"neutral"}, 32)}
    assert {row.clip.speaker for row in read(names, fold=1).rows if row.clip.split == "test"} == {
        "01",
        "02",
        "03",
        "04",
    }


def test_conflicts_are_balanced(names: Path, tmp_path: Path):
    reading = read(names, "ravdess-conflict", out=tmp_path / "m.parquet")
    expected = source("ravdess-conflict").counts(Request(names, names))
    assert {key: tally_of(reading.rows)[key] for key in expected} == expected
    assert reading.dropped == {} and len(reading.remuxes) == 864
    for row in reading.rows:
        clip, shown = row.clip, row.clip.modality_labels
        assert (shown.visual == shown.audio) == (clip.subset == "consistent")
        assert clip.label == (shown.audio if clip.subset == "audio_aligned" else shown.visual)
    weak = Counter(
        (row.clip.label, row.clip.modality_labels.audio) for row in reading.rows if row.clip.subset == "video_aligned"
    )
    assert set(weak.values()) == {8} and len(weak) == 36


def test_the_weaker_side_says_nothing_about_sentence_or_sex():
    for strong, direction in itertools.product(EMOTIONS, (0, 1)):
        seen = Counter(
            (weak_partner(strong, actor, statement, direction), statement, actor % 2)
            for actor in range(1, 25)
            for statement in (1, 2)
        )
        assert set(seen.values()) == {2} and len(seen) == 24 and strong not in {emotion for emotion, *_ in seen}


def test_sources_of_a_conflict_clip(names: Path, tmp_path: Path):
    """Face of the first repetition, voice of the second; strong on the side that gives the label."""
    reading = read(names, "ravdess-conflict", out=tmp_path / "m.parquet")
    for row, job in zip(reading.rows, reading.remuxes, strict=True):
        face, voice = job.picture.stem.split("-")[1:], job.sound.stem.split("-")[1:]
        assert (face[3], face[5]) == (voice[3], voice[5]) and (face[4], voice[4]) == ("01", "02")
        strength = {"consistent": ("02", "02"), "video_aligned": ("02", "01"), "audio_aligned": ("01", "02")}
        assert (face[2], voice[2]) == strength[row.clip.subset]
        assert job.target == tmp_path / row.clip.video


def packets(path: Path) -> list[bytes]:
    with av.open(path) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("seconds", [0.2, 0.9])
def test_remux_keeps_the_picture_and_fits_the_sound(tmp_path: Path, seconds: float):
    picture = source_trees.media(tmp_path / "face.mp4", frames=5)
    sound = source_trees.media(tmp_path / "voice.wav", video=False, seconds=seconds)
    target = tmp_path / "both.mp4"
    remux(Remux(picture, sound, target))
    assert packets(target) == packets(picture)
    budget = MediaBudget(num_frames=5, audio_rate=RATE)
    made, original = decode(target, "video", budget), decode(None, sound, budget)
    assert made.frames is not None and made.audio is not None and original.audio is not None
    assert np.array_equal(made.frames, decode(picture, None, budget).frames)
    assert len(made.audio) == pytest.approx(0.5 * RATE, abs=2048)
    heard = min(len(original.audio), len(made.audio))
    inner = slice(2048, heard - 2048)
    assert np.corrcoef(made.audio[inner], original.audio[inner])[0, 1] > 0.99
    assert np.abs(made.audio[heard + 2048 :]).max(initial=0) < 0.01


def test_fitted_sound_has_the_asked_length():
    wave = np.arange(1, 6, dtype=np.float32)
    for samples in range(9):
        expected = [wave[i] if i < 5 else 0 for i in range(samples)]
        assert fitted(wave, samples).tolist() == expected


def test_remux_is_resumed_and_deterministic(tmp_path: Path):
    picture = source_trees.media(tmp_path / "face.mp4")
    sound = source_trees.media(tmp_path / "voice.wav", video=False)
    jobs = [Remux(picture, sound, tmp_path / "out" / f"{name}.mp4") for name in "ab"]
    assert remux_all(jobs[:1]) == 1
    before = jobs[0].target.stat().st_mtime_ns
    steps: list[int] = []
    assert remux_all(jobs, lambda: steps.append(1)) == 1 and len(steps) == 2
    assert jobs[0].target.stat().st_mtime_ns == before
    assert jobs[0].target.read_bytes() == jobs[1].target.read_bytes()


@pytest.mark.parametrize("broken", ["picture", "sound"])
def test_a_failed_remux_leaves_nothing(tmp_path: Path, broken: str):
    files = {"picture": tmp_path / "face.mp4", "sound": tmp_path / "voice.wav"}
    source_trees.media(files["picture"])
    source_trees.media(files["sound"], video=False)
    files[broken].write_bytes(files[broken].read_bytes()[:20] if broken == "picture" else b"no sound at all")
    target = tmp_path / "out" / "x.mp4"
    target.parent.mkdir()
    jobs = [Remux(**files, target=target)]
    with pytest.raises(MediaError):
        remux_all(jobs)
    assert list(target.parent.iterdir()) == []
    assert remux_all(jobs, skip_bad=True) == 0
    assert list(target.parent.iterdir()) == []


def test_the_command_makes_the_clips(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "data" / "conflict.parquet"
    command = ["ravdess-conflict", "--root", str(tree), "--out", str(out), "--per-subset", "3"]
    main(command)
    manifest = load_manifest(out)  # its paths are relative to itself
    assert manifest.check_files() == []
    assert Counter(clip.subset for clip in manifest) == {"consistent": 3, "video_aligned": 3, "audio_aligned": 3}
    made = sorted((out.parent / "ravdess-conflict").iterdir())
    assert len(made) == 9  # only what the manifest lists
    times = [path.stat().st_mtime_ns for path in made]
    main(command)
    assert [path.stat().st_mtime_ns for path in made] == times
    assert "by construction" in capsys.readouterr().out
    media = decode(*manifest.resolve(manifest[0]))
    assert media.frames is not None and media.audio is not None
