import csv
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest

from mosear.evaluation import metrics
from mosear.evaluation.metrics.wheel_tables import BASIC_LABELS, audit, read_wheels

# Inner-ring nodes of the published wheels 1 to 5; "-" leads nowhere.
NODES = {
    "angry": "mad angry mad anger mad",
    "happy": "happy happy joyful joy powerful",
    "sad": "sad sad sad sad sad",
    "worried": "scared fearful scared fear scared",
    "surprise": "surprised surprised powerful fear -",
    "fear": "scared fearful scared fear scared",
    "fearful": "scared fearful scared fear scared",
    "disgust": "disgusted disgusted - disgust -",
    "contempt": "- angry - - -",
    "doubt": "mad angry mad anger mad",
    "neutral": "- - - - -",
}
FEAR_2025 = "scared happy joyful genius joyful"
MER2023_TEST1 = {"neutral": 88, "angry": 105, "happy": 93, "sad": 50, "worried": 57, "surprise": 18}


def published(version: str, **changes: str) -> metrics.EmotionWheels:
    """Tables that carry a word straight to its published node."""
    nodes = {word: row.split() for word, row in (NODES | changes).items()}
    wheels = {}
    for wheel in range(5):
        level = {word: row[wheel] for word, row in nodes.items() if row[wheel] != "-"}
        wheels[f"wheel{wheel + 1}"] = {"level1": level, "level2": level}
    identity = {word: [word] for word in nodes}
    return metrics.EmotionWheels(version, identity, identity, wheels)


MER2026 = published("MER2026")
MER2025 = published("MER2025", fear=FEAR_2025)
GOLD = [label for label, count in MER2023_TEST1.items() for _ in range(count)]


def test_hit_rate_goldens():
    assert len(GOLD) == 411
    happy = metrics.hit_rate(GOLD, [["happy"]] * 411, MER2026)
    assert happy["hit_rate"] == pytest.approx(0.29132, abs=5e-6)
    assert [scores["n"] for scores in happy["per_wheel"].values()] == [323, 323, 323, 323, 305]
    assert happy["mean_predicted"] == 1
    assert happy["coverage"] == pytest.approx((4 * 323 + 305) / (5 * 411))
    six = metrics.hit_rate(GOLD, [list(MER2023_TEST1)] * 411, MER2026)
    assert (six["hit_rate"], six["mean_predicted"]) == (1.0, 6.0)
    assert metrics.hit_rate(GOLD, [["neutral"]] * 411, MER2026)["hit_rate"] == 0.0


def test_the_control_keeps_neutral_and_wants_one_answer():
    assert metrics.hit_rate(GOLD, [["neutral"]] * 411, MER2026)["macro_accuracy"] == pytest.approx(1 / 6)
    assert metrics.hit_rate(GOLD, [list(MER2023_TEST1)] * 411, MER2026)["macro_accuracy"] == 0.0
    assert metrics.hit_rate(GOLD, [[label] for label in GOLD], MER2026)["macro_accuracy"] == 1.0
    assert metrics.hit_rate(["happy"], [["happy", "sad"]], MER2026)["macro_accuracy"] == 0.0
    fearful = metrics.hit_rate(["fear", "neutral"], [["fearful"], ["Neutral "]], MER2026)
    assert fearful["macro_accuracy"] == 1.0


def test_versions_score_differently_and_say_which_they_are():
    new, old = (metrics.hit_rate(["happy"], [["fear"]], tables) for tables in (MER2026, MER2025))
    assert (new["hit_rate"], old["hit_rate"]) == (0.0, 0.4)
    assert (new["table_version"], old["table_version"]) == ("MER2026", "MER2025")
    assert new["table_sha256"] != old["table_sha256"]
    renamed = published("MER2025")
    assert metrics.hit_rate(["happy"], [["fear"]], renamed)["table_sha256"] == new["table_sha256"]


