"""The benchmark of the feature cache: sizes are those of real entries, and epochs differ in the cache alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import feature_cache
from benchmarks.options import CONF
from mosear.backbones import load_backbone
from mosear.data.cache import FeatureCache
from mosear.data.manifest import load_manifest
from mosear.data.media import MediaBudget, MediaInfo, decode, probe
from mosear.data.media_processor import MediaProcessor
from mosear.data.synthetic.corpus import ensure_corpus
from tests.tiny_checkpoints import save_qwen3, save_qwen25

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    ensure_corpus(root / "synthetic", test_clips=2, train_clips=4, val_clips=2, missing_clips=2, workers=1, size=112)
    return root


@pytest.mark.parametrize("save", [save_qwen25, save_qwen3], ids=["qwen2.5", "qwen3"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_sizes_are_those_of_real_entries(
    save: Callable[[Path], Path], dtype: str, data_dir: Path, tmp_path: Path
) -> None:
    backbone = load_backbone(str(save(tmp_path / "checkpoint")), dtype=dtype)
    processor, cache = MediaProcessor(backbone.processor), FeatureCache(tmp_path / "cache")
    clip = load_manifest(data_dir / "synthetic" / "test.parquet")[0]
    path = data_dir / "synthetic" / clip.video
    header = probe(path)
    for number, (budget, video, audio) in enumerate(
        [
            (MediaBudget(num_frames=8), True, True),
            (MediaBudget(num_frames=None, fps=12.0), True, True),
            (MediaBudget(num_frames=None, fps=12.0), True, False),
            (MediaBudget(), False, True),
        ]
    ):
        media = backbone.encode(processor(decode(path if video else None, path if audio else None, budget)))
        written = cache.put(f"{number:064x}", media)
        info = MediaInfo(video, audio, header.duration, header.width, header.height, None)
        expected = feature_cache.entry_of(
            backbone.family.config, backbone.processor, info, budget, None, backbone.dtype
        )
        assert {item.features.dtype for item in [*media.videos, *media.audios]} == {backbone.dtype}
        assert sum(len(item.features) for item in media.videos) == expected.visual
        assert abs(sum(len(item.features) for item in media.audios) - expected.audio) <= 1, "a header rounds seconds"
        assert expected.size == pytest.approx(written, rel=0.03)


def test_sizes_of_the_published_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    feature_cache.main(["--parts", "sizes", f"--json={path}"])
    cases = json.loads(path.read_text())["cases"]
    found = {(case["model"], case["budget"]): case["entries"]["30"] for case in cases}
    seven = found["7B", "8 frames a clip"]
    assert (seven["visual"], seven["audio"]) == (4 * 8 * 15, 30 * 25), "420 x 236 pixels in blocks of 28, 25 per second"
    assert seven["size"] == pytest.approx((480 + 750) * 3584 * 2, rel=0.001)
    sparse = found["30B-A3B", "8 frames a clip"]
    assert sparse["size"] == pytest.approx((4 * sparse["visual"] + sparse["audio"]) * 2048 * 2, rel=0.001), "DeepStack"
    assert found["7B", "sound alone"]["visual"] == 0
    assert capsys.readouterr().out.count("\n| 30B-A3B |") == 4


def test_the_benchmark_asks_for_what_the_recipe_has() -> None:
    from omegaconf import OmegaConf

    data = OmegaConf.load(CONF / "data" / "manifest.yaml")
    budget = {key: value for key, value in data.budget.items() if key != "_target_"}
    assert MediaBudget(**budget) == feature_cache.BUDGET and data.max_pixels == feature_cache.PIXELS
    assert data.cache_max_gb * 2**30 == feature_cache.BOUND


@pytest.mark.slow
def test_epochs_by_what_the_cache_holds(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    options = ["--clips=4", "--batch=2", "--workers=1", "--repeats=3", "--prepared", f"--data-dir={data_dir}"]
    feature_cache.main([*options, "--threads=1", "--clock=cpu", f"--json={path}"])
    (found,) = json.loads(path.read_text())["cases"]
    assert found["clips"] == 4 and found["n"] == 3 and set(found["ratio"]) == {"cold", "warm"}
    assert all(ratio > 0 for ratio in found["ratio"].values())
    numbers = (4 * 2 * 2 + 50) * 96  # picture and sound of the embedded backbone
    assert found["entry_bytes"] == pytest.approx(4 * numbers, rel=0.03)
    assert capsys.readouterr().out.count("\n| 4 | 3 |") == 1


def test_options_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    for options, complaint in (
        (["--clips=0"], "--clips, --batch and --seconds must be positive"),
        (["--repeats=2"], "medians need 3 rounds"),
        (["--clock=cpu", "--threads=2"], "--clock=cpu adds up the threads"),
    ):
        with pytest.raises(SystemExit):
            feature_cache.parsed(options)
        assert complaint in capsys.readouterr().err
