"""Combinations of settings that cannot work, found before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mosear.config.benchmark_rules import (
    benchmark_clips_fit,
    benchmark_is_chosen,
    corpus_is_needed,
    metrics_are_known,
    task_is_sound,
    training_has_clips,
)
from mosear.config.manifest_rules import manifests_fit, scores_are_numbers
from mosear.config.process_rules import devices_are_there, zero_fits
from mosear.config.system_rules import system_fits
from mosear.config.validation import Rule
from mosear.evaluation.runs import is_trained
from mosear.problems import Problem

RECIPE_KEYS = ("keep_adapter", "tuning", "method", "adapter", "cold_start")
"""How an adapter is made and tuned. Recipes set them; an evaluation reads none of them."""
FUSION_KEYS = ("features", "model", "task")
"""Of ``system=fusion``."""
COMMON_KEYS = (
    "name", "seed", "data_dir", "run_dir", "zero_shot", "dry_run", "answering", "report", "system", "backbone",
    "steering", "data", "benchmark", "trainer", "logger", "callbacks", *RECIPE_KEYS, *FUSION_KEYS,
)  # fmt: skip
TRAIN_KEYS = (*COMMON_KEYS, "init_from", "resume")
EVAL_KEYS = (*COMMON_KEYS, "run", "adapter_path")
SUPPLIED = {
    "data": ["backbone"],
    "trainer": ["logger", "callbacks"],
    "system": ["cfg", "trainer"],
    "features": ["cfg", "accept"],
    "model": ["dimensions", "outputs", "over_time"],
    "task": ["labels"],
}


def settings_are_sound(cfg: DictConfig) -> Iterator[Problem]:
    """Small settings objects check themselves; building one costs nothing."""
    from hydra.utils import instantiate

    for key in ("tuning", "method", "answering", "data.prompt", "data.budget", "data.decode"):
        if (node := OmegaConf.select(cfg, key)) is None:
            continue
        try:
            instantiate(node, _convert_="all")
        except Exception as error:  # hydra wraps the class's own ValueError
            cause = error.__cause__ or error
            yield Problem(key, "", str(cause), "Correct the value; the class's docstring explains each one.")


def steering_fits(cfg: DictConfig) -> Iterator[Problem]:
    """A sound policy, a calibration file of this backbone, and layers and heads that the backbone has."""
    from hydra.errors import InstantiationException

    from mosear.steering.configured import NONE, decoder_size, steering_policy

    try:
        policy = steering_policy(cfg)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error  # wraps the class's own
        yield Problem("steering", cfg.steering.name, str(cause), "Correct the steering settings.")
        return
    name = cfg.steering.name
    if not isinstance(name, str) or not name or (name == NONE) != (policy is None):
        yield Problem(
            "steering.name", name, f"a name for {'no steering' if policy is None else 'a steering policy'}",
            "Choose a file of conf/steering, such as steering=none; a policy may have any other name than none.",
        )  # fmt: skip
    size = decoder_size(str(cfg.backbone.name)) if policy is not None else None
    for message in policy.problems(*size) if policy is not None and size is not None else ():
        yield Problem("steering", name, message, f"Choose settings that fit {cfg.backbone.name}.")


def calibration_fits(cfg: DictConfig) -> Iterator[Problem]:
    """Settings that were calibrated on an adapter mean nothing to another one, or to the bare backbone."""
    from mosear.steering.settings import SteeringSettings

    path, adapter = cfg.steering.get("settings"), cfg.get("adapter_path")
    if path is None or (adapter is not None and not (Path(adapter) / "adapter_model.safetensors").is_file()):
        return
    try:
        found = SteeringSettings.load(path)
    except ValueError:
        return  # steering_fits says why
    if not found.fits(None if adapter is None else Path(adapter)):
        yield Problem(
            "steering.settings", path,
            f"calibrated on an adapter (SHA-256 {str(found.adapter)[:12]}...) that is not adapter={adapter or 'none'}",
            "Give that adapter, or calibrate again: python -m mosear calibrate --adapter RUN/adapter.",
        )  # fmt: skip


def labels_come_first(cfg: DictConfig) -> Iterator[Problem]:
    """Tuning and label scoring put the label right behind the prompt, where a reasoning model has none yet."""
    from mosear.config.targets import resolve_target

    prompt, method = cfg.data.get("prompt", {}), cfg.get("method")
    trained = "adapter_path" not in cfg and method is not None and resolve_target(method._target_).writes_answers(cfg)
    for key, plain in (("strategy", "minimal"), ("answer_format", "word")):
        value = prompt.get(key, plain)
        if value == plain or (cfg.answering.get("method") == "generate" and (trained or "adapter_path" in cfg)):
            continue
        yield Problem(
            f"data.prompt.{key}", value, "the label comes after other text, so it must be generated and parsed",
            "Set answering.method=generate answering.max_new_tokens=512 (to tune so, use method=answer_tuning or "
            f"method=grpo), or use {key}={plain}.",
        )  # fmt: skip


def validation_finds_labels(cfg: DictConfig) -> Iterator[Problem]:
    """Validation scores labels right behind the prompt."""
    from mosear.data.prompt import Prompt

    prompt = cfg.data.get("prompt") or {}
    asked = Prompt(strategy=prompt.get("strategy", "minimal"), answer_format=prompt.get("answer_format", "word"))
    if asked.reasons_first and cfg.data.get("val") is not None:
        yield Problem(
            "data.val", cfg.data.val, "validation scores labels right behind the prompt, where other text stands here",
            "Use data.val=null keep_adapter=last; the log has the figures of training.",
        )  # fmt: skip


def adapter_exists(cfg: DictConfig) -> Iterator[Problem]:
    """The directory given by ``adapter=DIR``."""
    path = cfg.get("adapter_path")
    if path is not None and not is_trained(path):
        yield Problem(
            "adapter", path, "not a trained adapter: there is no adapter_config.json",
            "Give the adapter/ directory of a run, e.g. adapter=outputs/lora/<timestamp>/adapter.",
        )  # fmt: skip


def preemption_saves(cfg: DictConfig) -> Iterator[Problem]:
    """Who stops when asked must have something to go on from."""
    callbacks = cfg.get("callbacks") or {}
    if callbacks.get("preemption") is not None and callbacks.get("checkpoint") is None:
        yield Problem(
            "callbacks.preemption", "set", "a process that is asked to stop saves through callbacks.checkpoint",
            "Keep callbacks.checkpoint, or set callbacks.preemption=null too.",
        )  # fmt: skip


def manifests_exist(cfg: DictConfig) -> Iterator[Problem]:
    """User manifests must be there now; the synthetic ones are rendered later."""
    if cfg.data.get("prepare") is not None:
        return
    for key in ("train", "val", "test"):
        path = cfg.data.get(key)
        if path is not None and not Path(path).is_file():
            yield Problem(
                f"data.{key}", path, "no such file",
                "Give the path of a .parquet or .jsonl manifest (of a benchmark: see python -m mosear prepare).",
            )  # fmt: skip


def attention_takes_masks(cfg: DictConfig) -> Iterator[Problem]:
    """Flash attention cannot score labels."""
    attention = str(cfg.backbone.get("attn_implementation"))
    if attention.startswith("flash"):
        yield Problem(
            "backbone.attn_implementation", attention, "label scoring and unimodal readings need attention masks",
            "Use attn_implementation=sdpa (it runs flash kernels where no mask is needed).",
        )  # fmt: skip


def one_device_per_multirun_job(cfg: DictConfig) -> Iterator[Problem]:
    """Hydra's --multirun and several processes per job do not mix."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if multirun and str(cfg.trainer.get("devices")) not in ("1", "[0]"):
        yield Problem(
            "trainer.devices", cfg.trainer.get("devices"), "--multirun runs a job in one process",
            "Start one torchrun per value instead, or set trainer.devices=1.",
        )  # fmt: skip


