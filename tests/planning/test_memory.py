"""The memory estimate against what torch measures in real training steps, and its arithmetic against literal sums."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from peft import get_peft_model
from torch.profiler import ProfilerActivity, profile

from mosear.backbones import OmniBackbone, load_backbone
from mosear.backbones.media import AudioInput, VideoInput
from mosear.backbones.tiny.build import build_processor, build_thinker
from mosear.data.budget import MediaBudget
from mosear.data.datamodule import ClipDataModule
from mosear.data.dataset import ClipBatch
from mosear.data.media import MediaInfo
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch, collate
from mosear.methods.answer_tuning import AnswerTuning
from mosear.methods.omni_system import OmniSystem
from mosear.methods.optim import Tuning, build_optimiser
from mosear.planning.clip import longest_clip, processor_of, tower_peaks
from mosear.planning.memory import Estimate, compose_train, estimate, headline, main, processes_of, table
from mosear.planning.plan import CARDS, PLANS, Plan, Weights, nf4_bytes, plan_of, static_bytes, usable
from mosear.planning.trace import LiveBytes
from mosear.resolvers import register_resolvers
from tests.fixtures_backbones import qwen3, qwen3_dir, qwen25, qwen25_dir
from tests.helpers.omni_samples import make_sample
from tests.helpers.run_if import RunIf
from tests.tiny_checkpoints import tokenizer_texts

__all__ = ["qwen3", "qwen3_dir", "qwen25", "qwen25_dir"]

CONF = Path(__file__).parents[2] / "conf"
CLIPS = 8
TOLERANCE = 0.15


@pytest.fixture(scope="session")
def small_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense thinker wide enough that activations, not bookkeeping, fill the memory."""
    directory = tmp_path_factory.mktemp("small")
    processor = build_processor(tokenizer_texts())
    build_thinker(processor, hidden=192, layers=4).save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def config(name: Path | str, *overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["run_dir=/tmp/run", "backbone=checkpoint", f"backbone.name={name}", "backbone.dtype=fp32"]
        return compose("train", overrides=[*given, f"data.batch_size={CLIPS}", "data.eval_batch_size=1", *overrides])


def training_batch(backbone: OmniBackbone) -> OmniBatch:
    """Clips with picture, sound and words, padded to one length."""
    samples = [make_sample(backbone, ("video", "audio", "text"), seed, answer="sad") for seed in range(CLIPS)]
    return collate(samples, backbone.processor.tokenizer.pad_token_id)


def tuner_of(cfg: DictConfig) -> OmniSystem:
    from hydra.utils import instantiate

    backbone = instantiate(cfg.backbone)
    network = get_peft_model(backbone.model, instantiate(cfg.adapter, _convert_="all"))
    network.train()
    backbone.towers_eval()
    data = ClipDataModule(backbone=backbone, prompt=Prompt(), budget=MediaBudget())
    system = OmniSystem(backbone, network, data, method=AnswerTuning())
    system.method.setup(system)
    return system


def measured_peak(step: Callable[[], Any]) -> int:
    """Most bytes that torch's allocator gave out at once, by the profiler's record of every allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


# -- against measurements ----------------------------------------------------------------------------------------------

MEASURED = [
    ("small", ["adapter=mose"]),
    ("small", ["adapter=lora", "backbone.gradient_checkpointing=true"]),
    ("small", ["adapter=mose", "backbone.dtype=bf16", "trainer.precision=bf16-mixed"]),
    ("qwen3", ["adapter=mose"]),
]


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize(("name", "overrides"), MEASURED, ids=["mose", "lora-checkpointed", "mose-bf16", "sparse"])
def test_a_training_step_takes_what_was_estimated(
    name: str, overrides: list[str], small_dir: Path, qwen3_dir: Path
) -> None:
    cfg = config({"small": small_dir, "qwen3": qwen3_dir}[name], *overrides)
    tuner = tuner_of(cfg)
    data = training_batch(tuner.backbone)
    autocast = "bf16" in str(cfg.trainer.precision)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = tuner.training_step(ClipBatch(data), 0)
        loss.backward()

    step()  # kernels and buffers that are made once
    tuner.zero_grad()
    found = estimate(cfg, tokens=data.input_ids.shape[1])
    gradients = found.rows()["gradients"]
    expected = found.training.activations + gradients + CLIPS * found.media.features
    measured = measured_peak(step)
    print(f"{name} {overrides}: estimated {expected / 2**20:.2f} MiB, measured {measured / 2**20:.2f} MiB")
    assert expected == pytest.approx(measured, rel=TOLERANCE)


def test_what_stays_is_counted_exactly(small_dir: Path) -> None:
    cfg = config(small_dir, "adapter=mose", "backbone.dtype=bf16")
    tuner = tuner_of(cfg)
    rows = estimate(cfg).rows()
    trained = [p for p in tuner.network.parameters() if p.requires_grad]
    frozen = [p for p in tuner.backbone.model.parameters() if not p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimiser = build_optimiser(trained, Tuning())
    optimiser.step()
    moments = [v for state in optimiser.state.values() for k, v in state.items() if k.startswith("exp_avg")]
    assert rows["weights"] == sum(p.numel() * p.itemsize for p in frozen)
    assert rows["adapter"] == sum(p.numel() * p.itemsize for p in trained)
    assert rows["gradients"] == sum(p.grad.numel() * p.grad.itemsize for p in trained if p.grad is not None)
    assert rows["optimiser"] == sum(moment.numel() * moment.itemsize for moment in moments)
    assert rows["buffers"] == 0


@RunIf(bitsandbytes=True)
def test_nf4_weights_are_counted_exactly(qwen25_dir: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    loaded = load_backbone(str(qwen25_dir), quantization="nf4")
    layers = [module for module in loaded.model.modules() if isinstance(module, Linear4bit)]
    assert layers
    for layer in layers:
        state = layer.weight.quant_state
        scales = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
        own = layer.weight.numel() * layer.weight.itemsize + sum(t.numel() * t.itemsize for t in scales)
        assert nf4_bytes(layer.in_features * layer.out_features) == own
    found = estimate(config(qwen25_dir, "backbone.quantization=nf4", "backbone.dtype=bf16")).weights
    packed = sum(nf4_bytes(layer.in_features * layer.out_features) for layer in layers)
    plain = sum(p.numel() * p.itemsize for p in loaded.model.parameters())
    plain -= sum(layer.weight.numel() * layer.weight.itemsize for layer in layers)
    assert found.towers + found.rest == packed + plain


@pytest.mark.parametrize("family", ["qwen25", "qwen3"])
def test_towers_take_what_was_probed(family: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(family)
    per_patch, per_frame = tower_peaks(backbone.family, torch.float32)
    vision = backbone.family.config.vision_config
    grid = (4, 16, 24)
    patches = math.prod(grid)
    pixels = torch.zeros(patches, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
    video = VideoInput(pixels, torch.tensor(grid), 1.0)
    audio = AudioInput(torch.zeros(backbone.family.config.audio_config.num_mel_bins, 1200))
    with torch.no_grad():
        picture = measured_peak(lambda: backbone.family.encode_video(backbone.model, video))
        sound = measured_peak(lambda: backbone.family.encode_audio(backbone.model, audio))
    assert per_patch * patches == pytest.approx(picture, rel=TOLERANCE)
    # A convolution's own copy of its input is not seen; with towers as narrow as these it is a third of the peak.
    assert per_frame * 1200 == pytest.approx(sound, rel=0.35)


@pytest.mark.gpu
@RunIf(min_gpus=1)
@pytest.mark.parametrize("overrides", [["adapter=mose"], ["adapter=lora", "backbone.gradient_checkpointing=true"]])
def test_a_training_step_on_a_gpu(overrides: list[str], small_dir: Path) -> None:
    cfg = config(small_dir, *overrides, "backbone.dtype=bf16", "trainer.precision=bf16-mixed", "backbone.device=cuda")
    tuner = tuner_of(cfg)
    tuner.to("cuda")
    batch = ClipBatch(training_batch(tuner.backbone)).to("cuda")

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = tuner.training_step(batch, 0)
        loss.backward()

    step()
    tuner.zero_grad()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    measured = torch.cuda.max_memory_allocated() - before
    assert batch.data is not None
    found = estimate(cfg, tokens=batch.data.input_ids.shape[1])
    expected = found.training.activations + found.rows()["gradients"] + CLIPS * found.media.features
    assert expected == pytest.approx(measured, rel=TOLERANCE)


# -- arithmetic --------------------------------------------------------------------------------------------------------

WEIGHTS = Weights(towers=100, rest=4_000, rest_parameters=2_000, frozen=2_050, trainable=80, largest=10)
BUCKETS = 2 * 4 * 20_000_000


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan("gpu", spread=False), (4_100, 320, 320, 640, 0)),
        (Plan("ddp"), (4_100, 320, 320, 640, 320)),
        (Plan("zero1", 1), (4_100, 320, 320, 3 * 320 // 4, BUCKETS)),
        (Plan("zero2", 2), (4_100, 320, 80, 3 * 80, BUCKETS)),
        (Plan("zero3", 3), (100 + 1_000 + 4_000, 80, 80, 3 * 80, BUCKETS)),  # a small model is gathered whole
        (Plan("zero3_offload", 3, offload=True), (100 + 4_000, 0, 80, 0, BUCKETS)),
    ],
    ids=lambda value: value.name if isinstance(value, Plan) else "",
)
def test_what_each_trainer_spreads(plan: Plan, expected: tuple[int, ...]) -> None:
    rows = static_bytes(WEIGHTS, plan, 4)
    assert tuple(rows[name] for name in ("weights", "adapter", "gradients", "optimiser", "buffers")) == expected


def test_zero3_gathers_no_more_than_its_bound() -> None:
    large = Weights(0, rest=60 * 10**9, rest_parameters=30 * 10**9, frozen=30 * 10**9, trainable=0, largest=0)
    assert static_bytes(large, Plan("zero3", 3), 8)["weights"] == 60 * 10**9 // 8 + 2 * 10**9


@pytest.mark.parametrize("name", ["gpu", "ddp", "zero1", "zero2", "zero3", "zero3_offload"])
def test_plans_are_the_trainers_of_the_configs(name: str) -> None:
    plan = plan_of(config("/nowhere", f"trainer={name}").trainer)
    assert plan.name == name
    assert plan in PLANS


def test_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes_of(OmegaConf.create({"devices": 4, "num_nodes": 2, "strategy": "ddp"})) == 8
    assert processes_of(OmegaConf.create({"devices": 1})) == 1
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert processes_of(OmegaConf.create({"devices": "auto"})) == 16


def test_a_card_is_never_planned_full() -> None:
    for card in CARDS:
        assert 0.85 * card < usable(card) / 2**30 < 0.95 * card


def test_live_bytes_follow_storages() -> None:
    known = torch.zeros(1000)
    with LiveBytes((known,)) as memory:
        first = torch.ones(256)  # 1 KiB
        view = first[:10]
        assert (memory.live, memory.peak) == (1024, 1024)
        known.add_(1)
        del first
        assert memory.live == 1024  # the view holds it
        second = torch.ones(512)
        del view
        assert (memory.live, memory.peak) == (2048, 3072)
        third = torch.ones(256)
        assert memory.at_peak(iter((second, third))) == 2048
    assert memory.peak == 3072


@pytest.fixture(scope="module")
def planned(small_dir: Path) -> Callable[..., Estimate]:
    return lambda *overrides, **options: estimate(config(small_dir, "adapter=mose", *overrides), **options)


def test_longer_sequences_and_kept_layers_cost_more(planned: Callable[..., Estimate]) -> None:
    short, long = planned(tokens=64), planned(tokens=256)
    again = planned("backbone.gradient_checkpointing=true", tokens=256)
    assert short.training.activations < again.training.activations < long.training.activations
    assert long.training.logits == short.training.logits  # logits exist where answers are, whatever the prompt


def test_mixing_runs_recombined_clips(planned: Callable[..., Estimate]) -> None:
    found = planned("method=conflict_mixing", tokens=64)
    assert found.passes == {"clips": CLIPS // 2, "recombined": CLIPS // 2}
    assert found.training.logits > planned(tokens=64).training.logits


def test_budgets_become_tokens(qwen25: OmniBackbone) -> None:
    cfg = config(qwen25.name, "data.budget.num_frames=6", "data.max_tokens=60")
    clip = longest_clip(cfg, qwen25.processor)
    # Frames of 112 x 112 are made 56 x 56 by this processor: 2 x 2 tokens for every two frames; 25 a second of sound.
    assert (clip.visual, clip.audio, clip.frames) == (3 * 4, 50, 6)
    assert clip.tokens == 60 < clip.wanted
    own = config(qwen25.name, "data.prepare=null", "data.budget.max_seconds=10", "data.max_pixels=null")
    assert longest_clip(own, qwen25.processor).audio == 250


def test_tokens_without_a_processor_at_hand(qwen25: OmniBackbone) -> None:
    from mosear.data.lengths import audio_tokens, video_tokens
    from mosear.data.media import MediaBudget

    stand_in = processor_of("Qwen/nowhere", type(qwen25.family), qwen25.family.config)
    info = MediaInfo(True, True, 4.0, 640, 480, 25.0)
    for pixels in (56 * 56, 128 * 28 * 28):
        budget = MediaBudget(num_frames=8, max_pixels=pixels)
        assert video_tokens(info, stand_in, budget, pixels) == video_tokens(info, qwen25.processor, budget, pixels)
    assert audio_tokens(7.3, stand_in) == audio_tokens(7.3, qwen25.processor)


# -- what a user sees --------------------------------------------------------------------------------------------------


def test_the_table_adds_up(planned: Callable[..., Estimate]) -> None:
    found = planned(gpus=4)
    shown = table(found).splitlines()
    rows = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in shown[1:8]}
    assert [len(values) for values in rows.values()] == [len(PLANS)] * 7
    total = next(line for line in shown if line.startswith("total"))
    for column, value in enumerate(total.split()[1:]):
        assert float(value) == pytest.approx(sum(values[column] for values in rows.values()), abs=0.04)
    assert sum(line.startswith("fits") for line in shown) == len(CARDS)
    assert "*gpu" in shown[0]


def test_nf4_leaves_zero3_out(qwen25_dir: Path) -> None:
    found = estimate(config(qwen25_dir, "backbone.quantization=nf4"))
    assert not re.search("zero3", table(found))
    assert not found.fits(141, Plan("zero3", 3))


def test_too_long_clips_are_announced(qwen25_dir: Path) -> None:
    found = estimate(config(qwen25_dir, "data.max_tokens=40"))
    assert "above data.max_tokens=40, so such clips are refused by name" in headline(found)


def test_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], qwen25_dir: Path) -> None:
    given = ["backbone=checkpoint", f"backbone.name={qwen25_dir}", "trainer=zero2", "--gpus", "2", "--tokens", "99"]
    monkeypatch.setattr("sys.argv", ["memory", *given])
    main()
    shown = capsys.readouterr().out
    assert "estimated for 99" in shown
    assert "*zero2" in shown and "shown on 2 GPUs" in shown
    monkeypatch.setattr("sys.argv", ["memory", "backbone=checkpoint", "backbone.name=nobody/nothing"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match="Nothing on this machine says how large"):
        main()


@pytest.mark.slow
def test_8k_tokens_train_on_one_80_gb_card() -> None:
    found = estimate(
        compose_train(["+experiment=mosear_7b", "data.batch_size=1", "method=answer_tuning", "data.eval_batch_size=1"]),
        tokens=8192,
    )
    assert found.plan.name == "gpu"
    assert found.fits(80)
    assert not found.fits(24)
    assert 0 < found.training.activations < 10 * 2**30


@pytest.mark.slow
def test_30b_fits_one_80_gb_card_and_24_gb_cards_when_spread() -> None:
    found = estimate(compose_train(["+experiment=mosear_30b"]), gpus=8)
    by_name = {plan.name: plan for plan in PLANS}
    assert found.fits(80, by_name["gpu"]) and not found.fits(40, by_name["gpu"])
    assert found.fits(24, by_name["zero3"])


def test_the_weights_that_training_began_with_are_counted(small_dir: Path) -> None:
    plain, started = (
        estimate(config(small_dir, "method=grpo", "method.estimator=exact", f"method.reference={reference}"))
        for reference in ("backbone", "start")
    )
    assert "copies of the adapter" not in plain.rows()
    assert started.rows()["copies of the adapter"] == 2 * 4 * started.weights.trainable
    assert started.total() - plain.total() == 2 * 4 * started.weights.trainable
