"""Two processes end with the adapter of one: DDP and ZeRO 1, 2, 3 on gloo, through the real trainers and train.py.

A recipe of two processes has half the batch size of the single one. Distances are relative to what was learned; float32
sums run in another order, bfloat16 rounds what they differ by.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mosear.data.manifest import load_manifest, write_manifest
from mosear.data.synthetic.corpus import ensure_corpus
from tests.helpers.run_if import RunIf
from tests.helpers.torchrun import ROOT, adapter, distance, facts, torchrun, train

FP32, BF16 = 1e-4, 2e-1
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with two training manifests: in ``gaps`` most clips lack picture or sound, ``hard`` has conflicts.

    The embedded backbone gets those wrong. Where it is right already, gradients are as small as Adam's epsilon, and
    rounding decides what Adam makes of them.
    """
    root = tmp_path_factory.mktemp("data")
    corpus = root / "synthetic"
    ensure_corpus(corpus, test_clips=4, train_clips=4, val_clips=2, missing_clips=4, workers=1, size=56)
    whole = list(load_manifest(corpus / "train_natural.parquet"))[:4]
    test = [replace(clip, split="train") for clip in load_manifest(corpus / "test.parquet")]
    for name, subsets in (("gaps", ("missing_video", "missing_audio")), ("hard", ("video_aligned", "contextual"))):
        write_manifest([*whole, *(c for c in test if c.subset in subsets)], corpus / f"{name}.parquet")
    return root


def recipe(data_dir: Path, *overrides: str, trainer: str = "cpu", size: int = 4) -> list[str]:
    """A short training; ``size`` is the global batch."""
    alone = trainer == "cpu"
    processes = [] if alone else ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    return [
        f"trainer={trainer}",
        *processes,
        f"data.batch_size={size if alone else size // 2}",
        f"data_dir={data_dir}",
        "data.prepare=null",
        f"data.train={data_dir}/synthetic/hard.parquet",
        "data.num_workers=0",
        "data.cache_dir=null",
        "data.eval_batch_size=4",
        "data.budget.num_frames=4",
        "method.scale_clips=8",
        "zero_shot=false",
        "trainer.max_steps=3",
        "trainer.limit_val_batches=0",
        "+trainer.enable_progress_bar=false",
        *overrides,
    ]


def recipes(data_dir: Path, trainers: tuple[str, ...], **variants: list[str]) -> dict[str, list[str]]:
    """Every variant with every trainer; ZeRO-3 last, as its settings stay for the life of a process."""
    return {
        f"{trainer}-{name}": recipe(data_dir, *overrides, trainer=trainer)
        for trainer in sorted(trainers)
        for name, overrides in variants.items()
    }


def largest_distance(data_dir: Path, tmp_path: Path, trainers: tuple[str, ...], **variants: list[str]) -> float:
    """Over all trainers and variants, from the single process; prints every one."""
    alone = train(recipes(data_dir, ("cpu",), **variants), tmp_path / "alone")
    together = train(recipes(data_dir, trainers, **variants), tmp_path / "together", processes=2)
    found = {
        f"{trainer} {name}": distance(alone / f"cpu-{name}", together / f"{trainer}-{name}")
        for trainer in trainers
        for name in variants
    }
    for name, value in found.items():
        print(f"{name}: {value:.1e}")
    return max(found.values())


@RunIf(deepspeed=True)
def test_ddp_and_zero2_equal_one_process(data_dir: Path, tmp_path: Path) -> None:
    """MoSE with conflict mixing: faces and voices of different processes meet as they do in one."""
    # With one untouched clip in four some gradients are nearly 0, and AdamW takes whole steps by their signs.
    few = ["+experiment=mosear", "optimizer=sgd"]
    variants = {"mosear": ["+experiment=mosear", "method.rate=0.5"], "few-untouched": few}
    assert largest_distance(data_dir, tmp_path, ("ddp", "zero2"), **variants) < FP32
    runs = [(f"{name}-mosear", rank) for name in ("ddp", "zero2") for rank in (0, 1)]
    losses = [facts(tmp_path / "together" / name, rank)["losses"] for name, rank in runs]
    assert losses[0] == pytest.approx(facts(tmp_path / "alone" / "cpu-mosear")["losses"], rel=1e-4)
    assert losses[0] == losses[1] and losses[2] == losses[3], "what is logged is the global mean"


