"""Reads a user's emotion-wheel tables, and says what is wrong with them.

The tables belong to the MER challenges and are not shipped. Two forms are read:

* a directory with the published sheets as CSV files: ``format.csv`` (``name``, ``format``: a comma list),
  ``synonym.csv`` (``word_run1``, ``synonym_run1``, ... any number of runs) and ``wheel1.csv``, ``wheel2.csv``, ...
  (``level1``, ``level2``, ``level3``; an empty cell repeats the one above);
* a JSON file with the keys of the published archive: ``format_mapping`` (``{form: [base form]}``), ``raw_mapping``
  (``{base form: [wheel word]}``), ``wheel_map_whole`` (``{wheel: {"level1": {word: node}, "level2": {word: node}}}``).
  The archive itself holds pickled objects, which run code when they are loaded, so it is not read here.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from mosear.evaluation.metrics.sets import tidy
from mosear.evaluation.metrics.wheel import EmotionWheels, Level
from mosear.inference.parsing import parse_list

_LOG = logging.getLogger(__name__)
BASIC_LABELS = (
    "angry", "happy", "sad", "worried", "surprise", "fear", "disgust", "contempt", "doubt", "neutral",
)  # fmt: skip
SAME_EMOTION = (("fear", "fearful"), ("fear", "scared"), ("angry", "anger"), ("happy", "happiness"), ("sad", "sadness"))
_NEGATIONS = ("un", "in", "im", "dis", "non")


@dataclass(frozen=True)
class Defect:
    """One finding of :func:`audit`.

    Attributes:
        kind: "opposite" (a form stands under a word that negates it), "torn" (two words for one emotion reach different
            nodes), "merged" (two basic emotions share a node) or "unmapped" (a basic emotion reaches no node).
        words: the words concerned.
        wheel: the wheel, or None where the forms are concerned.
        detail: what the tables say.
    """

    kind: str
    words: tuple[str, ...]
    wheel: str | None
    detail: str


def read_wheels(path: str | Path, *, version: str) -> EmotionWheels:
    """Reads tables from a directory of CSV files or a JSON file, and logs a warning about contradictions in them.

    Args:
        path: directory or ``.json`` file.
        version: what to call the tables in scores, such as "MER2025".

    Raises:
        ValueError: if files, columns or keys are missing, with what was found.
    """
    source = Path(path)
    if source.is_dir():
        tables = _from_directory(source, version)
    elif source.suffix == ".json" and source.is_file():
        tables = _from_json(source, version)
    else:
        hint = " Convert the archive to JSON first (docs/metrics.md)." if source.suffix == ".npz" else ""
        raise ValueError(f"wheel tables {str(path)!r}: expected a directory of CSV files or a .json file.{hint}")
    severe = [defect.detail for defect in audit(tables) if defect.kind == "torn"]
    if severe:
        _LOG.warning("Wheel tables %r contradict themselves: %s.", version, "; ".join(severe))
    return tables


def audit(tables: EmotionWheels, labels: Sequence[str] = BASIC_LABELS) -> list[Defect]:
    """Known defects of such tables, looked for in these.

    The tables of 2025 list fear, fears, feared, fearing as forms of "fearless", so that "fear" is "torn" from "fearful"
    on four of five wheels. "neutral" is "unmapped" on all published wheels. Wheel 4 merges "surprise" with "worried".

    Args:
        tables: the tables.
        labels: words that a benchmark uses as gold labels.

    Returns:
        Opposites first, then torn, unmapped and merged words by wheel.
    """
    return [*_opposites(tables), *_torn(tables), *_unmapped(tables, labels), *_merged(tables, labels)]


def _opposites(tables: EmotionWheels) -> Iterator[Defect]:
    for form, bases in sorted(tables.formats.items()):
        for base in sorted(set(bases)):
            if _negates(form, base) or _negates(base, form):
                yield Defect("opposite", (form, base), None, f"{form!r} is listed as a form of {base!r}")


def _negates(negated: str, plain: str) -> bool:
    """Whether ``negated`` is made of ``plain``'s stem with -less or a negating prefix; a guess from the spelling."""
    stem, less, _ = negated.partition("less")
    if less and len(stem) >= 3:
        return "less" not in plain and plain.startswith(stem)
    root = plain[: max(5, len(plain) - 3)]
    return len(root) >= 5 and any(negated.startswith(prefix + root) for prefix in _NEGATIONS)


