"""A fusion model is imported for, trained on and tested on each published layout, on small files of the same shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from mosear.__main__ import main
from mosear.problems import ConfigError
from mosear.resolvers import register_resolvers
from mosear.runtime.checks import check_training
from mosear.runtime.flows import train
from tests.helpers import feature_files

ROOT = Path(__file__).parents[2]
SCORES = ["task=score", "data.prompt.labels=[negative,neutral,positive]", "benchmark.metrics=[mosi]"]
SCORES += ["benchmark.levels={negative:-1.5,neutral:0,positive:1.5}"]
EMOTIONS = "data.prompt.labels=[happy,sad,anger,surprise,disgust,fear]"
PLANE = ["task=series", "data.prompt.labels=[low,high]", "benchmark.metrics=[affwild]"]
PLANE += ["+task.levels={low:[-0.5,-0.5],high:[0.5,0.5]}"]
Make = Callable[[Path], Path]
LAYOUTS: dict[str, tuple[str, Make, list[str], list[str]]] = {
    "mmsa scores": ("mmsa", feature_files.mmsa, [], SCORES),
    "mmsa aligned": ("mmsa", lambda path: feature_files.mmsa(path, aligned=True), [], SCORES),
    "mmsa emotions": ("mmsa", lambda path: feature_files.mmsa(path, tgt=True), [], ["task=labels", EMOTIONS]),
    "list pickles": ("list_pickle", feature_files.list_pickles, [], []),
    "dialogues": (
        "dialogue_rnn", feature_files.dialogue_rnn, ["--labels", "hap,sad,neu", "--validation", "0.2"], [],
    ),
    "merbench": (
        "merbench", feature_files.merbench,
        ["--audio", "hubert-UTT", "--video", "clip-FRA", "--validation", "0.2"], [],
    ),
    "deepmsi": ("deepmsi", feature_files.deepmsi, ["--labels", "neutral,surprise,fear"], []),
    "affwild2": (
        "affwild2", feature_files.affwild2,
        ["--audio", "vggish", "--video", "resnet", "--rate", "30", "--validation", "0.25"], PLANE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_model_trains_on_the_layout(case: str, tmp_path: Path) -> None:
    layout, make, importing, options = LAYOUTS[case]
    source, store = make(tmp_path / "source.pkl"), tmp_path / "features"
    assert main(["features", "import", layout, "--source", str(source), "--out", str(store), *importing]) == 0
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "train",
            overrides=[
                "+experiment=fusion_features", f"features.root={store}", "model=linear_probe", *options,
                f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=2", "data.batch_size=2", "callbacks.progress=null",
                "+trainer.enable_progress_bar=false", "report.examples=1",
            ],
        )  # fmt: skip
    check_training(cfg)
    train(cfg)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["kind"] == cfg.task._target_.split(".")[-2]
    assert sum(subset["n"] for subset in metrics["subsets"].values()) > 0
    assert ("benchmark_metrics" in metrics) == bool(cfg.benchmark.metrics)
    assert metrics["run"]["features"].startswith(f"{layout} in ")
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_directory_without_features_is_told(tmp_path: Path) -> None:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=["+experiment=fusion_features", f"features.root={tmp_path}", "run_dir=/tmp/r"])
    with pytest.raises(ConfigError, match=r"there is no features\.json"):
        check_training(cfg)