def test_known_defects_are_found():
    def found(tables: metrics.EmotionWheels, kind: str) -> set[tuple[str, ...]]:
        return {(*d.words, d.wheel) for d in audit(tables, [w for w in NODES if w != "fearful"]) if d.kind == kind}

    assert found(MER2026, "torn") == set()
    assert found(MER2025, "torn") == {("fear", "fearful", f"wheel{w}") for w in (2, 3, 4, 5)}
    nothing = {("neutral", f"wheel{w}") for w in range(1, 6)} | {("contempt", f"wheel{w}") for w in (1, 3, 4, 5)}
    nothing |= {("surprise", "wheel5"), ("disgust", "wheel3"), ("disgust", "wheel5")}
    assert found(MER2026, "unmapped") == nothing
    merged = found(MER2026, "merged")
    assert {("worried", "surprise", "wheel4"), ("angry", "doubt", "wheel1")} <= merged
    assert ("happy", "sad", "wheel1") not in merged
    assert ("happy", "fear", "wheel3") in found(MER2025, "merged")


def literal_node(word, formats, synonyms, nodes):
    """The mapping as published, loop by loop: the first candidate in alphabetical order that the wheel knows."""
    everything = []
    for base in formats.get(word, []):
        for wheel_word in synonyms.get(base, []):
            everything.append(wheel_word)
    for wheel_word in sorted(everything):
        if wheel_word in nodes:
            return nodes[wheel_word]
    return ""


def random_tables(seed: int) -> metrics.EmotionWheels:
    rng = np.random.default_rng(seed)
    forms, bases, spokes = ([f"{kind}{i}" for i in range(n)] for kind, n in (("f", 30), ("b", 15), ("w", 12)))

    def some(pool: list[str], most: int, least: int = 0) -> list[str]:
        return [str(word) for word in rng.choice(pool, rng.integers(least, most), replace=False)]

    wheels = {
        f"wheel{i}": {level: {word: f"{level}-{rng.integers(4)}" for word in some(spokes, 10, 6)}
                      for level in ("level1", "level2")}
        for i in range(1, 4)
    }  # fmt: skip
    formats, synonyms = {form: some(bases, 4) for form in forms}, {base: some(spokes, 4) for base in bases}
    return metrics.EmotionWheels("random", formats, synonyms, wheels)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("level", ["level1", "level2"])
def test_wheel_scores_against_the_published_loop(seed, level):
    tables = random_tables(seed)
    rng = np.random.default_rng(seed)
    pool = [*tables.formats, "unknown"]
    gold, predicted = ([[str(w) for w in rng.choice(pool, rng.integers(0, 4))] for _ in range(50)] for _ in range(2))
    rows = []
    for levels in tables.wheels.values():
        precisions, recalls = [], []
        for truth, guess in zip(gold, predicted, strict=True):
            sets = []
            for words in (truth, guess):
                mapped = [literal_node(w, tables.formats, tables.synonyms, levels[level]) for w in words]
                sets.append({node for node in mapped if node != ""})
            if not sets[0]:
                continue
            hits = len(sets[0] & sets[1])
            precisions.append(hits / len(sets[1]) if sets[1] else 0)
            recalls.append(hits / len(sets[0]) if sets[1] else 0)
        p, r = np.mean(precisions), np.mean(recalls)
        rows.append((2 * p * r / (p + r) if p + r else 0, p, r))
    scores = metrics.wheel_scores(gold, predicted, tables, level=level)
    expected = np.mean(rows, axis=0)
    assert [scores[name] for name in ("f1", "precision", "recall")] == pytest.approx(expected.tolist())
    assert scores["level"] == level
    assert scores["mean_predicted"] == pytest.approx(np.mean([len(set(words)) for words in predicted]))


