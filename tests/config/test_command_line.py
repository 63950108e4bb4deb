"""Mistakes on the command line are named with what was probably meant; what is right passes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mosear.config.command_line import known_keys, refuse_mistakes

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
GOLDEN = ROOT / "tests" / "runtime" / "golden_keys.txt"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["tuning.learning_rat=1"],
            "tuning.learning_rat: there is no such setting. Did you mean tuning.learning_rate?",
        ),
        (["learning_rate=1"], "Did you mean tuning.learning_rate?"),
        (["data.prompt.label=[a]"], "Did you mean data.prompt.labels"),
        (["num_frames=4"], "Did you mean data.budget.num_frames?"),
        (["labels=[a]"], "Did you mean data.prompt.labels?"),
        (["batchsize=4"], "data.batch_size"),
        (["zzzz=1"], "`--cfg job` prints all settings"),
        (["--experiment", "lora"], "--experiment: settings are written without dashes: +experiment=lora"),
        (["--experiment=lora"], "+experiment=lora"),
        (["--trainer", "-m"], "trainer=NAME"),
        (["experiment=lora"], "an experiment is added to the settings: +experiment=lora"),
    ],
)
@pytest.mark.parametrize("root", ["train", "eval"])
def test_a_mistake_is_named(arguments, expected, root):
    with pytest.raises(SystemExit) as stopped:
        refuse_mistakes(arguments, CONF, root)
    assert expected in str(stopped.value), stopped.value


def test_all_mistakes_come_at_once():
    with pytest.raises(SystemExit, match=r"(?s)batch_siz.*learning_rat"):
        refuse_mistakes(["data.batch_siz=1", "tuning.learning_rat=1"], CONF, "train")


@pytest.mark.parametrize("line", GOLDEN.read_text().splitlines())
def test_public_keys_pass(line):
    root, key = line.split(": ")
    key = f"steering.{key}" if root.startswith("steering") else key
    refuse_mistakes([f"{key}=1"], CONF, root if root in ("train", "eval") else "eval")


@pytest.mark.parametrize(
    "argument",
    [
        "+tuning.anything=1", "~logger", "hydra.run.dir=x", "-m", "--cfg", "job", "--info=all",
        "data.prompt.synonyms.mad=angry", "adapter=outputs/a/adapter", "backbone=tiny_omni",
        "tuning.optimizer.betas=[0.9,0.95]", "logger.wandb.project=a", "benchmark.levels={a: 1}",
        "trainer.strategy.stage=2", "steering.chase.strength=6", "mixing.rate=0",
    ],
)  # fmt: skip
def test_what_is_right_or_explained_elsewhere_passes(argument):
    refuse_mistakes([argument], CONF, "train")


def test_configs_of_one_s_own_may_have_any_key():
    refuse_mistakes(["--config-dir=mine", "my.key=1"], CONF, "train")


def test_documented_commands_pass():
    """Every key in the examples that config files begin with."""
    for path in CONF.glob("*/*.yaml"):
        for line in path.read_text().splitlines()[:3]:
            if line.startswith("# python ") and (".py " in line):
                refuse_mistakes(line.partition(".py ")[2].replace("'", "").split("  ")[0].split(), CONF, "train")
    assert len(known_keys(CONF, "train")) > 100


@pytest.mark.parametrize(
    ("argument", "copied"),
    [
        ("data.prompt.labels=[高兴,悲伤]", """'data.prompt.labels=["高兴","悲伤"]'"""),
        ("data.prompt.labels=[sad, très bien]", """'data.prompt.labels=[sad, "très bien"]'"""),
        ("data.prompt.question=谁?", """'data.prompt.question="谁?"'"""),
        ("+data.prompt.synonyms={angry: [fâché]}", """'+data.prompt.synonyms={angry: ["fâché"]}'"""),
    ],
)
def test_letters_that_hydra_takes_in_quotes_are_shown_in_quotes(argument, copied):
    with pytest.raises(SystemExit) as stopped:
        refuse_mistakes([argument], CONF, "train")
    assert "stand in quotes" in str(stopped.value) and copied in str(stopped.value)
    (told,) = shlex.split(copied)
    refuse_mistakes([told], CONF, "train")


def test_keys_that_no_quotes_help_belong_into_a_file():
    with pytest.raises(SystemExit, match="in a config file alone"):
        refuse_mistakes(["+data.prompt.synonyms={fâché: angry}"], CONF, "train")