GLOBAL_GATE = [
    "+experiment=mosear",
    "adapter.kl_weight=1.0",
    "adapter.kl_scope=global",
    "adapter.balance_weight=0.1",
    "adapter.experts_per_group=2",
    "adapter.load_balance_weight=0.1",
]
EXTRAS = ["+experiment=mosear", "method.rate=0.6", "method.weak_modality_weight=1.0", "method.hard_sample_weight=1.0"]


@pytest.mark.slow
@pytest.mark.multinode
@RunIf(deepspeed=True)
def test_regularisers_weights_and_dropped_modalities_are_those_of_the_global_batch(
    data_dir: Path, tmp_path: Path
) -> None:
    variants = {
        "lora": ["+experiment=lora"],
        "gate": GLOBAL_GATE,
        "gate_mixed": [*GLOBAL_GATE, "method.rate=0.3"],
        "extras": EXTRAS,
        "adapted": ["+experiment=mosear", "method.teacher=adapted", "method.transcript=any"],
        "dropped": ["+experiment=mosear_plain", "adapter.modality_dropout=0.6"],
    }
    assert largest_distance(data_dir, tmp_path, ("ddp", "zero1"), **variants) < FP32


@pytest.mark.slow
@pytest.mark.multinode
@RunIf(deepspeed=True)
def test_accumulated_batches_step_together(data_dir: Path, tmp_path: Path) -> None:
    """Three batches an epoch in windows of two: the last window of an epoch is short."""
    windows = ["+experiment=mosear", "trainer.accumulate_grad_batches=2", "trainer.max_steps=3"]
    assert largest_distance(data_dir, tmp_path, ("ddp", "zero1", "zero2", "zero3"), windows=windows) < FP32


@pytest.mark.slow
@pytest.mark.multinode
@RunIf(deepspeed=True)
def test_zero3_equals_one_process_and_holds_half_of_the_weights(data_dir: Path, tmp_path: Path) -> None:
    variants = {
        "lora": ["+experiment=lora", "tuning.weight_decay=0.1", "zero_shot=true"],
        "mosear": ["+experiment=mosear", "tuning.weight_decay=0.1", "zero_shot=true"],
    }
    assert largest_distance(data_dir, tmp_path, ("zero3", "zero3_offload"), **variants) < FP32
    alone = facts(tmp_path / "alone" / "cpu-mosear")
    for rank in (0, 1):
        own = facts(tmp_path / "together" / "zero3-mosear", rank)
        assert own["frozen"] == alone["frozen"]
        assert 0.5 <= own["held"] / alone["held"] < 0.52
        assert own["rows"].keys() == alone["rows"].keys(), "every clip is answered once"
        for name, distribution in alone["rows"].items():
            assert own["rows"][name] == pytest.approx(distribution, abs=1e-4)


@pytest.mark.slow
@pytest.mark.multinode
@RunIf(deepspeed=True)
def test_batches_without_a_modality_hang_nobody(data_dir: Path, tmp_path: Path) -> None:
    """One process has no video to encode while the other has no audio, and one nothing to recombine."""
    gaps = [f"data.train={data_dir}/synthetic/gaps.parquet", "trainer.max_steps=6"]
    variants = {"plain": ["+experiment=mosear_plain", *gaps], "mixed": ["+experiment=mosear", *gaps]}
    small = {name: [*overrides, "data.batch_size=1"] for name, overrides in variants.items()}
    alone = {f"cpu-{name}": recipe(data_dir, *overrides, size=2) for name, overrides in variants.items()}
    single = train(alone, tmp_path / "alone")
    both = train(recipes(data_dir, ("ddp", "zero2", "zero3"), **small), tmp_path / "together", processes=2)
    for trainer in ("ddp", "zero2", "zero3"):
        for name in variants:
            assert distance(single / f"cpu-{name}", both / f"{trainer}-{name}") < FP32
    steps = list(zip(*(facts(both / "zero3-plain", rank)["media"] for rank in (0, 1)), strict=True))
    assert any(0 in (one[0], other[0]) and 0 in (one[1], other[1]) for one, other in steps), steps


