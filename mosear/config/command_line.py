"""Mistakes on a command line that Hydra would only call unknown: each is named, with what was probably meant."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from mosear.config.renamed import renamed

OWN_FLAGS = frozenset(
    ("help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "shell-completion")
    + ("config-path", "config-name", "config-dir", "experimental-rerun", "info")
)
"""Hydra's own; some are also names of settings."""
OTHER_CONFIGS = ("--config-path", "--config-name", "--config-dir", "-cp", "-cn", "-cd")
COMPLETION = frozenset(("--shell-completion", "-sc"))
LISTED = 3
CLOSE = 0.75


def refuse_mistakes(arguments: Iterable[str], conf: Path, root: str) -> None:
    """Stop at options that are none, and at keys that no file of the config has.

    Args:
        arguments: of the command line.
        conf: the directory of the config files.
        root: name of the one that is composed: ``train`` or ``eval``.

    Raises:
        SystemExit: naming all of them.
    """
    given = list(arguments)
    if any(argument.partition("=")[0] in OTHER_CONFIGS for argument in given):
        return  # configs that are not ours may have any key
    if COMPLETION.intersection(given):
        return  # query=bash is no setting
    if found := [*_flags(given, conf), *_unknown(given, conf, root), *_unquoted(given)]:
        raise SystemExit("the command line cannot be understood:\n  " + "\n  ".join(found))


def _flags(given: list[str], conf: Path) -> Iterator[str]:
    groups = {path.name for path in conf.iterdir() if path.is_dir()}
    for argument, following in zip(given, [*given[1:], ""], strict=True):
        name, _, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in groups - OWN_FLAGS:
            value = value or (following if following and "=" not in following and following[0] != "-" else "NAME")
            plus = "+" if name == "experiment" else ""
            yield f"{argument}: settings are written without dashes: {plus}{name}={value}"


def _unknown(given: list[str], conf: Path, root: str) -> Iterator[str]:
    keys: Mapping[str, Any] | None = None
    for argument in given:
        key, equals, _ = argument.partition("=")
        if (
            not equals
            or not key
            or key[0] in "+~-"
            or any(sign in key for sign in "@/[")
            or key.split(".")[0] == "hydra"
        ):
            continue
        if key == "experiment":
            yield f"{argument}: an experiment is added to the settings: +{argument}"
            continue
        keys = known_keys(conf, root) if keys is None else keys
        if key in keys or renamed(key) or _is_free(key, keys):
            continue
        yield f"{key}: there is no such setting. {suggestion(key, keys)}"


def _unquoted(given: list[str]) -> Iterator[str]:
    """Values with letters that Hydra's grammar takes only in quotes: all but those of ASCII."""
    for argument in given:
        key, equals, value = argument.partition("=")
        if not equals or value.isascii() or _is_read(argument):
            continue
        listed = value[:1] in ("[", "{")
        parts = r"[^\[\]{},:\"']*[^\x00-\x7f][^\[\]{},:\"']*" if listed else r".*"
        quoted = f"{key}={re.sub(parts, _in_quotes, value, count=0 if listed else 1)}"
        letter = next(sign for sign in value if not sign.isascii())
        keys = "; in the keys of a mapping they can stand in a config file alone"
        example = f": {shlex.quote(quoted)}" if _is_read(quoted) else keys
        yield f"{argument}: letters such as {letter} stand in quotes{example}"


def _in_quotes(found: re.Match[str]) -> str:
    text, bare = found[0], found[0].strip()
    return text.replace(bare, '"{}"'.format(bare.replace("\\", "\\\\").replace('"', '\\"')), 1)


def _is_read(argument: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _is_free(key: str, keys: Mapping[str, Any]) -> bool:
    """Whether it lies in a mapping that takes any name (``synonyms: {}``), or in what another key refers to."""
    parents = [key[:at] for at, sign in enumerate(key) if sign == "."]
    return any(keys[parent] == {} or "${" in str(keys[parent]) for parent in parents if parent in keys)


def suggestion(key: str, known: Iterable[str]) -> str:
    """What was probably meant: the same name elsewhere in the tree, or one that is spelt alike."""
    names = sorted(known)
    last = key.rpartition(".")[2]
    found = [name for name in names if name.endswith(f".{key}")]
    found = found or get_close_matches(key, names, LISTED, CLOSE)
    found = found or [name for name in names if name.rpartition(".")[2] == last]
    if not found:
        lasts = {name.rpartition(".")[2] for name in names}
        close = get_close_matches(last, sorted(lasts), LISTED, CLOSE)
        found = [name for name in names if name.rpartition(".")[2] in close]
    # A section of differences (cold_start) has the names of the sections that it changes.
    found = [name for name in found if not any(name.endswith(f".{other}") for other in found)]
    if found:
        return f"Did you mean {' or '.join(found[:LISTED])}?"
    return "`--cfg job` prints all settings and stops; `--help` lists the groups."


@cache
def known_keys(conf: Path, root: str) -> Mapping[str, Any]:
    """Every dotted key that some choice of options has, with one of its values."""
    from omegaconf import OmegaConf

    found: dict[str, Any] = {}
    for path in [conf / f"{root}.yaml", *sorted(conf.glob("*/*.yaml"))]:
        content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        group = "" if path.parent == conf else path.parent.name
        package = _package(path, group)
        for name in filter(None, (group, package)):
            found.setdefault(name, None)
        content.pop("defaults", None)
        _collect(content, package, found)
    return found


def _package(path: Path, group: str) -> str:
    """Where a file's content goes: what its ``# @package`` line says, else its group."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if line.removeprefix("#").strip().startswith("@package"):
            name = line.split("@package")[1].strip()
            return "" if name == "_global_" else name.replace("_group_", group)
    return group


def _collect(content: Mapping[str, Any], package: str, found: dict[str, Any]) -> None:
    for name, value in content.items():
        key = f"{package}.{name}" if package else str(name)
        if found.get(key) is None or value == {}:
            found[key] = value
        if isinstance(value, Mapping):
            _collect(value, key, found)
