"""``python -m mosear predict``: several clips in batches, steered by a calibration file, and generated answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mosear.data.manifest import load_manifest
from mosear.data.synthetic.corpus import ensure_corpus
from mosear.predict import main
from mosear.runtime.predictor import Predictor
from mosear.steering import Chase
from mosear.steering.settings import SteeringSettings

EARLIER = Path(__file__).parents[1] / "fixtures" / "earlier"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Videos whose face and voice disagree."""
    root = tmp_path_factory.mktemp("clips")
    ensure_corpus(root, train_clips=1, val_clips=1, test_clips=2, workers=1)
    manifest = load_manifest(root / "test.parquet", subset="video_aligned")
    videos = [manifest.resolve(clip)[0] for clip in manifest]
    assert len(videos) == 2
    return [video for video in videos if video is not None]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.bare()


def test_a_batch_answers_as_each_clip_alone(predictor: Predictor, clips: list[Path]) -> None:
    together = predictor.batch(clips, ["I am fine.", None])
    alone = [predictor(clips[0], text="I am fine."), predictor(clips[1])]
    for one, other in zip(together, alone, strict=True):
        assert one.label == other.label and one.readings.keys() == other.readings.keys()
        assert one.distribution == pytest.approx(other.distribution, abs=1e-5)
        assert one.conflict == pytest.approx(other.conflict, abs=1e-5)
    assert set(together[0].readings) == {"visual", "audio", "text"} and set(together[1].readings) == {"visual", "audio"}


def test_steering_changes_answers_inside_its_block_alone(
    predictor: Predictor, clips: list[Path], tmp_path: Path
) -> None:
    SteeringSettings(Chase(strength=8.0, suppress=8.0, conflict_threshold=0.0), "tiny-omni", "x").save(
        tmp_path / "chase.json"
    )
    before = predictor(clips[0])
    with predictor.steered(tmp_path / "chase.json"):
        steered = predictor(clips[0])
    after = predictor(clips[0])
    assert steered.steering and steered.distribution != before.distribution
    assert before.steering is None and after.distribution == before.distribution


def test_settings_of_another_adapter_are_refused(predictor: Predictor, clips: list[Path]) -> None:
    with (
        pytest.raises(ValueError, match=r"was calibrated on another adapter"),
        predictor.steered(EARLIER / "chase.json"),
    ):
        pass
    own = Predictor.from_run(EARLIER / "run")
    with own.steered(EARLIER / "chase.json"):
        assert own(clips[0]).label is not None


def test_the_command_answers_for_several_clips(clips: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*map(str, clips), "--adapter", str(EARLIER / "run"), "--batch-size", "2", "--json"]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["clip"] for line in lines] == [str(clip) for clip in clips]
    assert all(sum(line["distribution"].values()) == pytest.approx(1) for line in lines)
    assert main([*arguments[:-1], "--generate", "--max-new-tokens", "4"]) == 0
    assert "answer" in capsys.readouterr().out


def test_mistakes_are_named(clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*map(str, clips), "--text", "one"])
    assert "--text is given 1 times for 2 clips" in capsys.readouterr().err
    assert main([str(clips[0]), "--adapter", str(tmp_path)]) == 2
    assert "is not a trained adapter" in capsys.readouterr().err
