"""Every shipped config composes and validates; public keys are a golden list, so that a rename is a reviewed event."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from mosear.__main__ import main
from mosear.config.adapter_options import offer_adapters
from mosear.config.validation import ConfigError
from mosear.data.clip import Clip
from mosear.data.manifest import write_manifest
from mosear.resolvers import register_resolvers
from mosear.runtime.checks import check_evaluation, check_training
from tests.helpers.feature_files import list_pickles

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
GOLDEN = Path(__file__).with_name("golden_keys.txt")
OPTIONS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "hydra", "benchmark") or re.match("manifest|synthetic", path.stem)
)
CPU = ["trainer.accelerator=cpu", "trainer.devices=1"]
FUSION = ("features", "model", "system", "task")
"""Groups of fusion models, which only go together."""
LEVELS = "task.levels={neutral:0,angry:-2,happy:2,sad:-1,worried:-1,surprise:1}"
FITTING = {
    "task=series": ["model=grjca"],
    "task=score": [LEVELS],
    "model=self_mm": ["task=score", LEVELS],
    "system=omni": ["adapter=lora", "method=answer_tuning"],
}
TARGETS = {
    "synthetic_blends": ["+experiment=fusion", "data=synthetic_blends", "benchmark=synthetic_blends", "task=labels"],
    "synthetic_continuous": [
        *("+experiment=fusion", "task=series", "model=grjca"),
        *("data=synthetic_continuous", "benchmark=synthetic_continuous"),
    ],
}
"""Corpora with other targets than one label, and what learns them."""
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def imported(directory):
    """Options for features as ``mosear features import`` leaves them."""
    source = list_pickles(directory / "MELD")
    out = directory / "features"
    assert main(["features", "import", "list_pickle", "--source", str(source), "--out", str(out)]) == 0
    return ["+experiment=fusion_features", f"features.root={out}"]


@pytest.fixture
def own_files(tmp_path):
    """Values for what an option leaves to the user."""
    manifest = tmp_path / "m.parquet"
    write_manifest([Clip(id="a", text="Oh.", label="sad")], manifest)
    benchmark = ["benchmark=manifest", f"benchmark.manifest={manifest}"]
    features = imported(tmp_path)
    fusion = [option for option in OPTIONS if option.split("=")[0] in FUSION]
    return {
        **{option: ["+experiment=fusion", *FITTING.get(option, [])] for option in fusion},
        **{f"{group}={name}": TARGETS[name] for group in ("data", "benchmark") for name in TARGETS},
        **dict.fromkeys(("features=published", "data=features", "benchmark=features"), features),
        "+experiment=fusion_features": features[1:],
        "backbone=checkpoint": ["backbone.name=/somewhere"],
        "data=manifest": [f"data.train={manifest}", f"data.val={manifest}", *benchmark],
        "data=test": [f"data.train={manifest}", f"data.val={manifest}", *benchmark],
        "benchmark=manifest": benchmark[1:],
        # Trainers for GPUs, as they run on a machine without.
        **{f"trainer={name}": CPU for name in ("gpu", "ddp", "zero1", "zero2", "zero3", "zero3_offload")},
    }


def composed(name: str, *overrides: str, run_dir: str = "/tmp/run") -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=[f"run_dir={run_dir}", *overrides])


def check(name: str, *overrides: str) -> None:
    cfg = composed(name, *overrides)
    if name == "eval" and "model" in cfg:  # a fusion model is nothing without its weights
        with open_dict(cfg), TemporaryDirectory() as trained:
            (Path(trained) / "fusion.json").touch()
            cfg.adapter_path = trained
            check_evaluation(cfg)
        return
    (check_training if name == "train" else check_evaluation)(cfg)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("name", ["train", "eval"])
def test_experiment_composes_and_validates(name, experiment, own_files):
    own = [f"+experiment={experiment}", *own_files.get(f"+experiment={experiment}", [])]
    check(name, *own, *CPU)  # some are for GPUs
    callbacks = composed(name, *own).callbacks
    assert all(node is None or "_target_" in node for node in callbacks.values()), "a recipe must not make half a node"


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["train", "eval"])
def test_option_composes_and_validates(name, option, own_files):
    check(name, option, *own_files.get(option, []))


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONF)))
def test_file_opens_with_its_command(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert re.match(r"# (python (train|eval)\.py|torchrun .* train\.py)", lines[0]), lines[0]


def public_keys(node, prefix="") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return [key for name, value in node.items() for key in public_keys(value, f"{prefix}.{name}" if prefix else name)]


def test_public_keys_are_the_golden_list():
    found = []
    for name in ("train", "eval"):
        cfg = OmegaConf.to_container(composed(name, "+experiment=mosear"), resolve=False)
        found += [f"{name}: {key}" for key in sorted(public_keys(cfg))]
    for option in ("ar", "chase", "ar_chase"):
        cfg = OmegaConf.to_container(composed("eval", f"steering={option}").steering, resolve=False)
        found += [f"steering={option}: {key}" for key in sorted(public_keys(cfg))]
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text("\n".join(found) + "\n")
    assert found == GOLDEN.read_text().split("\n")[:-1], (
        "A config key appeared, went or was renamed. If that is wanted, run UPDATE_GOLDEN=1 pytest on this file, and "
        "say so in CHANGELOG.md."
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["adapter.rr=4"], "adapter.rr"),
        (["+extra=1"], "extra"),
        (["data.budget.num_frames=many"], "num_frames"),
        (["data.budget.fps=2"], "exactly one of num_frames and fps"),
        (["data.decode.mode=thread"], "mode"),
        (["data.decode.seconds=0"], "seconds=0 must be positive"),
        (["tuning.learning_rate=-1"], "learning_rate=-1 must lie in (0, 1e+30]"),
        (["tuning.learning_rate=1e38"], "learning_rate=1e+38 must lie in (0, 1e+30]"),
        (["answering.method=guess"], "method='guess' must be one of score, generate"),
        (["backbone=checkpoint"], "backbone.name"),
        (["data=manifest", "data.train=/no/such.parquet", "data.val=/no/such.parquet"], "/no/such.parquet"),
        (["backbone.attn_implementation=flash_attention_2"], "attn_implementation"),
        (["backbone.quantization=nf4", "trainer=zero3", *CPU], "cannot partition 4-bit weights"),
        (["backbone.quantization=nf4", "trainer=zero3_offload", *CPU], "Use trainer=zero2 or trainer=ddp"),
        (["trainer=zero3", *CPU, "backbone.device=cpu"], "Leave backbone.device=null"),
        (["trainer=zero2", *CPU, "trainer.precision=16-mixed"], "trainer.precision=bf16-mixed"),
        (["+trainer.strategy=deepspeed_stage_2"], "Use trainer=zero2"),
        (["trainer.devices=2"], "torchrun --nproc_per_node=2"),
        (["trainer=ddp", "trainer.accelerator=cpu", "trainer.num_nodes=2", "trainer.devices=4"], "--nnodes=2"),
        (["resume=/no/such.ckpt"], "resume"),
        (["data.val=null"], "validation clips"),
        (["data.batch_size=0"], "data.batch_size = 0\n    it must be at least 1"),
        (["data.num_workers=-1"], "Set data.num_workers=0 or more."),
        (["seed=abc"], "1. seed = 'abc'\n    It is also the value of data.seed"),
        (["+tuning.learning_rat=1"], "Did you mean 'learning_rate'?"),
        (["data=manifest", "data.train=a.parquet", "data.val=a.parquet"], "would be tested on the synthetic corpus"),
        (["data=synthetic_blends"], "such as benchmark=synthetic_blends for data=synthetic_blends"),
        (["steering.name=magic"], "steering.name"),
        (["steering=ar", "steering.name=none"], "steering.name"),
        (["steering=ar", "steering.ar.portion=2"], "portion=2 must lie in [0, 1]"),
        (["steering=ar", "steering.ar.layers=[0,40]"], "there is no layer 40"),
        (["steering=chase", "steering.chase.heads=[[0,99]]"], "there is no head 99"),
        (["steering=ar_chase", "steering.chase.target=smell"], "target='smell'"),
        (["steering=chase", "steering.settings=/no/such.json"], "/no/such.json cannot be read"),
        (["steering=chase", "+steering.changes.chase.target=oracle"], "is for a file in steering.settings"),
        (["data.on_bad_media=ignore"], "on_bad_media"),
        (["method=conflict_mixing", "method.rate=1.0"], "rate=1.0 must lie in (0, 1) (a share of the batch"),
        (["data.prompt.strategy=cot"], "strategy='cot' must be one of minimal, acoustic, stepwise"),
        (["data.prompt.strategy=stepwise", "answering.method=generate"], "data.prompt.strategy"),
        (["data.prompt.answer_format=json"], "must be generated and parsed"),
        (["method=conflict_mixing", "data.batch_size=1"], "recombines two clips"),
        (["method=conflict_mixing", "backbone.attn_implementation=eager"], "boolean attention masks"),
    ],
)
def test_mistake_is_named_with_a_remedy(overrides, expected):
    cfg = composed("train")
    with open_dict(cfg), initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "train", overrides=["run_dir=/tmp/run", *(f"+{o}" if o == "adapter.rr=4" else o for o in overrides)]
        )
    with pytest.raises(ConfigError, match=re.escape(expected)):
        check_training(cfg)


def test_reasoning_prompts_are_for_generated_answers():
    prompt = ["data.prompt.strategy=stepwise", "data.prompt.answer_format=tags"]
    check("eval", *prompt, "answering.method=generate", "answering.max_new_tokens=512")
    with pytest.raises(ConfigError, match="must be generated and parsed"):
        check("eval", *prompt)


def test_steering_defaults_are_those_of_the_classes():
    from mosear.steering import AttentionReallocation, Chase, Policies
    from mosear.steering.configured import steering_policy

    expected = {
        "none": None,
        "ar": AttentionReallocation(),
        "chase": Chase(),
        "ar_chase": Policies((AttentionReallocation(), Chase())),
    }
    for name, policy in expected.items():
        cfg = composed("eval", f"steering={name}")
        assert (cfg.steering.name, steering_policy(cfg)) == (name, policy)


def test_a_calibration_file_replaces_the_values(tmp_path):
    from mosear.steering import Chase, Reliability
    from mosear.steering.configured import steering_policy
    from mosear.steering.settings import SteeringSettings

    policy = Chase(strength=7.0, heads=((0, 1),), reliability=Reliability(audio_prior=-0.5))
    path = tmp_path / "chase.json"
    SteeringSettings(policy, "tiny-omni", "abc").save(path)
    steering = ["steering=chase", f"steering.settings={path}"]
    check("eval", *steering)
    assert steering_policy(composed("eval", *steering)) == policy
    changed = steering_policy(composed("eval", *steering, "+steering.changes.chase.target=oracle"))
    assert changed == replace(policy, target="oracle")
    for overrides, expected in (
        ([*steering, "backbone=tiny_omni_balanced"], "was calibrated on 'tiny-omni', not on 'tiny-omni-balanced'"),
        ([*steering, "steering.chase.strength=2"], "values of its own under steering.chase"),
        (["steering=ar", f"steering.settings={path}"], "Use steering=chase"),
        ([*steering, "+steering.changes.chase.vigour=2"], "vigour"),
    ):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            check("eval", *overrides)


def test_settings_of_an_adapter_are_for_that_adapter(tmp_path):
    from mosear.steering import Chase
    from mosear.steering.settings import SteeringSettings, adapter_fingerprint

    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
        (tmp_path / name / "adapter_model.safetensors").write_bytes(name.encode())
    path = tmp_path / "chase.json"
    SteeringSettings(Chase(), "tiny-omni", "abc", adapter=adapter_fingerprint(tmp_path / "own")).save(path)
    steering = ["steering=chase", f"steering.settings={path}"]
    check("eval", *steering, f"adapter_path={tmp_path / 'own'}")
    for overrides in ([], [f"adapter_path={tmp_path / 'other'}"]):
        with pytest.raises(ConfigError, match="calibrated on an adapter"):
            check("eval", *steering, *overrides)
    SteeringSettings(Chase(), "tiny-omni", "abc").save(path)
    check("eval", *steering, f"adapter_path={tmp_path / 'other'}")


def test_all_mistakes_come_at_once():
    cfg = composed(
        "train", "tuning.learning_rate=-1", "+adapter.rr=4", "resume=/no/such.ckpt", "answering.method=guess"
    )
    with pytest.raises(ConfigError) as error:
        check_training(cfg)
    for part in ("learning_rate", "adapter.rr", "/no/such.ckpt", "guess"):
        assert part in str(error.value)


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_help_explains_groups_without_torch(script):
    code = f"import sys, runpy; sys.argv = ['{script}', '--help']; sys.path.insert(0, '.')\n"
    code += (
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for group in ("backbone", "adapter", "steering", "data", "benchmark", "trainer"):
        assert f"{group}:" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["adapter=runs/a/adapter"], {"adapter=runs/a/adapter": "runs/a/adapter"}),
        (["adapter=/runs/a/adapter"], {"adapter=/runs/a/adapter": "/runs/a/adapter"}),
        (
            ["-m", "adapter=runs/a/adapter,runs/b/adapter"],
            {"adapter=runs/a/adapter": "runs/a/adapter", "adapter=runs/b/adapter": "runs/b/adapter"},
        ),
        (["adapter='runs/seed=1,rank=4'"], {"adapter='runs/seed=1,rank=4'": "runs/seed=1,rank=4"}),
        (["adapter=mose", "seed=1,2"], {"adapter=mose": None}),
    ],
)
def test_adapter_of_an_evaluation_is_a_directory_or_several(
    arguments: list[str], expected: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "seed=1,rank=4").mkdir(parents=True)  # one directory
    offer_adapters(arguments)
    for override, path in expected.items():
        assert composed("eval", override).adapter_path == path


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        ([], "it has no clips"),
        ([Clip(id="a", text="Oh.", label="bored ")], "labels outside data.prompt.labels: 'bored '"),
        ([Clip(id="a", text="Oh.")], "1 clips have no label, e.g. 'a'"),
        ([Clip(id="a", video="../a.mp4", label="sad")], "leads out of the root"),
    ],
)
@pytest.mark.parametrize("more", [[], ["debug=dry"]], ids=["run", "dry"])
def test_manifests_are_checked_before_weights_load(tmp_path, split, clips, expected, more):
    good = write_manifest([Clip(id="a", text="Oh.", label="sad")], tmp_path / "good.parquet")
    bad = write_manifest(clips, tmp_path / "bad.parquet")
    path = {"train": good, "val": good, "test": good} | {split: bad}
    options = [f"data.train={path['train']}", f"data.val={path['val']}", "benchmark=manifest"]
    options += ["data=manifest", f"benchmark.manifest={path['test']}", *more]
    with pytest.raises(ConfigError) as error:
        check("train", *options)
    (problem,) = error.value.problems
    assert problem.key == f"data.{split}" and expected in problem.message and "bad.parquet" in problem.message


def test_a_rendered_corpus_is_not_checked_but_another_test_manifest_is(tmp_path):
    bad = write_manifest([Clip(id="a", text="Oh.", label="bored")], tmp_path / "bad.parquet")
    with pytest.raises(ConfigError, match="labels outside"):
        check("train", "benchmark=manifest", f"benchmark.manifest={bad}", f"data_dir={tmp_path / 'data'}")
    (tmp_path / "data" / "synthetic").mkdir(parents=True)
    (tmp_path / "data" / "synthetic" / "val.parquet").write_bytes(b"rendered by an interrupted run")
    check("train", f"data_dir={tmp_path / 'data'}")
