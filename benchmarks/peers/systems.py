"""How each system is asked for the same work: its command, its settings, its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.options import ROOT
from benchmarks.peers.clips import CLIPS, FRAMES, Clips
from benchmarks.peers.data import SEED
from mosear.files import written_atomically

HERE = Path(__file__).parent
SYSTEMS = ("mosear", "mosear_cached", "mosear_mose", "llamafactory", "ms_swift")
PEERS = ("llamafactory", "ms_swift")

RANK, ALPHA = 12, 24
LEARNING_RATE = 1e-3
LONGEST = 2048
RECORDERS = {
    "Record": "_target_:benchmarks.peers.inside.mosear_callback.Record",
    "Profile": "_target_:benchmarks.peers.inside.mosear_profile.Profile",
    "Operators": f"_target_:benchmarks.peers.inside.mosear_operators.Operators,rank:{RANK}",
}
"""mosear's callbacks: a run's record, CPU time by part, time by kind of operator."""

SMALLEST = 56 * 56
"""Pixels of a frame that a system scales up; as published."""


@dataclass(frozen=True)
class Work:
    """What all systems do in one comparison.

    Attributes:
        checkpoint: directory of the model.
        data: directory of :func:`benchmarks.peers.data.write_data`.
        batch_size: clips per step.
        steps: to train; the data has clips for one step more, so that no system may skip the loading of a last batch.
        clips: their kind.
    """

    checkpoint: Path
    data: Path
    batch_size: int
    steps: int
    clips: Clips = CLIPS["small"]

    @property
    def cache(self) -> Path:
        """Where mosear keeps encoder outputs of these clips."""
        return self.data / "cache" / self.checkpoint.name


def command(system: str, work: Work, scratch: Path, environments: Path, *, callback: str = "Record") -> list[str]:
    """The command of a system, whose record will be ``scratch/record.json``; settings files are written.

    Args:
        system: one of ``SYSTEMS``.
        work: what to do.
        scratch: directory of this run.
        environments: directory of the peers' environments.
        callback: what mosear records with; a key of ``RECORDERS``.
    """
    record = scratch / "record.json"
    if system in PEERS:
        settings = SETTINGS[system](work, scratch)
        with written_atomically(scratch / "settings.json") as temporary:
            temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        script = HERE / "inside" / f"run_{system}.py"
        return [str(python_of(environments / system)), str(script), str(scratch / "settings.json"), str(record)]
    added = f"+callbacks.record={{{RECORDERS[callback]},path:{record}}}"
    python = own_python(environments)
    return [str(python), str(ROOT / "train.py"), *mosear_overrides(system, work, scratch), added]


def mosear_overrides(system: str, work: Work, scratch: Path) -> list[str]:
    """Arguments of ``train.py``: everything that is not mentioned keeps its default."""
    manifest = work.data / "mosear.jsonl"
    adapter = {"mosear_mose": [f"adapter.r={RANK // 3}", f"adapter.alpha={ALPHA // 3}"]}.get(
        system, [f"adapter.r={RANK}", f"adapter.lora_alpha={ALPHA}"]
    )
    return [
        "backbone=checkpoint", f"backbone.name={work.checkpoint}", "backbone.dtype=fp32",
        f"adapter={'mose' if system == 'mosear_mose' else 'lora'}", *adapter,
        "data=manifest", f"data.train={manifest}", f"data.val={manifest}", f"data.batch_size={work.batch_size}",
        f"data.cache_dir={work.cache if system == 'mosear_cached' else 'null'}",
        "data.num_workers=0", "data.bucket=1", f"data.max_tokens={LONGEST}", f"data.budget.num_frames={FRAMES}",
        f"data.budget.max_pixels={work.clips.pixels}", f"data.max_pixels={work.clips.pixels}",
        "benchmark=manifest", f"benchmark.manifest={manifest}",
        f"tuning.learning_rate={LEARNING_RATE}", "tuning.warmup=0", "tuning.schedule=constant",
        "trainer=cpu", "trainer.max_epochs=1", f"trainer.max_steps={work.steps}", "trainer.log_every_n_steps=1",
        "trainer.limit_val_batches=0", "trainer.limit_test_batches=1", "answering.readings=false",
        "report.examples=0", "zero_shot=false", "keep_adapter=last", f"seed={SEED}", f"hydra.run.dir={scratch / 'run'}",
    ]  # fmt: skip


def llamafactory_settings(work: Work, scratch: Path) -> dict[str, Any]:
    """What a YAML file for ``llamafactory-cli train`` would hold."""
    return {
        **trainer_settings(work, scratch),
        "model_name_or_path": str(work.checkpoint),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "freeze_vision_tower": True,
        "freeze_multi_modal_projector": True,
        "template": "qwen2_omni",
        "dataset": "clips",
        "dataset_dir": str(work.data),
        "overwrite_cache": True,
        "cutoff_len": LONGEST,
        "video_fps": work.clips.sampled_fps,
        "video_maxlen": FRAMES,
        "video_min_pixels": SMALLEST,
        "video_max_pixels": work.clips.pixels,
        "disable_shuffling": True,
        "disable_gradient_checkpointing": True,
        "flash_attn": "sdpa",
    }


def ms_swift_settings(work: Work, scratch: Path) -> dict[str, Any]:
    """The options of ``swift sft``."""
    return {
        **trainer_settings(work, scratch),
        "model": str(work.checkpoint),
        "model_type": "qwen2_5_omni",
        "template": "qwen2_5_omni",
        "tuner_type": "lora",
        "target_modules": "all-linear",
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "freeze_vit": True,
        "freeze_aligner": True,
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "dataset": str(work.data / "ms_swift.jsonl"),
        "split_dataset_ratio": 0,
        "max_length": LONGEST,
        "dataset_shuffle": False,
        "train_dataloader_shuffle": False,
        "gradient_checkpointing": False,
        "vit_gradient_checkpointing": False,
    }


def trainer_settings(work: Work, scratch: Path) -> dict[str, Any]:
    """What both peers hand on to transformers' Trainer; mosear's defaults where it has any."""
    return {
        "output_dir": str(scratch / "run"),
        "per_device_train_batch_size": work.batch_size,
        "gradient_accumulation_steps": 1,
        "max_steps": work.steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch",
        "adam_beta2": 0.999,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": False,
        "fp16": False,
        "use_cpu": True,
        "seed": SEED,
        "dataloader_num_workers": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }


SETTINGS = {"llamafactory": llamafactory_settings, "ms_swift": ms_swift_settings}


def environment_variables(system: str, work: Work, threads: int) -> dict[str, str]:
    """Threads, no network, and what ms-swift takes from the environment alone."""
    own: Mapping[str, str] = {
        "OMP_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(work.data / "datasets"),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if system == "ms_swift":
        own = {
            **own, "FPS": str(work.clips.sampled_fps), "FPS_MIN_FRAMES": str(FRAMES), "FPS_MAX_FRAMES": str(FRAMES),
            "VIDEO_MIN_PIXELS": str(SMALLEST), "VIDEO_MAX_PIXELS": str(work.clips.pixels),
            "FORCE_QWENVL_VIDEO_READER": "decord",
        }  # fmt: skip
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, **own}


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / "bin" / "python"


def own_python(environments: Path) -> Path:
    """mosear's interpreter: of an environment with what it requires and nothing else, or the one that runs this."""
    own = environments / "mosear"
    return python_of(own) if (own / "built").exists() else Path(sys.executable)


