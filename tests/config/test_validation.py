"""Every kind of config mistake is found, all of them at once, and each comes with a remedy."""

from __future__ import annotations

import enum
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Protocol, TypedDict, TypeVar

import pytest
from omegaconf import DictConfig, OmegaConf

from mosear.config.annotations import UNREAD, describe, fits
from mosear.config.targets import TargetError, resolve_target
from mosear.config.validation import ABSENT, ConfigError, Problem, validate
from mosear.problems import suggest

if TYPE_CHECKING:
    from somewhere_that_does_not_exist import OnlyForTypeCheckers

HERE = __name__


class Optimizer:
    def __init__(self, params: list[float], lr: float = 1e-3) -> None: ...


class FancyOptimizer(Optimizer):
    def __call__(self) -> None: ...


@dataclass
class Adapter:
    rank: int
    alpha: float = 16.0
    kind: Literal["lora", "mose"] = "lora"
    targets: list[str] | str | None = None


@dataclass
class GatedAdapter(Adapter):
    gate_hidden: int | None = None


class Trainer:
    def __init__(
        self,
        optimizer: Optimizer,
        callbacks: Sequence[Callable[..., None]] = (),
        untyped=None,
        implicit: int = None,  # noqa: RUF013
        checked: OnlyForTypeCheckers | None = None,
    ) -> None: ...

    @classmethod
    def from_path(cls, path: Path | str, *, strict: bool = True) -> Trainer: ...


class Odd:
    def __new__(cls, value: int) -> Any:
        return value


def accepts_anything(first: int, /, second: str = "b", **extra: Any) -> None: ...


NOT_CALLABLE = 3


class Colour(enum.Enum):
    RED = "red"


class Sized(TypedDict):
    width: int


class Named(Protocol):
    name: str


Metres = NewType("Metres", float)
T = TypeVar("T")


@pytest.fixture(autouse=True)
def importable_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets name this module, whichever name pytest's import mode gave it."""
    monkeypatch.setitem(sys.modules, "local_targets", sys.modules[HERE])


def config(tree: Any) -> DictConfig:
    return OmegaConf.create(tree)


def problems_of(tree: Any, **options: Any) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        validate(config(tree), **options)
    return caught.value.problems


def only_problem_of(tree: Any, **options: Any) -> Problem:
    (problem,) = problems_of(tree, **options)
    return problem


def target(name: str, **entries: Any) -> dict[str, Any]:
    return {"_target_": f"local_targets.{name}", **entries}


def test_golden_report() -> None:
    cfg = config(
        {
            "adapter": target("Adapter", rank="8", kind="mosse", alhpa=16),
            "data": {"root": "???", "cache": "${data.rot}/cache"},
            "trianer": {"steps": 10},
            "precision": 8,
        }
    )

    def eight_bits_do_not_train(cfg: DictConfig) -> Iterator[Problem]:
        if cfg.precision == 8:
            yield Problem("precision", 8, "Training in 8 bits is not supported.", "Use precision=16.")

    with pytest.raises(ConfigError) as caught:
        validate(cfg, allowed_keys=["adapter", "data", "trainer", "precision"], rules=[eight_bits_do_not_train])
    assert str(caught.value) == (
        "the configuration has 7 problems:\n"
        "\n"
        "  1. trianer = {'steps': 10}\n"
        "    There is no setting 'trianer' at the top level.\n"
        "    -> Did you mean 'trainer'?\n"
        "\n"
        "  2. data.root = '???'\n"
        "    This value is mandatory and is not set.\n"
        "    -> Set data.root=... on the command line or in the config.\n"
        "\n"
        "  3. data.cache = '${data.rot}/cache'\n"
        "    Interpolation key 'data.rot' not found.\n"
        "    -> Correct the name inside ${...}, or define what it refers to.\n"
        "\n"
        "  4. adapter.rank = '8'\n"
        "    Adapter wants 'rank' to be a whole number, not text.\n"
        "    -> Write 8 without quotes.\n"
        "\n"
        "  5. adapter.kind = 'mosse'\n"
        "    Adapter wants 'kind' to be 'lora' or 'mose', not 'mosse'.\n"
        "    -> Did you mean 'mose'?\n"
        "\n"
        "  6. adapter.alhpa = 16\n"
        "    Adapter has no parameter 'alhpa'.\n"
        "    -> Did you mean 'alpha'?\n"
        "\n"
        "  7. precision = 8\n"
        "    Training in 8 bits is not supported.\n"
        "    -> Use precision=16."
    )


