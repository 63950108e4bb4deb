"""Checks a whole config before anything heavy is built, and reports every mistake at once.

    validate(cfg, allowed_keys=TRAIN_KEYS, rules=[quantised_needs_a_compatible_strategy, ...])

Nothing is instantiated: targets are imported and their signatures read. (Inspired by torchtune's config validation.)
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from mosear.config.annotations import UNREAD
from mosear.config.renamed import renamed
from mosear.config.signature import bind
from mosear.config.targets import is_target_node
from mosear.problems import ABSENT, ConfigError, Problem, join_key, suggest

__all__ = ["ABSENT", "ConfigError", "Problem", "Rule", "suggest", "validate"]

Rule: TypeAlias = Callable[[DictConfig], Iterable[Problem]]
"""A check of a combination of settings: takes the whole config, yields what is impossible about it."""


def validate(
    cfg: DictConfig,
    *,
    rules: Iterable[Rule] = (),
    allowed_keys: Collection[str] | None = None,
    supplied: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Returns silently if ``cfg`` can run, as far as that can be known without building anything.

    Checked are: unknown top-level keys, values still ``???``, interpolations that do not resolve, every ``_target_``
    (does it exist; unknown, missing and wrongly typed parameters), and ``rules``.

    Args:
        cfg: The whole composed config (its root, so that interpolations resolve).
        rules: Checks of combinations. A rule may read any key without guarding: where it trips over a config that is
            already known to be broken, it is skipped.
        allowed_keys: Names accepted at the top level; ``None`` accepts all.
        supplied: For the dotted path of a ``_target_`` node, the parameters that our code passes when it instantiates
            it. They need not stand in the config.

    Raises:
        ConfigError: With every problem found: unreadable values, then targets, then rules.
    """
    reading = _Reading()
    tree = reading.container(cfg, "")
    problems = [] if allowed_keys is None else list(_unknown_top_level(tree, allowed_keys))
    problems += reading.problems or reading.doubtful
    found = list(_TargetCheck(reading.aliases, supplied or {}).visit(tree))
    problems += {problem.key: problem for problem in map(reading.where_written, found)}.values()
    broken = bool(problems)
    for rule in rules:
        problems += _judge(rule, cfg, broken=broken)
    if problems:
        raise ConfigError(problems)


@dataclass
class _Reading:
    """Turns an OmegaConf tree into plain containers. What cannot be read is noted and stands there as ``UNREAD``.

    Attributes:
        problems: What could not be read.
        aliases: Paths of containers that are interpolations of others: they are judged where they are written.
        sources: Path of a value that is an interpolation of another one, to the path of that one.
        doubtful: Aliases whose original cannot be read in full. News only if nothing in ``problems`` explains it, as
            when two containers refer to each other.
    """

    problems: list[Problem] = field(default_factory=list)
    doubtful: list[Problem] = field(default_factory=list)
    aliases: set[str] = field(default_factory=set)
    sources: dict[str, str] = field(default_factory=dict)

    def where_written(self, problem: Problem) -> Problem:
        """The problem of a value, at the key that one would change: a value may be written elsewhere."""
        key = problem.key
        while key in self.sources:
            key = self.sources[key]
        if key == problem.key:
            return problem
        return replace(problem, key=key, message=f"It is also the value of {problem.key}: {problem.message}")

    def container(self, node: DictConfig | ListConfig, path: str) -> Any:
        """Returns the dict or list that ``node``, which stands at ``path``, holds."""
        if isinstance(node, DictConfig):
            return {name: self._child(node, name, join_key(path, name)) for name in node}
        return [self._child(node, index, f"{path}[{index}]") for index in range(len(node))]

    def _child(self, parent: DictConfig | ListConfig, name: Any, path: str) -> Any:
        if OmegaConf.is_missing(parent, name):
            message = "This value is mandatory and is not set."
            remedy = f"Set {path}=... on the command line or in the config."
            self.problems.append(Problem(path, "???", message, remedy))
            return UNREAD
        try:
            value = parent[name]
            if not isinstance(value, DictConfig | ListConfig):
                if (source := _source(parent, name)) is not None:
                    self.sources[path] = source
                return value
        except (InterpolationToMissingValueError, MissingMandatoryValue):
            return UNREAD  # the `???` it refers to is reported where it stands
        except OmegaConfBaseException as error:
            self.problems.append(_unresolved(parent, name, path, error))
            return UNREAD
        if not OmegaConf.is_interpolation(parent, name):
            return self.container(value, path)
        self.aliases.add(path)
        try:
            return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            self.doubtful.append(_unresolved(parent, name, path, error))
            return UNREAD


def _source(parent: DictConfig | ListConfig, name: Any) -> str | None:
    """The key of ``${key}``; ``None`` for other values."""
    node = parent._get_node(name)
    written = node._value() if isinstance(node, Node) else None
    found = re.fullmatch(r"\$\{([\w.]+)\}", written) if isinstance(written, str) else None
    return None if found is None or found[1].startswith(".") else found[1]


def _unresolved(parent: DictConfig | ListConfig, name: Any, path: str, error: Exception) -> Problem:
    written: Any = OmegaConf.to_container(parent, resolve=False)
    reason = str(error).partition("\n")[0].rstrip(".")
    return Problem(path, written[name], f"{reason}.", "Correct the name inside ${...}, or define what it refers to.")


@dataclass(frozen=True)
class _TargetCheck:
    """Binds every ``_target_`` node of a tree against its signature."""

    aliases: Collection[str]
    supplied: Mapping[str, Collection[str]]

    def visit(self, node: Any, path: str = "", *, incomplete: bool = False) -> Iterator[Problem]:
        """Yields the problems of ``node`` and all below it; the nearest targets may be ``incomplete``."""
        if path in self.aliases:
            return
        if is_target_node(node):
            yield from bind(node, path, incomplete=incomplete, supplied=self.supplied.get(path, ()))
            # Left as config, its children are instantiated by the receiver, who may add parameters.
            incomplete = node.get("_recursive_") is False
        if isinstance(node, dict):
            for name, child in node.items():
                yield from self.visit(child, join_key(path, name), incomplete=incomplete)
        elif isinstance(node, list):
            for index, child in enumerate(node):
                yield from self.visit(child, f"{path}[{index}]", incomplete=incomplete)


def _unknown_top_level(tree: Mapping[Any, Any], allowed: Collection[str]) -> Iterator[Problem]:
    for name, value in tree.items():
        if name not in allowed:
            told = renamed(str(name))
            remedy = f"Here {told}." if told else suggest(name, sorted(set(allowed) - tree.keys()))
            yield Problem(str(name), value, f"There is no setting '{name}' at the top level.", remedy)


def _judge(rule: Rule, cfg: DictConfig, *, broken: bool) -> list[Problem]:
    found: list[Problem] = []
    try:
        found.extend(rule(cfg))
    except Exception:
        # In a broken config a rule may find a key absent, or a string for a number; those problems are known already.
        if not broken:
            raise
    return found
