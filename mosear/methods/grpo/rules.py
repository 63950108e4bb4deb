"""Settings with which GRPO cannot work, found before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from mosear.data.prompt import Prompt
from mosear.problems import Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

FORMAT = "format_reward"


def grpo_rules(cfg: DictConfig) -> Iterator[Problem]:
    """Prompt, rewards, attention and adapter against the settings."""
    method, prompt = cfg.method, cfg.data.get("prompt") or {}
    written, strategy = prompt.get("answer_format", "word"), prompt.get("strategy", "minimal")
    reasons = Prompt(strategy=strategy, answer_format=written).reasons_first
    exact = method.get("estimator") == "exact"
    if exact and reasons:
        key, value = ("answer_format", written) if written != "word" else ("strategy", strategy)
        yield Problem(
            f"data.prompt.{key}", value, "the exact estimator scores labels right behind the prompt",
            "Use data.prompt.answer_format=word data.prompt.strategy=minimal, or method.estimator=sampled.",
        )  # fmt: skip
    for name, node in (method.get("rewards") or {}).items():
        if str((node or {}).get("_target_")).rpartition(".")[2] == FORMAT and written != "rlvr":
            yield Problem(
                f"method.rewards.{name}", FORMAT,
                f"it pays for <think>..</think><answer>..</answer>, which answer_format={written} does not ask for",
                f"Use data.prompt.answer_format=rlvr, or method.rewards.{name}=null.",
            )  # fmt: skip
    if method.get("reference") == "start" and cfg.get("init_from") is None and cfg.get("cold_start") is None:
        yield Problem(
            "method.reference", "start", "nothing says what training starts from: a fresh adapter changes nothing",
            "Give init_from=RUN, the run of the cold start; or use method.reference=backbone.",
        )  # fmt: skip
    for key in ("dropped_share", "mixed_rate", "masked_kl") if exact else ():
        if not method.get(key):
            continue
        yield Problem(f"method.{key}", method[key], "the exact estimator draws no completions", f"Set method.{key}=0.")
    if method.get("masked_kl") and not Prompt(answer_format=written).writes_reasons:
        yield Problem(
            "method.masked_kl", method.masked_kl, f"nothing is considered with answer_format={written}",
            "Use data.prompt.answer_format=rlvr or tags, or method.masked_kl=0.",
        )  # fmt: skip
    if (attention := str(cfg.backbone.get("attn_implementation", "sdpa"))) == "eager":
        yield Problem(
            "backbone.attn_implementation", attention, "GRPO scores completions as a tree, with boolean masks",
            "Use attn_implementation=sdpa.",
        )  # fmt: skip
    if dropped := OmegaConf.select(cfg, "adapter.modality_dropout"):
        yield Problem(
            "adapter.modality_dropout", dropped, "GRPO shows every clip whole: nothing would be dropped",
            "Set adapter.modality_dropout=0.",
        )  # fmt: skip