def test_a_good_config_passes() -> None:
    tree = {
        "lr": 1,
        "adapter": target("GatedAdapter", rank=8, alpha=16, targets=["q", "v"], gate_hidden=None),
        "trainer": target(
            "Trainer",
            optimizer=target("FancyOptimizer", params=[1, 2.5], lr="${lr}"),
            callbacks=[target("FancyOptimizer", params=[]), target("accepts_anything", _partial_=True)],
            untyped={"any": "thing"},
            implicit=None,
            checked=3,
        ),
        "factory": target("Trainer.from_path", path="/somewhere", strict=False),
        "loose": target("accepts_anything", _args_=[1], anything="goes"),
    }
    validate(config(tree), allowed_keys=tree.keys())


# --- values that cannot be read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"a": "???"}, "a"),
        ({"a": {"b": ["x", "???"]}}, "a.b[1]"),
        ({"a": "${b}", "b": "???"}, "b"),
        ({"a": "${b}/x", "b": "???"}, "b"),
        ({"a": "${b}", "b": {"c": "???"}}, "b.c"),
        ({"a": target("Adapter", rank="???")}, "a.rank"),
        ({"a": {"_target_": "???", "x": 1}}, "a._target_"),
        ({"a": target("Adapter", _args_="???")}, "a._args_"),
    ],
)
def test_missing_values_are_reported_once_where_they_stand(tree: Any, key: str) -> None:
    problem = only_problem_of(tree)
    assert (problem.key, problem.value) == (key, "???")
    assert f"{key}=" in problem.remedy


@pytest.mark.parametrize("broken", ["${nowhere}", "${nowhere.at.all}/x", "${oc.env:NOT_SET_ANYWHERE}", "${no_such:1}"])
def test_interpolations_that_do_not_resolve_show_what_is_written(broken: str) -> None:
    problem = only_problem_of({"a": [{"b": broken}], "again": "${a}"})
    assert (problem.key, problem.value) == ("a[0].b", broken)


@pytest.mark.parametrize(
    ("tree", "keys"),
    [
        ({"a": "${a}"}, {"a"}),
        ({"a": "${b}", "b": "${a}"}, {"a", "b"}),
        ({"a": {"b": "${a}"}}, {"a.b"}),
        ({"a": {"x": "${b}"}, "b": {"y": "${a}"}}, {"a.x", "b.y"}),
        ({"a": ["${b}"], "b": {"c": "${a}"}}, {"a[0]", "b.c"}),
    ],
)
def test_interpolations_in_a_circle_are_reported(tree: Any, keys: set[str]) -> None:
    assert {problem.key for problem in problems_of(tree)} == keys


def test_an_aliased_target_is_judged_once_where_it_is_written() -> None:
    tree = {"adapter": target("Adapter", rank=1, bogus=2), "copy": "${adapter}", "deep": {"copy": "${adapter}"}}
    assert only_problem_of(tree).key == "adapter.bogus"


def test_an_aliased_value_is_still_checked_against_its_parameter() -> None:
    tree = {"layers": ["q", 3], "adapter": target("Adapter", rank=1, targets="${layers}")}
    assert only_problem_of(tree).key == "adapter.targets"