def test_headline_is_the_mean_of_both_levels_of_one_table():
    tables = random_tables(1)
    gold = [["f1", "f2"], ["f3"], ["f4", "f5"]]
    level1, level2 = (metrics.wheel_scores(gold, gold, tables, level=level) for level in ("level1", "level2"))
    assert metrics.wheel_headline(level1, level2) == pytest.approx((level1["f1"] + level2["f1"]) / 2)
    # MER2024's files, as published: level 1 and level 2.
    rows = [{"f1": f1, "level": level, "table_sha256": "x", "table_version": "x"}
            for f1, level in ((0.55371, "level1"), (0.42449, "level2"))]  # fmt: skip
    assert metrics.wheel_headline(*rows) == pytest.approx(0.489, abs=5e-4)
    with pytest.raises(ValueError, match="expected the scores of level1"):
        metrics.wheel_headline(level2, level1)
    with pytest.raises(ValueError, match="different tables"):
        metrics.wheel_headline(level1, level2 | {"table_sha256": "other"})


def test_no_clips_is_undefined():
    assert math.isnan(metrics.wheel_scores([], [], MER2026)["f1"])
    scores = metrics.hit_rate([], [], MER2026)
    assert all(math.isnan(scores[name]) for name in ("hit_rate", "mean_predicted", "coverage", "macro_accuracy"))
    assert math.isnan(metrics.hit_rate(["neutral"], [["neutral"]], MER2026)["hit_rate"])


UNIBENCH = {
    "Emotion-LLaMA": ((59.38, 73.62, 46.76, 55.47, 66.13, 67.66, 78.32, 77.23, 52.97), 64.17),
    "AffectGPT": ((78.54, 78.80, 55.65, 60.54, 81.30, 80.90, 88.49, 86.18, 62.52), 74.77),
}


@pytest.mark.parametrize("model", UNIBENCH)
def test_unibench_mean(model):
    row, mean = UNIBENCH[model]
    names = ("MER2023", "MER2024", "MELD", "IEMOCAP", "MOSI", "MOSEI", "SIMS", "SIMSv2", "OV-MERD+")
    assert metrics.unibench_mean(dict(zip(names, row, strict=True))) == pytest.approx(mean, abs=0.005)
    with pytest.raises(ValueError, match="MER-UniBench's mean is over"):
        metrics.unibench_mean({"MELD": 1.0})


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_sheets(root: Path, *, fearless_forms: str) -> Path:
    """A miniature of the published sheets."""
    root.mkdir()
    write_csv(root / "format.csv", [
        {"name": "fear", "format": "fear,fears"},
        {"name": "fearful", "format": "fearful,fearfully"},
        {"name": "fearless", "format": fearless_forms},
        {"name": "Happy", "format": "happily,happier"},
        {"name": "happiness", "format": "happiness"},
    ])  # fmt: skip
    write_csv(root / "synonym.csv", [
        {"word_run1": "Scared", "synonym_run1": "['fear', 'fearful']", "word_run2": "brave",
         "synonym_run2": "fearless"},
        {"word_run1": "happy", "synonym_run1": "happiness", "word_run2": "scared", "synonym_run2": "[]"},
        {"word_run1": "brave", "synonym_run1": "", "word_run2": "happy", "synonym_run2": "[happiness]"},
    ])  # fmt: skip
    write_csv(root / "wheel1.csv", [
        {"level1": "Fear ", "level2": "scared", "level3": "helpless"},
        {"level1": "", "level2": "", "level3": "frightened"},
        {"level1": "", "level2": "anxious", "level3": "worried"},
        {"level1": "joy", "level2": "happy", "level3": "cheerful"},
        {"level1": "", "level2": "brave", "level3": "bold"},
    ])  # fmt: skip
    return root


