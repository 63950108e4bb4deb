"""Settings: what annotations ask for is checked, brought into form, and named in errors."""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import yaml
from annotated_types import Gt, Interval, Le, MinLen

from mosear.config.annotations import literal_choices
from mosear.config.signature import _Annotations
from mosear.config.targets import resolve_target
from mosear.data.prompt import Prompt
from mosear.experts import MoSEConfig
from mosear.methods.conflict_mixing import ConflictMixing
from mosear.methods.optim import Tuning
from mosear.settings import AtLeastOne, NotNegative, Positive, Share, arguments, check, settings
from mosear.steering import Chase, Reliability

NAN, INF = math.nan, math.inf
CONF = Path(__file__).parents[1] / "conf"


@settings
@dataclass(frozen=True)
class Inner:
    size: Positive = 1.0


@settings
@dataclass(frozen=True)
class Example:
    kind: Literal["a", "b", 3] = "a"
    share: Annotated[float, Interval(ge=0, lt=1), "of the clips"] = 0.5
    portion: Annotated[float, Interval(ge=0, le=1)] = 0.5
    turns: Annotated[int, Interval(ge=0, le=12)] = 0
    weight: NotNegative = 1.0
    level: Annotated[float, Gt(2)] = 3.0
    low: Annotated[int, Le(4)] = 1
    prior: float = 0.0
    limit: AtLeastOne | None = None
    on: bool = False
    name: str = ""
    names: Sequence[str] = ()
    pairs: Annotated[tuple[tuple[int, int], ...], MinLen(1)] | None = None
    several: list[str] | str = "all"
    table: Mapping[str, int] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    path: Path | None = None
    build: Callable[..., Any] | None = None

    def further_problems(self) -> Iterable[str]:
        if self.limit and self.low > self.limit:
            yield f"low={self.low} is above limit={self.limit}"
        if self.name.startswith("-"):
            yield f"name={self.name!r} must not start with a dash"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"kind": "c"}, "kind='c' must be one of a, b, 3"),
        ({"kind": True}, "kind=True must be one of a, b, 3"),
        ({"share": 1}, "share=1 must lie in [0, 1) (of the clips)"),
        ({"share": NAN}, "share=nan must be finite and lie in [0, 1) (of the clips)"),
        ({"share": "0.5"}, "share='0.5' must be a number (of the clips)"),
        ({"portion": 2}, "portion=2 must lie in [0, 1]"),
        ({"turns": 13}, "turns=13 must lie in 0..12"),
        ({"turns": 2.0}, "turns=2.0 must be a whole number"),
        ({"turns": True}, "turns=True must be a whole number"),
        ({"weight": -1}, "weight=-1 must not be negative"),
        ({"weight": INF}, "weight=inf must be finite and not negative"),
        ({"level": 2}, "level=2 must be above 2"),
        ({"low": 5}, "low=5 must be at most 4"),
        ({"prior": -INF}, "prior=-inf must be a finite number"),
        ({"prior": None}, "prior=None must be a number"),
        ({"limit": 0}, "limit=0 must be at least 1"),
        ({"limit": "few"}, "limit='few' must be a whole number"),
        ({"on": "no"}, "on='no' must be true or false"),
        ({"on": 1}, "on=1 must be true or false"),
        ({"name": 3}, "name=3 must be a string"),
        ({"names": "ab"}, "names='ab' must be a list of strings"),
        ({"names": ["a", 1]}, "names=['a', 1] must be a list of strings"),
        ({"pairs": []}, "pairs=[] must hold at least 1"),
        ({"pairs": [[1]]}, "pairs=[[1]] must be a list of [whole number, whole number]"),
        ({"pairs": [[0.7, 1.2]]}, "pairs=[[0.7, 1.2]] must be a list of [whole number, whole number]"),
        ({"several": 3}, "several=3 must be a list of strings or a string"),
        ({"table": ["a"]}, "table=['a'] must be a mapping from strings to whole numbers"),
        ({"table": {"a": "b"}}, "table={'a': 'b'} must be a mapping from strings to whole numbers"),
        ({"inner": 3}, "inner=3 must be Inner"),
        ({"inner": {"size": 0}}, "inner: Inner: size=0 must be positive"),
        ({"inner": {"colour": 1}}, "inner: Inner.__init__() got an unexpected keyword argument 'colour'"),
        ({"build": 3}, "build=3 must be Callable"),
        ({"name": "-x"}, "name='-x' must not start with a dash"),
        ({"low": 2, "limit": 1}, "low=2 is above limit=1"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError) as error:
        Example(**given)
    assert str(error.value) == f"Example: {problem}."