def loggers_are_installed(cfg: DictConfig) -> Iterator[Problem]:
    """Loggers stand under names, as several may be chosen; TensorBoard is an extra."""
    from importlib.util import find_spec

    nodes = cfg.get("logger") or {}
    if "_target_" in nodes:
        yield Problem(
            "logger._target_", nodes["_target_"], "a logger stands under a name, as there may be several",
            "Write logger.NAME._target_=..., or choose with logger=csv or logger=[csv,wandb].",
        )  # fmt: skip
        return
    wants = [name for name, node in nodes.items() if "TensorBoard" in str((node or {}).get("_target_"))]
    if wants and find_spec("tensorboard") is None and find_spec("tensorboardX") is None:
        yield Problem(
            f"logger.{wants[0]}", nodes[wants[0]]["_target_"], "tensorboard is not installed",
            "Install the extra with `pip install -c constraints.txt -e '.[loggers]'`, or use logger=csv.",
        )  # fmt: skip


AT_LEAST = {
    "data.batch_size": 1, "data.eval_batch_size": 1, "data.num_workers": 0, "data.max_tokens": 1, "data.bucket": 1,
    "trainer.accumulate_grad_batches": 1, "trainer.num_nodes": 1, "report.examples": 0,
}  # fmt: skip
"""Counts, and the smallest that means something."""


def counts_are_possible(cfg: DictConfig) -> Iterator[Problem]:
    """No empty batches, no negative numbers of processes."""
    for key, least in AT_LEAST.items():
        value = OmegaConf.select(cfg, key)
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            yield Problem(key, value, f"it must be at least {least}", f"Set {key}={least} or more.")


def best_needs_validation(cfg: DictConfig) -> Iterator[Problem]:
    """Nothing can be selected on validation data that are not there."""
    node = (cfg.get("callbacks") or {}).get("adapter")
    if node is not None and cfg.data.get("val") is None and node.get("select") == "best":
        yield Problem(
            "callbacks.adapter.select", "best", "needs validation clips, but data.val is null",
            "Set data.val, or keep_adapter=last.",
        )  # fmt: skip


def method_fits(cfg: DictConfig) -> Iterator[Problem]:
    """What the tuning method says about the rest."""
    from mosear.config.targets import resolve_target

    if cfg.method is not None:
        yield from resolve_target(cfg.method._target_).rules(cfg)


COMMON_RULES: tuple[Rule, ...] = (
    settings_are_sound,
    task_is_sound,
    scores_are_numbers,
    steering_fits,
    calibration_fits,
    labels_come_first,
    manifests_exist,
    counts_are_possible,
    benchmark_is_chosen,
    manifests_fit,
    metrics_are_known,
    benchmark_clips_fit,
    attention_takes_masks,
    devices_are_there,
    zero_fits,
    loggers_are_installed,
    system_fits,
)
TRAIN_RULES: tuple[Rule, ...] = (
    *COMMON_RULES,
    training_has_clips,
    validation_finds_labels,
    preemption_saves,
    one_device_per_multirun_job,
    best_needs_validation,
    method_fits,
)
EVAL_RULES: tuple[Rule, ...] = (*COMMON_RULES, adapter_exists, corpus_is_needed)