def requirements_of(system: str) -> list[Path]:
    """Files that say what an environment holds: a peer's pins; what mosear requires, without extras, and its pins."""
    if system in PEERS:
        return [HERE / f"requirements-{system}.txt"]
    return [ROOT / "pyproject.toml", ROOT / "constraints.txt"]


def build_environment(system: str, environments: Path) -> None:
    """One environment per peer and one for mosear, from pinned versions, unless it is there.

    Raises:
        ValueError: if there is no uv.
    """
    target = environments / system
    done = target / "built"
    files = requirements_of(system)
    wanted = "".join(file.read_text(encoding="utf-8") for file in files)
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return
    uv = [sys.executable, "-m", "uv"]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    pins = ["-r", str(files[0])] if system in PEERS else ["-c", str(files[1]), "-e", str(ROOT)]
    try:
        subprocess.run([*uv, "venv", "--clear", "--python", version, str(target)], check=True)
        subprocess.run([*uv, "pip", "install", "--python", str(python_of(target)), *pins], check=True)
    except subprocess.CalledProcessError as error:
        raise ValueError(
            f"No environment for {system}: {error}. It needs uv (pip install uv) and the versions in {files[-1]}."
        ) from error
    with written_atomically(done) as temporary:
        temporary.write_text(wanted, encoding="utf-8")
