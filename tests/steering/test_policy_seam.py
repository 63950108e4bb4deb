"""Policies that the package does not know: found by their config, their key, their module."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.labels import LabelTrie
from mosear.callbacks.steered_evaluation import described
from mosear.config.validation import ConfigError
from mosear.data.sample import collate
from mosear.inference.scoring import label_log_probs
from mosear.roles import TokenRole
from mosear.runtime.calibrate import Calibration
from mosear.runtime.checks import check_evaluation
from mosear.steering import AttentionReallocation, Chase, Decision, Detection, Policies, Policy, steer
from mosear.steering import policies as package
from mosear.steering.calibration import searches
from mosear.steering.calibration.passes import ClipPasses, PassStore
from mosear.steering.calibration.policy_search import keys_of
from mosear.steering.calibration.stages import under_name
from mosear.steering.configured import steering_policy
from mosear.steering.known import known_policies
from mosear.steering.policies.base import KEYED, AttentionView, Edit, outside
from mosear.steering.settings import SteeringSettings, build_policy, policy_as_dict
from mosear.steering.telemetry import SteeredEvaluation
from tests.helpers.omni_samples import MIXED, fresh, make_batch, make_sample

CONF = Path(__file__).parents[2] / "conf"
LABELS = ("happy", "sad")
BOTH = [kind for kind in MIXED if {"video", "audio"} <= set(kind)]


@dataclass(frozen=True)
class Dim(Policy):
    """Halves visual attention in some layers; the other keys of a row share what it loses."""

    key: ClassVar[str] = "dim"

    layers: Sequence[int] = (0,)
    left: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))

    def problems(self, layers: int, heads: int) -> list[str]:
        return outside("Dim.layers", tuple(self.layers), layers, "layer")

    def acts_in(self, layer: int) -> bool:
        return layer in self.layers

    def apply(self, probabilities: Tensor, view: AttentionView) -> Edit:
        audio, visual, text = view.mass.unbind(-1)
        touched = (visual > 0) & (audio + text > 0)
        gained = torch.where(touched, 1 + (1 - self.left) * visual / (audio + text), 1.0)
        left = torch.where(touched, self.left, 1.0)
        return view.scaled(probabilities, torch.stack([gained, left, gained], dim=-1)), touched


@dataclass(frozen=True)
class Watch(Policy):
    """Decides: where face and voice disagree, the face is dimmed by as much."""

    key: ClassVar[str] = "watch"
    needs_both: ClassVar[bool] = True

    @property
    def detection(self) -> Detection:
        return Detection(decide=self.decide, silent=Watch())

    def decide(self, readings: Any, directions: Tensor | None) -> Decision:
        conflict = (readings["audio"] - readings["visual"]).abs().sum(-1) / 2
        bonus = torch.stack([torch.zeros_like(conflict), conflict.nan_to_num()], dim=-1)
        target = torch.where(bonus[:, 1] > 0, int(TokenRole.AUDIO), -1)
        return Decision(conflict, bonus, target, bonus)

    def acts_in(self, layer: int) -> bool:
        return True

    def idle(self, state: Tensor | None) -> bool:
        return state is None

    def apply(self, probabilities: Tensor, view: AttentionView) -> Edit:
        if view.state is None:
            return probabilities, torch.zeros_like(view.mass[..., 0], dtype=torch.bool)
        edited = Dim().apply(probabilities, view)
        told = (view.state[:, 1] > 0)[:, None, None]
        return torch.where(told[..., None], edited[0], probabilities), edited[1] & told


@pytest.fixture
def config_of_a_users_package(tmp_path: Path) -> Path:
    """A directory with ``steering/dim.yaml``, as a package of a user has it."""
    (tmp_path / "steering").mkdir()
    (tmp_path / "steering" / "dim.yaml").write_text(
        f"name: dimmed\nsettings: null\nchanges: {{}}\ndim:\n  _target_: {__name__}.Dim\n  layers: [0]\n  left: 0.5\n"
    )
    return tmp_path


def composed(directory: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        path = f"hydra.searchpath=[file://{directory}]"
        return compose("eval", overrides=[path, "run_dir=.", "trainer.accelerator=cpu", *overrides])


# -- a config ---------------------------------------------------------------------------------------------------------


def test_a_config_names_the_class(config_of_a_users_package: Path) -> None:
    cfg = composed(config_of_a_users_package, "steering=dim", "steering.dim.layers=[1,2]")
    check_evaluation(cfg)
    assert steering_policy(cfg) == Dim(layers=(1, 2))
    with pytest.raises(ConfigError, match="there is no layer 9, they go from 0 to 3"):
        check_evaluation(composed(config_of_a_users_package, "steering=dim", "steering.dim.layers=[9]"))


def test_steps_are_in_the_order_of_the_yaml(config_of_a_users_package: Path) -> None:
    target = f"+steering.dim._target_={__name__}.Dim"
    assert steering_policy(composed(config_of_a_users_package, "steering=ar", target)) == Policies(
        (AttentionReallocation(), Dim())
    )
    first = "+steering.ar._target_=mosear.steering.AttentionReallocation"
    assert steering_policy(composed(config_of_a_users_package, "steering=dim", first)) == Policies(
        (Dim(), AttentionReallocation())
    )
    alone = composed(config_of_a_users_package, "steering=none", "steering.name=dim", target)
    assert steering_policy(alone) == Dim()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+steering.ar.portion=0.3", "steering.ar has no _target_. Choose a file of conf/steering"),
        ("+steering.odd._target_=mosear.data.clip.ModalityLabels", "builds no subclass of mosear.steering.Policy"),
    ],
)
def test_nodes_that_are_no_policy_are_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        steering_policy(composed(tmp_path, "steering=none", override))


# -- a settings file --------------------------------------------------------------------------------------------------


def test_settings_round_trip(config_of_a_users_package: Path) -> None:
    path, policy = config_of_a_users_package / "s.json", Policies((Dim(layers=(2,), left=0.25), Chase(strength=2.0)))
    SteeringSettings(policy, "tiny-omni", "0f").save(path)
    assert SteeringSettings.load(path, changes={"dim": {"left": 0.25}}).policy == policy
    assert described(policy) == policy_as_dict(policy)
    SteeringSettings(Dim(left=0.1), "tiny-omni", "0f").save(path)
    cfg = composed(
        config_of_a_users_package, "steering=dim", f"steering.settings={path}", "+steering.changes.dim.left=0"
    )
    assert steering_policy(cfg) == Dim(left=0)
    own = composed(config_of_a_users_package, "steering=dim", f"steering.settings={path}", "steering.dim.left=0.9")
    with pytest.raises(ValueError, match=r"values of its own under steering\.dim"):
        steering_policy(own)


def test_a_settings_file_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unheard_of.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("unheard_of", "unheard_of.Policy", "mosear.steering.Chase"):
        with pytest.raises(ValueError, match=r"there is no policy '.*'; there are ar, chase"):
            build_policy({name: {}})
    assert "unheard_of" not in sys.modules


def test_what_cannot_be_saved_says_why() -> None:
    class Child(Dim):
        """Inherits the key, which is not its own."""

    @dataclass(frozen=True)
    class Odd(Dim):
        key: ClassVar[str] = "odd"
        what: object = object()

    for policy, message in ((Child(), "no `key` of its own"), (Odd(), "not JSON serializable")):
        with pytest.raises(ValueError, match=message):
            policy_as_dict(policy)
        assert described(policy) == repr(policy)
    KEYED.pop("odd")


def test_keys_are_plain_and_belong_to_one_class() -> None:
    for key, message in (("a_b", "lower-case letters and digits"), ("chase", r"belongs to .*Chase\. Choose another")):
        with pytest.raises(ValueError, match=message):
            type("Other", (Dim,), {"key": key})
    assert known_policies()["chase"] is Chase


# -- a session --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_session_steers_with_it(qwen25: OmniBackbone) -> None:
    own = fresh(qwen25)
    with steer(own, Dim(layers=(1,))) as session:
        own.model(**make_batch(own, BOTH).model_inputs())
    before, after = session.stats.before, session.stats.after
    torch.testing.assert_close(after[1, :, 1], before[1, :, 1] / 2)
    torch.testing.assert_close(after.sum(-1), before.sum(-1))
    others = [layer for layer in range(session.layers) if layer != 1]
    torch.testing.assert_close(after[others], before[others])
    assert not session.stats.flagged[others].any() and bool((session.stats.flagged[1] == 1).all())


@torch.no_grad()
def test_a_policy_that_decides_is_given_readings(qwen25: OmniBackbone) -> None:
    own = fresh(qwen25)
    batch = make_batch(own, BOTH)
    readings = {"audio": torch.tensor([[0.9, 0.1], [0.5, 0.5]]), "visual": torch.tensor([[0.2, 0.8], [0.5, 0.5]])}
    with steer(own, Watch(), LABELS) as session:
        evaluation = SteeredEvaluation(session)
        with evaluation.knowing(batch.clips, readings):
            label_log_probs(own, batch, LabelTrie.of(LABELS, own.processor.tokenizer))
        notes = evaluation.note(batch.clips)
    assert [round(note["conflict"], 4) for note in notes] == [0.7, 0.0]
    assert [note["target"] for note in notes] == ["audio", None]
    assert [note["attention_before"] == note["attention_after"] for note in notes] == [False, True]


def test_a_session_makes_one_decision(qwen25: OmniBackbone) -> None:
    with pytest.raises(ValueError, match="Chase and Watch each decide about every clip"):
        steer(qwen25, Policies((Chase(), Watch())), LABELS).__enter__()


@pytest.mark.parametrize("policy", [Dim(layers=(1,)), Watch(), Policies((Dim(), Watch()))], ids=repr)
@torch.no_grad()
def test_passes_of_a_calibration_answer_with_it(qwen25: OmniBackbone, policy: Policy, tmp_path: Path) -> None:
    own = fresh(qwen25)
    trie, pad_id = LabelTrie.of(LABELS, own.processor.tokenizer), own.processor.tokenizer.pad_token_id
    samples = [make_sample(own, kind, seed) for seed, kind in enumerate(MIXED)]
    passes = ClipPasses(own, samples, trie, pad_id, PassStore(tmp_path, "f"), batch_size=1)
    with steer(own, policy, trie):
        expected = [label_log_probs(own, collate([sample], pad_id), trie).log_softmax(-1)[0] for sample in samples]
    found = torch.from_numpy(passes.answers(policy)).float()
    torch.testing.assert_close(found, torch.stack(expected), rtol=2e-4, atol=2e-4)
    changed = [not own.equal(plain) for own, plain in zip(found, passes.unsteered, strict=True)]
    assert changed[MIXED.index(("video", "text"))] is (not isinstance(policy, Watch))


# -- modules ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def module_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if ``lift.py`` stood in ``mosear/steering/policies`` and in ``mosear/steering/calibration/searches``."""
    for folder, found in (("policies", package), ("searches", searches)):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(found, "__path__", [*found.__path__, str(tmp_path / folder)])
    (tmp_path / "policies" / "lift.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from mosear.steering.policies.reallocation import AttentionReallocation\n"
        "@dataclass(frozen=True)\n"
        "class Lift(AttentionReallocation):\n"
        "    key: ClassVar[str] = 'lift'\n"
    )
    (tmp_path / "searches" / "lift.py").write_text(
        "from mosear.steering.calibration.searches.ar import ReallocationSearch\n"
        "from mosear.steering.policies.lift import Lift\n"
        "class LiftSearch(ReallocationSearch):\n"
        "    off = Lift(portion=0.0)\n"
    )
    yield
    KEYED.pop("lift", None)
    for name in ("mosear.steering.policies.lift", "mosear.steering.calibration.searches.lift"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("module_in_the_package")
def test_a_module_is_enough() -> None:
    assert list(known_policies())[:2] == ["ar", "chase"] and "lift" in known_policies()
    assert policy_as_dict(build_policy({"lift": {"portion": 0.2}}))["lift"]["portion"] == 0.2
    assert keys_of("lift_chase") == ["lift", "chase"]
    assert [step.key for step in under_name(None, "lift_chase").steps] == ["lift", "chase"]
    Calibration("lift").check()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("dim", "policy='dim': no calibration search for 'dim'; there are searches for ar, chase"),
        ("ar_dim", "policy='ar_dim': no calibration search for 'dim'"),
        ("ar_ar", "one policy, or two different ones as KEY_KEY"),
    ],
)
def test_a_policy_without_a_search_is_refused(wanted: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibration(wanted).check()
