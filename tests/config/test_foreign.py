"""A run directory that comes from elsewhere gives values; it does not run code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mosear.config.of_run import with_settings_of_run
from mosear.problems import ConfigError
from mosear.runtime.predictor import Predictor
from mosear.runtime.run import Run

CONF = Path(__file__).parents[2] / "conf"
TRUST = "backbone.trust_remote_code"


def composed(name: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=["run_dir=/tmp/run", *overrides])


@pytest.fixture
def downloaded(tmp_path):
    """A run directory whose config says what one likes."""

    def make(**changes: Any) -> Path:
        cfg = OmegaConf.create(OmegaConf.to_container(composed("train", "benchmark.manifest=t"), resolve=True))
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value, merge=False)
        (tmp_path / "adapter").mkdir(exist_ok=True)
        (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
        OmegaConf.save(cfg, tmp_path / "config.yaml")
        return tmp_path

    return make


def evaluation(run: Path, *overrides: str) -> Any:
    return with_settings_of_run(composed("eval", f"run={run}", *overrides), [f"run={run}", *overrides])


CODE = {
    "data.prompt._target_": "os.system",
    "data.budget._target_": "subprocess.run",
    "backbone._target_": "somewhere.else.load",
    "data.prompt.synonyms": {"_target_": "os.system", "command": "true"},
    "data.prompt.labels": [{"_target_": "os.system", "command": "true"}],
    "backbone.attn_implementation": "someone/kernel",
    "data.prompt.question": "${oc.env:HOME}",
    "backbone.device": "${oc.decode:cpu}",
}


@pytest.mark.parametrize("key", CODE)
def test_a_config_that_names_code_is_refused(key, downloaded):
    run = downloaded(**{key: CODE[key]})
    for reopen in (evaluation, Run.open, Predictor.from_run):
        with pytest.raises(ValueError, match=key.replace(".", r"\.")) as refused:
            reopen(run)
        assert isinstance(refused.value, ConfigError)


def test_code_of_our_own_is_taken_by_any_of_its_names(downloaded):
    run = downloaded(**{"data.budget._target_": "mosear.data.budget.MediaBudget"})
    assert Run.open(run).budget.num_frames == evaluation(run).data.budget.num_frames == 8


def test_a_run_cannot_grant_trust(downloaded):
    run = downloaded(**{TRUST: True})
    assert OmegaConf.select(Run.open(run).cfg, TRUST) is False
    assert OmegaConf.select(evaluation(run), TRUST) is False


def test_the_command_line_grants_trust(downloaded):
    run = downloaded(**{TRUST: False})
    assert OmegaConf.select(Run.open(run, trust_remote_code=True).cfg, TRUST) is True
    assert OmegaConf.select(Run.open(run, [f"{TRUST}=true"]).cfg, TRUST) is True
    assert OmegaConf.select(evaluation(run, f"{TRUST}=true"), TRUST) is True


def test_commands_have_the_option():
    from mosear.commands.calibrate import parse_arguments as calibrate
    from mosear.commands.export import parse_arguments as export
    from mosear.predict import parse_arguments as predict

    for parse, arguments in ((calibrate, ["--policy", "ar"]), (export, ["a", "--to", "lora"]), (predict, ["a.mp4"])):
        assert parse(arguments).trust_remote_code is False
        assert parse([*arguments, "--trust-remote-code"]).trust_remote_code is True


def test_what_the_command_line_names_is_the_user_s_own(downloaded):
    run = downloaded(**{"data.prompt._target_": "my.Prompt", "backbone._target_": "my.load"})
    cfg = evaluation(run, "data.prompt._target_=mosear.data.prompt.Prompt", "backbone=tiny_omni_beta4")
    assert cfg.backbone.name == "tiny-omni-beta4" and cfg.data.prompt._target_ == "mosear.data.prompt.Prompt"


def test_a_null_of_the_run_is_taken_too(downloaded):
    """``data=test`` limits pixels, and the run left them to the checkpoint: the answers must be those of predict."""
    run = downloaded(**{"data.max_pixels": None})
    cfg = evaluation(run, "data=test", "benchmark=manifest", "benchmark.manifest=m.parquet")
    assert cfg.data.max_pixels is None
    assert evaluation(run, "data=test", "data.max_pixels=5000").data.max_pixels == 5000
    assert not cfg.data.prompt.list_labels