def test_all_problems_come_at_once_also_those_between_fields() -> None:
    with pytest.raises(ValueError) as error:
        Example("c", -1, on="no", name="-x")  # type: ignore[arg-type]
    assert str(error.value) == (
        "Example: kind='c' must be one of a, b, 3; share=-1 must lie in [0, 1) (of the clips); "
        "on='no' must be true or false; name='-x' must not start with a dash."
    )


def test_a_check_of_several_fields_may_trip_over_a_wrong_one_but_not_over_right_ones() -> None:
    with pytest.raises(ValueError, match=r"^Example: low='x' must be a whole number\.$"):
        Example(low="x", limit=1)  # type: ignore[arg-type]

    @settings
    @dataclass(frozen=True)
    class Broken:
        size: Positive = 1.0

        def further_problems(self) -> Iterable[str]:
            raise KeyError("a mistake of our own")

    with pytest.raises(KeyError, match="a mistake of our own"):
        Broken()


def test_values_are_brought_into_form() -> None:
    found = Example(names=["a"], pairs=[[0, 1]], several=("x", "y"), inner={"size": 2}, path="x/y")  # type: ignore
    assert (found.names, found.pairs, found.several) == (("a",), ((0, 1),), ["x", "y"])
    assert found.inner == Inner(2) and found.path == Path("x/y")
    numbers = Example(turns=np.int64(3), prior=np.float32(0.5), pairs=[(np.int64(1), 2)])  # type: ignore
    assert [type(value) for value in (numbers.turns, numbers.prior, numbers.pairs[0][0])] == [int, float, int]
    assert type(Example(prior=2).prior) is int, "a number of Python's stays what it is"


