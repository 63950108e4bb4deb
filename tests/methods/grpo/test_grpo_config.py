"""GRPO from configs: rewards by dotted path, and mistakes found before anything is built."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mosear.config.foreign import without_code
from mosear.config.validation import ConfigError
from mosear.methods.grpo import GRPO
from mosear.runtime.checks import check_training

CONF = Path(__file__).parents[3] / "conf"
REASONS = [
    "data.prompt.answer_format=rlvr", "data.val=null", "keep_adapter=last", "answering.method=generate",
    "answering.max_new_tokens=64",
]  # fmt: skip
FORMAT = [
    "+method.rewards.format._target_=mosear.methods.grpo.rewards.format_reward",
    "+method.rewards.format._partial_=true",
]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["run_dir=/tmp/run", "method=grpo", *overrides])


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's file with rewards."""
    name = "own_rewards_of_a_user"
    (tmp_path / f"{name}.py").write_text(
        "def short(completions, *, limit=5, **columns):\n"
        "    return [float(len(text) < limit) for text in completions]\n"
        "def without_columns(completions):\n"
        "    return [0.0 for _ in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_users_reward_by_dotted_path(own_module: str) -> None:
    cfg = composed(
        f"+method.rewards.short._target_={own_module}.short", "+method.rewards.short._partial_=true",
        "+method.rewards.short.limit=3", "+method.weights.short=0.5",
    )  # fmt: skip
    check_training(cfg)
    method = instantiate(cfg.method, _convert_="all")
    assert isinstance(method, GRPO) and list(method.rewards) == ["accuracy", "short"]
    assert method.rewards["short"](completions=["sad", "a"], label=["", ""]) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["+method.rewards.x._target_=MODULE.shrot", "+method.rewards.x._partial_=true"], "Did you mean 'short'?"),
        (["+method.rewards.x._target_=no_such_module.x"], "There is no module 'no_such_module'"),
        (["+method.rewards.x._target_=MODULE.short", "+method.rewards.x._partial_=true", "+method.rewards.x.limt=3"],
         "it has no setting limt"),
        (["+method.rewards.x._target_=MODULE.without_columns", "+method.rewards.x._partial_=true"], "take **columns"),
        (["method.rewards.accuracy=null"], "must name at least one reward"),
        (["+method.weights.format=1.0"], "weights name format, but the rewards are accuracy"),
        (["method.loss_type=ppo"], "loss_type='ppo' must be one of grpo, dr_grpo, dapo, gspo"),
        (["method.temperature=0"], "temperature=0 must be positive"),
        (["method.group_size=1"], "group_size=1 must be at least 2"),
        (FORMAT, "which answer_format=word does not ask for"),
        ([*REASONS, "method.estimator=exact"], "labels right behind the prompt"),
        ([*REASONS, "answering.method=score"], "must be generated and parsed"),
        ([*REASONS, "data.val=val.parquet"], "Use data.val=null keep_adapter=last"),
        (["method.masked_kl=0.1"], "nothing is considered with answer_format=word"),
        (["method.dropped_share=0.1", "method.estimator=exact"], "the exact estimator draws no completions"),
        (["method.mixed_rate=0.5", "method.estimator=exact"], "the exact estimator draws no completions"),
        (["method.dropped_share=1"], "dropped_share=1 must lie in [0, 1)"),
        (["method.reference=start"], "Give init_from=RUN, the run of the cold start"),
        (["backbone.attn_implementation=eager"], "with boolean masks"),
        (["adapter=mose", "adapter.modality_dropout=0.2"], "Set adapter.modality_dropout=0"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_a_remedy(own_module: str, overrides: list[str], expected: str) -> None:
    cfg = composed(*(override.replace("MODULE", own_module) for override in overrides))
    with pytest.raises(ConfigError, match=re.escape(expected)):
        check_training(cfg)


def test_reasoning_is_trained_where_answers_are_written() -> None:
    check_training(composed(*REASONS, *FORMAT))
    check_training(composed(*REASONS, "method=answer_tuning"))
    with pytest.raises(ConfigError, match="must be generated and parsed"):
        check_training(composed(*REASONS, "method=conflict_mixing"))
    with pytest.raises(ConfigError, match="an answer of the form json has no place for"):
        own = ["method=answer_tuning", "data.prompt.strategy=acoustic", "data.prompt.answer_format=json"]
        check_training(composed(*REASONS, *own))


def test_a_foreign_run_brings_no_rewards(own_module: str) -> None:
    """Who evaluates another's run reads none of its method, and may not be told to by another section."""
    saved = composed(f"+method.rewards.short._target_={own_module}.short")
    plain = OmegaConf.create(OmegaConf.to_container(saved, resolve=False))
    for key in ("run_dir", "hydra"):
        plain.pop(key, None)
    OmegaConf.update(plain, "data.prompt.rewards", {"_target_": f"{own_module}.short"}, force_add=True)
    with pytest.raises(ConfigError, match=r"data\.prompt\.rewards\._target_"):
        without_code(plain, Path("config.yaml"))
    assert own_module not in sys.modules