def test_sheets_are_read_and_the_misplaced_forms_reported(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        good = read_wheels(write_sheets(tmp_path / "good", fearless_forms="fearless,fearlessly"), version="good")
    assert not caplog.records
    assert good.node("fears", wheel="wheel1") == good.node("fear", wheel="wheel1") == "fear"
    assert good.node("happily", wheel="wheel1", level="level2") == "happy"
    assert good.node("happy", wheel="wheel1") == "joy"
    assert good.node("frightened", wheel="wheel1") is None
    assert good.wheels["wheel1"]["level1"]["frightened"] == "fear"
    assert good.wheels["wheel1"]["level2"] == {
        "fear": "anxious", "scared": "scared", "helpless": "scared", "frightened": "scared", "anxious": "anxious",
        "worried": "anxious", "joy": "brave", "happy": "happy", "cheerful": "happy", "brave": "brave", "bold": "brave",
    }  # fmt: skip
    assert [d.words for d in audit(good) if d.kind == "opposite"] == []

    with caplog.at_level(logging.WARNING):
        bad = read_wheels(write_sheets(tmp_path / "bad", fearless_forms="fearless,fear,fears"), version="MER2025")
    assert bad.node("fear", wheel="wheel1") == "joy"
    assert [d.words for d in audit(bad) if d.kind == "opposite"] == [("fear", "fearless"), ("fears", "fearless")]
    assert "'fear' reads as 'joy' but 'fearful' as 'fear'" in caplog.text
    assert "'MER2025'" in caplog.text


@pytest.mark.parametrize(
    ("form", "base", "opposite"),
    [
        ("fears", "fearless", True),
        ("aims", "aimless", True),
        ("unavailable", "available", True),
        ("happiness", "unhappiness", True),
        ("fearlessly", "fearless", False),
        ("blessed", "bless", False),
        ("under", "understand", False),
        ("disgusting", "disgust", False),
        ("loneliness", "lonely", False),
    ],
)
def test_opposites_by_spelling(form, base, opposite):
    tables = metrics.EmotionWheels("v", {form: [base]}, {}, MER2026.wheels)
    assert bool([d for d in audit(tables, []) if d.kind == "opposite"]) is opposite


def test_json_tables_equal_the_sheets(tmp_path):
    sheets = read_wheels(write_sheets(tmp_path / "sheets", fearless_forms="fearless"), version="v")
    content = {"format_mapping": sheets.formats, "raw_mapping": sheets.synonyms, "wheel_map_whole": sheets.wheels}
    path = tmp_path / "tables.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    tables = read_wheels(path, version="w")
    assert tables.sha256 == sheets.sha256
    assert tables.candidates("fears") == ["scared"]
    assert set(BASIC_LABELS) >= set(MER2023_TEST1)


def test_unreadable_tables_say_what_is_missing(tmp_path):
    (tmp_path / "format.xlsx").touch()
    with pytest.raises(ValueError, match=r"lack format\.csv, synonym\.csv, wheel1\.csv, .*found format\.xlsx"):
        read_wheels(tmp_path, version="v")
    archive = tmp_path / "wheel_mapping.npz"
    archive.touch()
    with pytest.raises(ValueError, match=r"Convert the archive to JSON first"):
        read_wheels(archive, version="v")
    path = tmp_path / "tables.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_wheels(path, version="v")
    path.write_text('{"format_mapping": {}}')
    with pytest.raises(ValueError, match="wheel_map_whole; found format_mapping"):
        read_wheels(path, version="v")
    sheets = write_sheets(tmp_path / "sheets", fearless_forms="")
    write_csv(sheets / "wheel2.csv", [{"level1": "a"}])
    with pytest.raises(ValueError, match="lacks the columns level2, level3; found level1"):
        read_wheels(sheets, version="v")


@pytest.mark.parametrize(
    ("version", "wheels", "message"),
    [
        (" ", MER2026.wheels, "need a version"),
        ("v", {}, "at least one wheel"),
        ("v", {"wheel1": {"level1": {}}}, "'wheel1' has level1; it needs level1 and level2"),
    ],
)
def test_tables_are_checked(version, wheels, message):
    with pytest.raises(ValueError, match=message):
        metrics.EmotionWheels(version, {}, {}, wheels)
