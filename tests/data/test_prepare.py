"""python -m mosear prepare: from a directory to manifests that the data path reads."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mosear.data.clip import Clip
from mosear.data.manifest import load_manifest
from mosear.data.prepare import main, parse_arguments
from mosear.data.sources import NAMES, Row
from mosear.data.sources.checks import check_files, check_same_content
from mosear.data.sources.select import at_most_per_subset, with_missing
from tests.helpers import source_trees

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def wide_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")


@pytest.fixture(scope="module")
def meld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source_trees.meld(tmp_path_factory.mktemp("meld"))


@pytest.fixture
def crema_d(tmp_path: Path) -> Path:
    return source_trees.crema_d(tmp_path / "CREMA-D")


def test_list_names_every_importer(capsys: pytest.CaptureFixture[str]):
    assert main(["--list"]) == []
    shown = capsys.readouterr().out
    assert all(f"\n{name}: " in f"\n{shown}" for name in NAMES)
    assert shown.count("UNVERIFIED layout") == 2
    assert "VideoFlash/1001_DFA_ANG_XX.flv" in shown and "--fold 1..6" in shown


def test_help_is_light():
    code = (
        "import sys; from mosear.data.prepare import parse_arguments; parse_arguments(['--list']);"
        "print({'torch', 'numpy', 'av', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing: name, root, out"),
        (["meld", "--root", "x"], "missing: out"),
        (["meld", "--root", "x", "--out", "y", "--missing", "smell"], "--missing takes video, audio, text; got smell"),
        (["meld", "--root", "x", "--out", "y", "--per-subset", "0"], "--per-subset must be at least 1, got 0"),
    ],
)
def test_bad_command_lines(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["melt", "--out", "m.parquet"], "unknown data set 'melt'"),
        (["meld", "--out", "m.csv"], "a manifest is .parquet or .jsonl"),
        (["ravdess", "--out", "m.parquet"], "expected:"),
        (["meld", "--out", "m.parquet", "--fold", "1"], "has no folds"),
    ],
)
def test_mistakes_end_with_an_error_for_users(arguments: list[str], message: str, meld: Path, tmp_path: Path):
    arguments[arguments.index("--out") + 1] = str(tmp_path / arguments[arguments.index("--out") + 1])
    with pytest.raises(SystemExit, match=r"^error: ") as caught:
        main([*arguments, "--root", str(meld)])
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_one_manifest_per_split(meld: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    paths = main(["meld", "--root", str(meld), "--out", str(tmp_path / "meld-{split}.jsonl")])
    assert [path.name for path in paths] == ["meld-train.jsonl", "meld-val.jsonl", "meld-test.jsonl"]
    sizes = [len(load_manifest(path, root=meld)) for path in paths]
    assert sizes == [3, 1, 3]
    shown = capsys.readouterr().out
    assert f"data.root={meld}" in shown
    assert "'data.prompt.labels=[neutral, surprise, fear, sadness, joy, disgust, anger]'" in shown
    assert "no dialogue is in two splits" in shown and "Ross (test, train)" in shown


def test_one_split_only_and_root_beside_the_manifest(meld: Path, capsys: pytest.CaptureFixture[str]):
    (path,) = main(["meld", "--root", str(meld), "--out", str(meld / "m.parquet"), "--split", "test"])
    manifest = load_manifest(path)
    assert {clip.split for clip in manifest} == {"test"} and manifest.check_files() == []
    assert "data.root" not in capsys.readouterr().out
    path.unlink()


def test_missing_variants_of_test_clips(crema_d: Path, tmp_path: Path):
    out = tmp_path / "m.jsonl"
    main(["crema-d-conflict", "--root", str(crema_d), "--out", str(out), "--fold", "1", "--missing", "video,text"])
    manifest = load_manifest(out, root=crema_d)
    subsets = Counter((clip.split, clip.subset) for clip in manifest)
    assert subsets[("test", "missing_video")] == subsets[("test", "missing_text")] == 3
    assert not {name for split, name in subsets if split != "test"} & {"missing_video", "missing_text"}
    clips = {clip.id: clip for clip in manifest}
    variant = clips["1001_IEO_HAP_HI#missing_video"]
    assert variant.video is None and variant.audio == "AudioWAV/1001_IEO_HAP_HI.wav" and variant.label == "happy"
    assert variant.modality_labels.visual is None and variant.modality_labels.audio == "neutral"


def test_a_clip_keeps_at_least_one_modality():
    whole = Row(Clip(id="a", video="a.mp4", audio="video", text="Hi"))
    silent = Row(Clip(id="b", video="b.mp4"))
    train = Row(Clip(id="c", video="c.mp4", audio="video", split="train"))
    rows = with_missing([whole, silent, train], ["video", "audio", "text"])
    made = [row.clip for row in rows[3:]]
    assert [clip.id for clip in made] == ["a#missing_video", "a#missing_audio", "a#missing_text"]
    assert [clip.present for clip in made] == [("audio", "text"), ("video", "text"), ("video", "audio")]
    assert made[0].audio == "a.mp4"


def test_clips_per_subset_do_not_depend_on_the_others():
    rows = [Row(Clip(id=f"{i}", text="x", subset="ab"[i % 2], split=("test", "val")[i % 3 == 0])) for i in range(60)]
    few = at_most_per_subset(rows, 4)
    assert Counter((row.clip.split, row.clip.subset) for row in few) == dict.fromkeys(
        [("test", "a"), ("test", "b"), ("val", "a"), ("val", "b")], 4
    )
    assert few == [row for row in rows if row in few]  # the order stays
    assert at_most_per_subset(list(reversed(rows)), 4) == list(reversed(few))
    more = at_most_per_subset(rows, 5)
    assert set(map(id, few)) < set(map(id, more))
    assert at_most_per_subset(rows, None) == rows


def damage(root: Path) -> None:
    (root / "AudioWAV" / "1001_DFA_ANG_XX.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (root / "VideoFlash" / "1001_IEO_HAP_HI.flv").write_bytes(b"")
    (root / "AudioWAV" / "1002_TIE_SAD_XX.wav").unlink()


def test_unusable_media_stop_or_are_left_out(crema_d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    damage(crema_d)
    out = tmp_path / "m.jsonl"
    command = ["crema-d-conflict", "--root", str(crema_d), "--out", str(out)]
    with pytest.raises(SystemExit) as caught:
        main(command)
    told = str(caught.value)
    assert "3 of 4 clips have media that cannot be used" in told and "--on-missing skip" in told
    assert all(cause in told for cause in ("(git_lfs_pointer)", "(empty_file)", "(missing_file)"))
    assert not out.exists()
    main([*command, "--on-missing", "skip"])
    assert [row["id"] for row in source_trees.read_jsonl(out)] == ["1073_WSI_NEU_XX"]
    assert "git_lfs_pointer: 1001_DFA_ANG_XX" in capsys.readouterr().out


def test_only_presence_is_seen_without_the_header_check(crema_d: Path, tmp_path: Path):
    damage(crema_d)
    out = tmp_path / "m.jsonl"
    main(
        ["crema-d-conflict", "--root", str(crema_d), "--out", str(out), "--check-media", "none", "--on-missing", "skip"]
    )
    assert len(source_trees.read_jsonl(out)) == 3  # the file that is gone is the only one noticed


def test_tracks_that_a_clip_needs(tmp_path: Path):
    source_trees.media(tmp_path / "silent.mp4", audio=False)
    source_trees.media(tmp_path / "sound.mp4", video=False)
    source_trees.media(tmp_path / "both.mp4")
    clips = [
        Clip(id="a", video="silent.mp4", audio="video"),
        Clip(id="b", video="silent.mp4", audio="both.mp4"),
        Clip(id="c", video="sound.mp4"),
        Clip(id="d", video="both.mp4", audio="video"),
        Clip(id="e", text="words alone"),
    ]
    steps: list[int] = []
    bad = check_files(clips, tmp_path, "headers", lambda: steps.append(1))
    assert [(file.clip_id, file.cause) for file in bad] == [("a", "no_audio_track"), ("c", "no_video_track")]
    assert len(steps) == 5


def test_identical_files_are_found(tmp_path: Path):
    source_trees.media(tmp_path / "a.mp4")
    for name in ("b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes((tmp_path / "a.mp4").read_bytes())
    source_trees.media(tmp_path / "d.mp4")

    def rows(*splits: str) -> list[Row]:
        return [
            Row(Clip(id=name, video=f"{name}.mp4", audio="video", split=split))
            for name, split in zip("abd", splits, strict=True)
        ]

    apart = check_same_content(rows("train", "test", "test"), tmp_path)
    assert apart.status == "warning" and "1 sets of identical files, 1 across splits: a.mp4 = b.mp4" in apart.text
    assert "0 across splits" in check_same_content(rows("test", "test", "test"), tmp_path).text
    assert check_same_content(rows("test", "test", "test")[1:], tmp_path).status == "ok"


def test_leakage_stops_unless_it_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = source_trees.mosi(tmp_path / "MOSI")
    table = root / "label.csv"
    table.write_text(table.read_text().replace("_dI--eQ6qVU,10", "03bSnISJMiM,10"))
    source_trees.media(root / "Raw" / "03bSnISJMiM" / "10.mp4")
    command = ["cmu-mosi", "--root", str(root), "--out", str(tmp_path / "m.jsonl")]
    with pytest.raises(SystemExit, match=r"1 of 2 videos are in several splits: 03bSnISJMiM \(test, train\)") as caught:
        main(command)
    assert "--allow-leakage" in str(caught.value) and not (tmp_path / "m.jsonl").exists()
    assert "duplicates" in capsys.readouterr().out  # the summary is shown all the same
    main([*command, "--allow-leakage"])
    assert len(source_trees.read_jsonl(tmp_path / "m.jsonl")) == 3


def test_label_sets_and_series_reach_the_manifest(tmp_path: Path):
    root = source_trees.mosei(tmp_path / "MOSEI")
    (written,) = main(["cmu-mosei", "--root", str(root), "--out", str(tmp_path / "m.parquet"), "--emotions"])
    assert [clip.labels for clip in load_manifest(written, root=root)] == [("happy", "surprise"), (), ("sad", "fear")]
    table = str(root / "emotions" / "all.csv")
    (again,) = main(["cmu-mosei", "--root", str(root), "--out", str(tmp_path / "n.jsonl"), "--emotions", table])
    assert list(load_manifest(again, root=root)) == list(load_manifest(written, root=root))
    root = source_trees.affwild2(tmp_path / "affwild2")
    (written,) = main(["affwild2", "--root", str(root), "--out", str(tmp_path / "a.jsonl"), "--fold", "1"])
    clips = list(load_manifest(written, root=root))
    assert len(clips) == 8 and all(clip.annotations.values.shape == (3, 2) for clip in clips)


def test_unknown_labels_and_repeated_ids_always_stop(meld: Path, tmp_path: Path):
    for old, new, message in ((",joy,", ",cheerful,", "labels cheerful"), (",0,10,", ",0,2,", "train_dia0_utt2")):
        root = tmp_path / message
        for path in meld.rglob("*.csv"):
            copy = root / path.relative_to(meld)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
        for folder in ("train/train_splits", "dev_splits_complete", "output_repeated_splits_test"):
            (root / "MELD.Raw" / folder).mkdir(parents=True)
        with pytest.raises(SystemExit, match=message):
            main(["meld", "--root", str(root), "--out", str(tmp_path / "m.jsonl"), "--allow-leakage"])


def test_the_module_is_a_command(meld: Path, tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "mosear.data.prepare",
        "meld",
        "--root",
        str(meld),
        "--out",
        str(tmp_path / "m.jsonl"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "wrote" in done.stdout and len(source_trees.read_jsonl(tmp_path / "m.jsonl")) == 7