def test_a_settings_class_stays_a_frozen_dataclass() -> None:
    assert Example() == Example(**asdict(Example())) and hash(Inner(2.0)) == hash(Inner(2.0))
    with pytest.raises(AttributeError, match="cannot assign"):
        Inner().size = 3.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="size=-1 must be positive"):
        replace(Inner(), size=-1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sise'"):
        Inner(sise=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="takes from 1 to 2 positional arguments but 3 were given"):
        Inner(1, 2)  # type: ignore[call-arg]


def test_subclasses_are_checked() -> None:
    class Plain(Inner):
        pass

    @settings
    @dataclass(frozen=True)
    class More(Inner):
        count: AtLeastOne = 1

    for made in (lambda: Plain(size=0), lambda: More(size=0)):
        with pytest.raises(ValueError, match="size=0 must be positive"):
            made()
    with pytest.raises(ValueError, match="count=0"):
        More(count=0)


def test_annotations_that_cannot_be_evaluated_accept_everything() -> None:
    @settings
    @dataclass(frozen=True)
    class Partly:
        known: Positive
        unknown: "NoSuchName"  # type: ignore[name-defined] # noqa: F821

    assert Partly(1, object()).known == 1
    with pytest.raises(ValueError, match=r"^Partly: known=0 must be positive\.$"):
        Partly(0, object())


def test_an_object_can_be_checked_as_it_is() -> None:
    @dataclass
    class Open:
        size: Positive = 0.0

    with pytest.raises(ValueError, match=r"^Open: size=0\.0 must be positive\.$"):
        check(Open())


@pytest.mark.parametrize(
    ("build", "problems"),
    [
        (lambda: Chase(heads=[[0.7, 1.2]], soft="no"), ["heads=[[0.7, 1.2]]", "soft='no' must be true or false"]),
        (lambda: MoSEConfig(kl_weight=NAN), ["kl_weight=nan must be finite and not negative"]),
        (lambda: MoSEConfig(alpha=INF), ["alpha=inf must be finite and positive"]),
        (lambda: MoSEConfig(r=True, gate_norm="no"), ["r=True must be a whole number", "gate_norm='no'"]),
        (lambda: MoSEConfig(r=0), ["r=0 must be at least 1"]),
        (lambda: ConflictMixing(sharpness=INF, seed=0.5), ["sharpness=inf", "seed=0.5 must be a whole number"]),
        (lambda: Tuning(weight_decay=-0.1, learning_rate=INF), ["weight_decay=-0.1", "learning_rate=inf"]),
        (lambda: Prompt(labels="sad", list_labels="no"), ["labels='sad' must be a list", "list_labels='no'"]),
        (lambda: Reliability(audio_prior="high"), ["audio_prior='high' must be a number"]),
    ],
)
def test_values_that_were_accepted_and_must_not_be(build: Callable[[], object], problems: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        build()
    assert all(problem in str(error.value) for problem in problems), str(error.value)


# -- comments in conf/ -------------------------------------------------------------------------------------------------

OPEN = {"cold_start", "init_from", "resume", "split", "target_modules"}
"""Settings whose comment lists examples: a path, a name or an expression may stand there too."""
PASSED_ON = {"keep_adapter": ("mosear.callbacks.AdapterCheckpoint", "select")}
"""Settings at the top level that a node below takes over."""


def listed(comment: str) -> list[str]:
    """The values that "such as this: a (why) | b | c, and so on" lists."""
    first, *rest = re.sub(r"\s*\([^)]*\)", "", comment).split(" | ")
    return [first.split()[-1], *(part.split()[0].rstrip(",.:;") for part in rest)]


def commented_settings(path: Path) -> Iterable[tuple[str, str | None, str]]:
    """Name, target of the node, and comment, for each comment that lists values."""
    lines = path.read_text(encoding="utf-8").splitlines()

    def visit(node: yaml.Node | None) -> Iterable[tuple[str, str | None, str]]:
        if not isinstance(node, yaml.MappingNode):
            return
        target = next((value.value for key, value in node.value if key.value == "_target_"), None)
        for key, value in node.value:
            _, mark, comment = lines[key.start_mark.line].partition(" # ")
            if mark and " | " in comment:
                yield key.value, target, comment
            yield from visit(value)

    return visit(yaml.compose("\n".join(lines)))


COMMENTED = [
    pytest.param(*found, id=f"{path.relative_to(CONF)}-{found[0]}")
    for path in sorted(CONF.rglob("*.yaml"))
    for found in commented_settings(path)
]


@pytest.mark.parametrize(("name", "target", "comment"), COMMENTED)
def test_comments_list_the_values_that_the_annotation_names(name: str, target: str | None, comment: str) -> None:
    if name in OPEN:
        return
    target, parameter = PASSED_ON.get(name, (target, name))
    assert target is not None, "say in PASSED_ON which class takes this setting"
    built: Any = resolve_target(target)
    annotation = _Annotations(built).of(inspect.signature(built).parameters[parameter])
    assert listed(comment) == literal_choices(annotation)


def test_every_comment_with_alternatives_is_among_them() -> None:
    lines = [line for path in CONF.rglob("*.yaml") for line in path.read_text().splitlines()]
    assert len(COMMENTED) == sum(bool(re.search(r"^\s*\w+:.* # .* \| ", line)) for line in lines) > 20


class Constructed:
    @arguments
    def __init__(
        self, sizes: Mapping[str, int], *, width: AtLeastOne = 4, dropout: Share = 0.1, steps: tuple[int, int] = (1, 2)
    ):
        self.given = (sizes, width, dropout, steps)


def test_arguments_of_a_constructor_are_checked_like_settings() -> None:
    assert Constructed({"a": 1}, steps=[3, 4]).given == ({"a": 1}, 4, 0.1, (3, 4))  # type: ignore[arg-type]
    assert list(inspect.signature(Constructed).parameters) == ["sizes", "width", "dropout", "steps"]
    with pytest.raises(ValueError) as caught:
        Constructed([], width=0, dropout=1.0)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "Constructed: sizes=[] must be a mapping from strings to whole numbers; width=0 must be at least 1; "
        "dropout=1.0 must lie in [0, 1)."
    )