@pytest.mark.slow
@pytest.mark.multinode
@RunIf(deepspeed=True)
def test_bfloat16_means_the_same_with_every_trainer(data_dir: Path, tmp_path: Path) -> None:
    bf16 = ["+experiment=mosear", "backbone.dtype=bf16", "trainer.precision=bf16-mixed"]
    trainers = ("ddp", "zero1", "zero2", "zero3")
    assert largest_distance(data_dir, tmp_path, trainers, bf16=bf16) < BF16
    for trainer in trainers:
        saved = adapter(tmp_path / "together" / f"{trainer}-bf16")
        assert {str(tensor.dtype) for tensor in saved.values()} == {"torch.float32"}, "adapters are never cast"


@pytest.mark.slow
@pytest.mark.multinode
@RunIf(deepspeed=True)
def test_the_sparse_family_too(data_dir: Path, tmp_path: Path) -> None:
    from tests.tiny_checkpoints import save_qwen3

    checkpoint = save_qwen3(tmp_path / "qwen3")
    backbone = ["backbone=checkpoint", f"backbone.name={checkpoint}", "backbone.dtype=fp32"]
    cached = ["+experiment=mosear", *backbone, f"data.cache_dir={tmp_path / 'cache'}"]
    variants = {"mosear": ["+experiment=mosear", *backbone], "cached": cached, "lora": ["+experiment=lora", *backbone]}
    assert largest_distance(data_dir, tmp_path, ("ddp", "zero2", "zero3"), **variants) < FP32


@pytest.mark.slow
@pytest.mark.multinode
@RunIf(deepspeed=True, bitsandbytes=True)
def test_four_bit_weights_with_whole_weight_trainers(data_dir: Path, tmp_path: Path) -> None:
    nf4 = ["+experiment=mosear", "backbone.quantization=nf4"]
    assert largest_distance(data_dir, tmp_path, ("ddp", "zero2"), nf4=nf4) < FP32


@pytest.mark.slow
@pytest.mark.multinode
def test_train_and_eval_share_one_run_directory(data_dir: Path, tmp_path: Path) -> None:
    """Nobody names the directory: processes that start seconds apart must still agree, and write one log each."""
    overrides = recipe(data_dir, "+experiment=lora", "name=shared", "zero_shot=true", trainer="ddp")
    overrides.remove("+trainer.enable_progress_bar=false")
    run_dirs = f"hydra.run.dir={tmp_path}/${{name}}/${{started:%Y-%m-%d_%H-%M-%S}}"
    done = torchrun(2, "train.py", *overrides, run_dirs)
    assert done.returncode == 0, done.stdout + done.stderr
    (run_dir,) = (tmp_path / "shared").iterdir()
    assert done.stdout.count("Report:") == 1 and done.stdout.count("conflict mean") == 1
    for name in ("metrics.json", "predictions.parquet", "adapter", "run.log", "run.rank1.log"):
        assert (run_dir / name).exists(), name
    same = [entry for entry in overrides if entry.startswith("data")]
    command = ["eval.py", f"adapter={run_dir / 'adapter'}", *same, f"hydra.run.dir={tmp_path / 'e1'}"]
    alone = torchrun(1, *command)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    found = [json.loads((path / "metrics.json").read_text())["subsets"] for path in (run_dir, tmp_path / "e1")]
    assert found[0] == found[1], "shared evaluation answers every clip once"


@pytest.mark.slow
@pytest.mark.multinode
@RunIf(deepspeed=True)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_sharded_checkpoint_holds_trainable_weights_alone(data_dir: Path, tmp_path: Path, stage: int) -> None:
    worker = ROOT / "tests" / "helpers" / "checkpoint_worker.py"
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(recipe(data_dir, "+experiment=mosear", trainer=f"zero{stage}")))
    done = torchrun(2, str(worker), str(spec), str(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"found.{rank}.json").read_text())
        assert found["saved"] and all("mose_" in name for name in found["saved"])
        assert found["restored"], "weights after loading equal those saved"
        assert "does not fit this adapter" in found["foreign"] and "have another shape" in found["foreign"]