# --- targets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message", "remedy"),
    [
        ("local_targets.Adaptor", "has no attribute 'Adaptor'", "Did you mean 'Adapter'?"),
        ("local_targets.Trainer.from_paths", "'local_targets.Trainer' has no attribute", "'from_path'"),
        ("no_such_package.Thing", "There is no module 'no_such_package'", "install 'no_such_package'"),
        ("mosear.config.validatoin.validate", "has no module or attribute 'validatoin'", "validation"),
        ("local_targets.NOT_CALLABLE", "is a int and cannot be called", "class or a function"),
        ("not a path", "must be a dotted path", "package.module.Class"),
        (7, "must be a dotted path", "package.module.Class"),
    ],
)
def test_targets_that_do_not_exist(path: Any, message: str, remedy: str) -> None:
    import mosear.config.validation  # noqa: F401  (so that its name is among the known ones)

    problem = only_problem_of({"x": {"_target_": path}})
    assert (problem.key, problem.value) == ("x._target_", path)
    assert message in problem.message
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_installed_either.part", "needs a module that is not there: no module 'not_installed_either'"),
        ("raise RuntimeError('no GPU')", "fails with RuntimeError: no GPU"),
    ],
)
def test_modules_that_do_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    (tmp_path / "broken_module_of_a_user.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TargetError, match=message):
        resolve_target("broken_module_of_a_user.Thing")


def test_resolving_imports_submodules_and_calls_nothing() -> None:
    assert resolve_target("mosear.config.validation.validate") is validate
    assert resolve_target("local_targets.Trainer.from_path") == Trainer.from_path


# --- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "key", "value", "message", "remedy"),
    [
        (target("Adapter"), "x.rank", ABSENT, "needs a value for 'rank'", "Add x.rank=..."),
        (target("Adapter", rank=1, alhpa=2), "x.alhpa", 2, "no parameter 'alhpa'", "Did you mean 'alpha'?"),
        (target("Adapter", rank=1, zzz=2), "x.zzz", 2, "no parameter 'zzz'", "Use one of: alpha, kind, targets."),
        (target("Adapter", rank=True), "x.rank", True, "to be a whole number, not true", "of that type"),
        (target("Adapter", rank=1.5), "x.rank", 1.5, "to be a whole number, not a number", "of that type"),
        (target("Adapter", rank=None), "x.rank", None, "to be a whole number, not null", "of that type"),
        (
            target("Adapter", rank=1, alpha="1e-4"),
            "x.alpha",
            "1e-4",
            "a number, not text",
            "Write 1e-4 without quotes.",
        ),
        (target("Adapter", rank=1, targets=3), "x.targets", 3, "not a whole number", "Quote it: '3'."),
        (
            target("Adapter", rank=1, targets=[3]),
            "x.targets",
            [3],
            "a list of texts or text or null, not a list",
            "of that type",
        ),
        (target("Adapter", rank=1, kind=3), "x.kind", 3, "not a whole number", "Use one of: lora, mose."),
        (target("Trainer.from_path", path="p", strict="false"), "x.strict", "false", "true or false", "without quotes"),
        (target("Adapter", _args_=[1], rank=2), "x.rank", 2, "gets 'rank' twice", "one of the two"),
        (target("Adapter", _args_=["a"]), "x._args_[0]", "a", "to be a whole number, not text", "of that type"),
        (target("Adapter", _args_=[1, 2, "lora", None, 5]), "x._args_", [1, 2, "lora", None, 5], "takes 4", "Remove"),
        (target("accepts_anything"), "x.first", ABSENT, "needs a value for 'first'", "Add"),
    ],
)
def test_parameters(node: Any, key: str, value: Any, message: str, remedy: str) -> None:
    problem = only_problem_of({"x": node})
    assert (problem.key, problem.value) == (key, value)
    assert message in problem.message
    assert remedy in problem.remedy