def _torn(tables: EmotionWheels) -> Iterator[Defect]:
    for wheel in tables.wheels:
        for pair in SAME_EMOTION:
            nodes = [tables.node(word, wheel=wheel) for word in pair]
            if None not in nodes and nodes[0] != nodes[1]:
                detail = f"{wheel}: {pair[0]!r} reads as {nodes[0]!r} but {pair[1]!r} as {nodes[1]!r}"
                yield Defect("torn", pair, wheel, detail)


def _unmapped(tables: EmotionWheels, labels: Sequence[str]) -> Iterator[Defect]:
    for wheel in tables.wheels:
        for label in labels:
            if tables.node(label, wheel=wheel) is None:
                yield Defect("unmapped", (label,), wheel, f"{wheel}: {label!r} has no node, its clips are left out")


def _merged(tables: EmotionWheels, labels: Sequence[str]) -> Iterator[Defect]:
    for wheel in tables.wheels:
        for first, second in combinations(labels, 2):
            node = tables.node(first, wheel=wheel)
            if node is not None and node == tables.node(second, wheel=wheel):
                detail = f"{wheel}: {first!r} and {second!r} are both {node!r}"
                yield Defect("merged", (first, second), wheel, detail)


def _from_directory(root: Path, version: str) -> EmotionWheels:
    sheets = sorted(
        (path for path in root.glob("wheel*.csv") if re.fullmatch(r"wheel\d+", path.stem)),
        key=lambda path: int(path.stem.removeprefix("wheel")),
    )
    absent = [name for name in ("format.csv", "synonym.csv") if not (root / name).is_file()]
    absent += [] if sheets else ["wheel1.csv, ..."]
    if absent:
        found = ", ".join(sorted(path.name for path in root.iterdir())) or "nothing"
        raise ValueError(
            f"wheel tables {str(root)!r} lack {', '.join(absent)} (found {found}); save each sheet as CSV."
        )
    formats: dict[str, list[str]] = {}
    for row in _rows(root / "format.csv", ("name", "format")):
        base = row["name"].strip().lower()
        for form in tidy([*parse_list(row["format"]), base]):
            formats.setdefault(form, []).append(base)
    return EmotionWheels(
        version, formats, _synonyms(root / "synonym.csv"), {path.stem: _wheel(path) for path in sheets}
    )


def _synonyms(path: Path) -> dict[str, list[str]]:
    synonyms: dict[str, list[str]] = {}
    for row in _rows(path, ("word_run1", "synonym_run1")):
        for column in (name for name in row if name.startswith("word_")):
            word = row[column].strip().lower()
            listed = parse_list(row.get(column.replace("word_", "synonym_", 1)) or "")
            for synonym in tidy([word, *listed]) if word else ():
                if word not in synonyms.setdefault(synonym, []):
                    synonyms[synonym].append(word)
    return synonyms


def _wheel(path: Path) -> dict[Level, dict[str, str]]:
    tree: dict[str, dict[str, list[str]]] = {}
    first = second = third = ""
    for row in _rows(path, ("level1", "level2", "level3")):
        first, second, third = (
            row[level].strip().lower() or above
            for level, above in (("level1", first), ("level2", second), ("level3", third))
        )
        tree.setdefault(first, {}).setdefault(second, []).append(third)
    level1: dict[str, str] = {}
    level2: dict[str, str] = {}
    for inner, middles in tree.items():
        level1[inner], level2[inner] = inner, min(middles)
        for middle, outers in middles.items():
            for word in (middle, *outers):
                level1[word], level2[word] = inner, middle
    return {"level1": level1, "level2": level2}


def _rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restval="")
        absent = [name for name in needed if name not in (reader.fieldnames or ())]
        if absent:
            raise ValueError(
                f"{path} lacks the columns {', '.join(absent)}; found {', '.join(reader.fieldnames or ())}."
            )
        return list(reader)


def _from_json(path: Path, version: str) -> EmotionWheels:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    keys = ("format_mapping", "raw_mapping", "wheel_map_whole")
    if not isinstance(content, Mapping) or not all(isinstance(content.get(key), Mapping) for key in keys):
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path} needs the objects {', '.join(keys)}; found {found}.")
    formats, synonyms, wheels = (content[key] for key in keys)
    return EmotionWheels(version, formats, synonyms, wheels)
