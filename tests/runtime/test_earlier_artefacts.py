"""What an earlier version wrote (tests/fixtures/earlier) loads in this one.

The files come from two epochs of ``+experiment=mosear`` on 12 rendered clips, from a calibration of ``chase`` on that
adapter, and from the run's feature cache.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mosear.data.cache import FeatureCache
from mosear.runtime.run import Run
from mosear.steering import Chase
from mosear.steering.settings import SteeringSettings, adapter_fingerprint
from tests.helpers import processes

ROOT = Path(__file__).parents[2]
EARLIER = ROOT / "tests" / "fixtures" / "earlier"
FIRST_START = [
    "+experiment=mosear", "data.prepare.train_clips=12", "data.prepare.val_clips=6", "data.prepare.test_clips=2",
    "data_dir=data", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1", "data.batch_size=4",
    "data.num_workers=0", "adapter.r=1", "adapter.layers_to_transform=[0]", "adapter.target_modules=[q_proj]",
    "callbacks.checkpoint.every_n_steps=2", "callbacks.checkpoint.keep=6", "method.scale_clips=4", "report.examples=0",
    "callbacks.progress=null", "hydra.run.dir=run",
]  # fmt: skip


def test_the_adapter_is_loaded_whole() -> None:
    run = Run.open(EARLIER / "run")
    backbone = run.backbone()
    network = run.network(backbone)
    saved = load_file(EARLIER / "run" / "adapter" / "adapter_model.safetensors")
    loaded = dict(network.named_parameters())
    assert saved and any("gate" in name for name in saved)
    for name, value in saved.items():
        (found,) = [own for key, own in loaded.items() if key.replace(".default", "") == name]
        assert torch.equal(found, value), name


def test_the_calibration_file_is_for_that_adapter() -> None:
    settings = SteeringSettings.load(EARLIER / "chase.json", backbone="tiny-omni")
    assert settings.adapter == adapter_fingerprint(EARLIER / "run" / "adapter")
    assert isinstance(settings.policy, Chase) and settings.policy.suppress == 16.0
    assert settings.policy.reliability.audio_temperature == pytest.approx(1.7396599711188814)


def test_the_cache_entry_is_found(tmp_path: Path) -> None:
    (entry,) = (EARLIER / "cache").glob("*.safetensors")
    (tmp_path / entry.stem[:2]).mkdir()
    shutil.copy(entry, tmp_path / entry.stem[:2])
    media = FeatureCache(tmp_path).get(entry.stem)
    assert media is not None
    assert [video.features.shape[-1] for video in media.videos] == [audio.features.shape[-1] for audio in media.audios]
    assert torch.isfinite(media.videos[0].features).all() and torch.isfinite(media.audios[0].features).all()


@pytest.mark.slow
def test_the_checkpoint_resumes_to_the_adapter_of_then(tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "run", tmp_path / "run")
    then = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    shutil.rmtree(tmp_path / "run" / "adapter")
    finished = processes.run([ROOT / "train.py", *FIRST_START, "resume=auto"], cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "goes on at step 4" in finished.stdout + finished.stderr
    now = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert now.keys() == then.keys()
    for name, value in then.items():
        torch.testing.assert_close(now[name], value, rtol=0, atol=1e-5, msg=name)