def test_a_nested_target_must_build_what_the_parameter_wants() -> None:
    problem = only_problem_of({"trainer": target("Trainer", optimizer=target("Adapter", rank=1))})
    assert problem.key == "trainer.optimizer"
    assert problem.message.endswith("not what local_targets.Adapter builds.")


@pytest.mark.parametrize(
    "optimizer",
    [
        target("FancyOptimizer", params=[]),
        target("Odd", value=1),  # its __new__ may build anything
        target("accepts_anything", _args_=[1]),  # a function may return anything
    ],
)
def test_a_nested_target_of_a_subclass_or_of_unknown_type_is_fine(optimizer: Any) -> None:
    validate(config({"trainer": target("Trainer", optimizer=optimizer)}))


def test_nested_nodes_are_checked_with_their_full_path() -> None:
    callbacks = [target("FancyOptimizer", params=[], lrr=1)]
    tree = {"run": {"trainer": target("Trainer", optimizer=target("Optimizer", params=[]), callbacks=callbacks)}}
    problem = only_problem_of(tree)
    assert (problem.key, problem.remedy) == ("run.trainer.callbacks[0].lrr", "Did you mean 'lr'?")


def test_partial_may_leave_parameters_out_but_not_invent_any() -> None:
    validate(config({"x": target("Optimizer", _partial_=True, lr=1)}))
    assert only_problem_of({"x": target("Optimizer", _partial_=True, rate=1)}).key == "x.rate"
    wrong = {"x": target("Trainer", optimizer=target("Optimizer", _partial_=True))}
    assert only_problem_of(wrong).key == "x.optimizer"


def test_what_our_code_supplies_may_be_left_out() -> None:
    tree = {"optimizer": target("Optimizer", lr=1)}
    validate(config(tree), supplied={"optimizer": ["params"]})
    assert only_problem_of(tree).key == "optimizer.params"


def test_children_of_a_non_recursive_node_are_handed_over_as_config() -> None:
    tree = {"x": target("Trainer", _recursive_=False, optimizer=target("Adapter"), callbacks=[target("Adapter")])}
    validate(config(tree))
    tree["x"]["optimizer"]["bogus"] = 1
    assert only_problem_of(tree).key == "x.optimizer.bogus"


def test_the_root_may_be_a_target_and_builtins_without_signature_are_skipped() -> None:
    assert only_problem_of(target("Adapter")).key == "rank"
    validate(config({"x": {"_target_": "builtins.dict", "anything": 1}}))


def test_inherited_annotations_are_evaluated_where_they_were_written() -> None:
    class Child(Adapter):
        __module__ = "builtins"

    Trainer.Child = Child
    assert only_problem_of({"x": target("Trainer.Child", rank=1, kind="x")}).key == "x.kind"


