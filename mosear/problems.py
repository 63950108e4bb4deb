"""What is wrong with a configuration, in words a user can act on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

_LONGEST_VALUE = 80
_LONGEST_LISTING = 12


class _Absent:
    """Stands where a problem has no value to show: the key is not in the config at all."""

    def __repr__(self) -> str:
        return "<absent>"


ABSENT: Final = _Absent()


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config.

    Attributes:
        key: Dotted path of the offending entry, as one would type it on the command line.
        value: What stands there now; ``ABSENT`` if nothing does.
        message: What is wrong with it, a full sentence.
        remedy: What to do about it, a full sentence in the imperative.
    """

    key: str
    value: Any
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self._headline()}\n    {self.message}\n    -> {self.remedy}"

    def _headline(self) -> str:
        if self.value is ABSENT:
            return self.key
        shown = repr(self.value)
        if len(shown) > _LONGEST_VALUE:
            shown = shown[: _LONGEST_VALUE - 3] + "..."
        return f"{self.key} = {shown}"


class ConfigError(ValueError):
    """A config that cannot run. Carries every problem found, not only the first.

    Attributes:
        problems: The problems, in the order in which they were found.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        listing = "\n".join(f"\n{number:>3}. {problem}" for number, problem in enumerate(self.problems, start=1))
        return f"the configuration has {count} {'problem' if count == 1 else 'problems'}:\n{listing}"


def close_name(name: object, known: Iterable[object]) -> str | None:
    """The one of the ``known`` names that is spelt most like ``name``, if any is."""
    return next(iter(get_close_matches(str(name), [str(candidate) for candidate in known], n=1)), None)


def suggest(name: object, known: Iterable[object]) -> str:
    """Returns a remedy for an unknown ``name``: the closest of the ``known`` ones, or else a list of them."""
    names = [str(candidate) for candidate in known]
    if (closest := close_name(name, names)) is not None:
        return f"Did you mean '{closest}'?"
    if not names:
        return "Remove it: nothing is accepted here."
    rest = f", ... ({len(names)} in all)" if len(names) > _LONGEST_LISTING else ""
    return f"Use one of: {', '.join(names[:_LONGEST_LISTING])}{rest}."


def join_key(path: str, name: object) -> str:
    """Returns the dotted key of the entry ``name`` in the mapping at ``path`` ("" for the root)."""
    return f"{path}.{name}" if path else str(name)
