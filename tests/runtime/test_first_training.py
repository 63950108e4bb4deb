"""``cold_start``: two trainings of one command are the two that one would start by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from safetensors.torch import load_file

from mosear.problems import ConfigError
from mosear.resolvers import register_resolvers
from mosear.runtime.cold_start import check_trainings, first_training
from tests.helpers import processes

ROOT = Path(__file__).parents[2]
LABELS = "{_target_:mosear.methods.answer_tuning.AnswerTuning}"
COLD = ["method=grpo", "method.estimator=exact", f"+cold_start={{method:{LABELS},tuning:{{learning_rate:0.01}}}}"]


def composed(run_dir: Path, *overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[f"run_dir={run_dir}", "data.cache_dir=null", *overrides])


def plain(*overrides: str) -> list[str]:
    """``cold_start`` stands in train.yaml, so that no plus sign is needed."""
    return [override.removeprefix("+") for override in overrides]


def test_the_first_training_differs_in_what_the_section_says(tmp_path: Path) -> None:
    cfg = composed(tmp_path, *plain(*COLD), "zero_shot=true")
    first = first_training(cfg)
    assert first is not None
    assert dict(first.method) == {"_target_": "mosear.methods.answer_tuning.AnswerTuning"}, "replaced as a whole"
    assert first.tuning.learning_rate == 0.01 and cfg.tuning.learning_rate == 0.001
    assert first.tuning.schedule == cfg.tuning.schedule, "merged"
    assert first.run_dir == str(tmp_path / "cold_start") and first.cold_start is None and not first.zero_shot
    assert first.callbacks.checkpoint.directory.startswith(first.run_dir)
    assert first_training(composed(tmp_path)) is None
    check_trainings(cfg)


def test_mistakes_of_both_are_told_once(tmp_path: Path) -> None:
    wrong = f"cold_start={{method:{LABELS},tuning:{{warmup:2}},seed:3,extra:1}}"
    with pytest.raises(ConfigError) as found:
        check_trainings(composed(tmp_path, "method=grpo", "method.estimator=exact", "data.batch_size=0", wrong))
    told = [problem.key for problem in found.value.problems]
    assert len(told) == len(set(told)) and {"cold_start.seed", "cold_start.tuning", "cold_start.extra"} <= set(told)
    assert "data.batch_size" in " ".join(told) and "cold_start.data" not in " ".join(told)
    with pytest.raises(ConfigError, match="must be sections of a config"):
        check_trainings(composed(tmp_path, "cold_start=yes"))


def train(directory: Path, data: Path, *overrides: str) -> dict[str, object]:
    small = ["debug=fast", f"data_dir={data}", f"hydra.run.dir={directory}", "callbacks.progress=null", "logger=none"]
    done = processes.run(["train.py", *small, *overrides])
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads((directory / "metrics.json").read_text())
    return found


@pytest.mark.slow
def test_one_command_does_what_two_do(tmp_path: Path) -> None:
    data = tmp_path / "data"
    both = train(tmp_path / "both", data, *plain(*COLD))
    first = train(tmp_path / "first", data, "method=answer_tuning", "tuning.learning_rate=0.01", "zero_shot=false")
    second = train(tmp_path / "second", data, *COLD[:2], f"init_from={tmp_path / 'first'}")
    weights = [
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("both", "second", "both/cold_start", "first")
    ]
    for mine, theirs in (weights[:2], weights[2:]):
        assert mine.keys() == theirs.keys() and all(mine[name].equal(theirs[name]) for name in mine)
    assert both["subsets"] == second["subsets"]
    cold = json.loads((tmp_path / "both" / "cold_start" / "metrics.json").read_text())
    assert cold["subsets"] == first["subsets"]
    saved = yaml.safe_load((tmp_path / "both" / "config.yaml").read_text())
    assert saved["init_from"] == str(tmp_path / "both" / "cold_start")
    again = train(tmp_path / "both", data, *plain(*COLD), "resume=auto")
    assert again["subsets"] == both["subsets"], "a finished cold start is not repeated"
    with pytest.raises(AssertionError, match=r"learning_rate.*0\.01 -> 0\.02"):
        train(tmp_path / "both", data, *plain(*COLD[:2], COLD[2].replace("0.01", "0.02")), "resume=auto")