# --- annotations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (True, float, False),
        (1, bool, False),
        (None, None, True),
        (0, None, False),
        (1, int | None, True),
        ("a", int | None, False),
        (1, Literal[1, "a"], True),
        (True, Literal[1, "a"], False),
        ("a", Path, True),
        (3, Path | None, False),
        ("red", Colour, True),
        ("RED", Colour, True),
        ("blue", Colour, False),
        ([1, 2], list, True),
        ([1, "a"], list[int], False),
        ([1, 2], tuple[int, ...], True),
        ([1, 2], tuple[int, int], True),
        ([1, 2, 3], tuple[int, int], False),
        ([1], set[int], True),
        ("abc", Sequence[str], False),
        ("abc", list[str] | str, True),
        ({"a": 1}, dict[str, float], True),
        ({"a": "b"}, Mapping[str, float], False),
        ({"a": 1}, dict, True),
        ({"a": 1}, list, False),
        ([1], dict, False),
        ({"width": 1}, Sized, True),
        ({"rank": 1}, Adapter, True),
        ({"rank": 1}, Optimizer, False),
        ("a", Optimizer, False),
        ("a", Callable[..., int], False),
        (1.0, Metres, True),
        ("a", Metres, False),
        (1, Annotated[int, "positive"], True),
        ("a", Annotated[int, "positive"], False),
        ("a", T, True),
        ("a", Any, True),
        ("a", object, True),
        ("a", Named, True),
        ("a", [int], True),  # not a type at all
        (UNREAD, int, True),
        ([UNREAD, 1], list[int], True),
        (target("FancyOptimizer"), Callable[[], None], True),
        (target("Adapter"), Callable[[], None], False),
        (target("Optimizer", _partial_=True), functools.partial, True),
        (target("Optimizer"), int, False),
        (target("Optimizer"), Optimizer | None, True),
        (target("NoSuchThing"), int, True),
        ([target("Optimizer")], list[Optimizer], True),
        ([target("Adapter")], list[Optimizer], False),
    ],
)
def test_fits(value: Any, annotation: Any, expected: bool) -> None:
    assert fits(value, annotation) is expected


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int, "a whole number"),
        (list[int] | str | None, "a list of whole numbers or text or null"),
        (Literal["a", 1] | None, "'a' or 1 or null"),
        (tuple[Path, ...], "a list of Path"),
        (Mapping[str, Optimizer], "a mapping"),
        (Callable[[int], str], "Callable"),
        (Annotated[Metres, "far"], "a number"),
    ],
)
def test_describe(annotation: Any, expected: str) -> None:
    assert describe(annotation) == expected


# --- top level, rules, report ---------------------------------------------------------------------------------------


def test_unknown_top_level_keys_are_only_looked_for_on_request() -> None:
    tree = {"seed": 1, "sede": 2}
    validate(config(tree))
    problem = only_problem_of(tree, allowed_keys=["seed", "trainer"])
    assert (problem.key, problem.value) == ("sede", 2)


def test_rules_see_the_config_and_their_problems_add_up() -> None:
    def seeds_are_small(cfg: DictConfig) -> Iterator[Problem]:
        if cfg.seed > 10:
            yield Problem("seed", cfg.seed, "Too large.", "Use a smaller one.")

    found = problems_of({"seed": 11}, rules=[seeds_are_small, seeds_are_small])
    assert [problem.key for problem in found] == ["seed", "seed"]
    validate(config({"seed": 1}), rules=[seeds_are_small])


def test_a_rule_that_trips_over_a_broken_config_keeps_the_other_reports() -> None:
    def reads_too_much(cfg: DictConfig) -> Iterator[Problem]:
        yield Problem("first", 1, "Seen before the stumble.", "Mend it.")
        if cfg.trainer.steps > 3:
            yield Problem("never", 1, "Not reached.", "None.")

    found = problems_of({"trianer": {"steps": 1}}, rules=[reads_too_much], allowed_keys=["trainer"])
    assert [problem.key for problem in found] == ["trianer", "first"]


def test_a_bug_in_a_rule_is_not_hidden() -> None:
    def buggy(cfg: DictConfig) -> list[Problem]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        validate(config({"a": 1}), rules=[buggy])


def test_config_error_is_a_value_error_and_counts_in_english() -> None:
    error = ConfigError([Problem("a", "x" * 200, "Too long.", "Shorten it.")])
    assert isinstance(error, ValueError)
    assert str(error).startswith("the configuration has 1 problem:\n")
    assert max(map(len, str(error).splitlines())) < 100


def test_suggestions() -> None:
    assert suggest("leraning_rate", ["learning_rate", "seed"]) == "Did you mean 'learning_rate'?"
    assert suggest("zzz", ["a", "b"]) == "Use one of: a, b."
    assert suggest("zzz", []) == "Remove it: nothing is accepted here."
    assert suggest("zzz", [f"key{i}" for i in range(20)]).endswith(", ... (20 in all).")


def test_validation_itself_needs_no_torch() -> None:
    code = "import sys, mosear.config.validation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
