"""What importers share: tables and files as they are found in the wild, and the checks of what was read."""

import random
from pathlib import Path

import pytest

from mosear.data.clip import Clip
from mosear.data.sources import LayoutError, Row, source
from mosear.data.sources.base import tally_of
from mosear.data.sources.checks import check_counts, check_duplicates, check_labels, check_leakage
from mosear.data.sources.files import MediaIndex, find_file
from mosear.data.sources.tables import number, open_set, read_table, repaired
from tests.helpers import source_trees


def test_tables_keep_every_cell_as_text(tmp_path: Path):
    rng = random.Random(0)
    alphabet = [
        "0001",
        "1e5",
        "NA",
        "",
        " padded ",
        "a,b",
        'a "quoted" word',
        "two\nlines",
        "“curly”",
        "你好",
        "None",
        "\x85",
    ]
    for windows in (False, True):
        rows = [[rng.choice(alphabet) for _ in range(3)] for _ in range(40)]
        rows = [row for row in rows if any(cell.strip() for cell in row)]
        path = source_trees.table(tmp_path / "t.csv", ("x", "y", "z"), rows, windows=windows)
        assert read_table(path, ("z", "x")) == [dict(zip("xyz", row, strict=True)) for row in rows]


def test_a_table_that_is_not_utf8_is_placed(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes("name,text\na,你好\n".encode("gb18030"))
    with pytest.raises(LayoutError, match=r"line 2: byte 0xc4 is not UTF-8.*GB18030"):
        read_table(path, ("name",))


@pytest.mark.parametrize("text", ["It’s", "“quoted”…", "naïve café – 10 €", "â", "Ã", "你好"])
def test_intact_text_is_left_alone(text: str):
    assert repaired(text) == text


@pytest.mark.parametrize("text", ["It’s", "‘quoted’…", "Monica – café’s"])
def test_broken_encodings_are_mended(text: str):
    assert repaired(text.encode("cp1252").decode("latin-1")) == text
    assert repaired(text.encode("utf-8").decode("cp1252")) == text


def test_open_sets_round_trip():
    rng = random.Random(1)
    words = ["angry", "let down", "joyful", "伤心", "self-conscious"]
    for _ in range(50):
        chosen = rng.sample(words, rng.randrange(len(words) + 1))
        for written in (
            repr(chosen),
            ",".join(chosen),
            "[" + ", ".join(chosen) + "]",
            str(chosen).replace("'", '"').upper(),
        ):
            assert open_set(written) == tuple(chosen)
    assert open_set("['a', 'a', '']") == ("a",)


@pytest.mark.parametrize(("cell", "expected"), [("-0.80", -0.8), (" 3 ", 3.0), ("", None), ("NaN", None)])
def test_numbers(cell: str, expected: float | None):
    assert number(cell, "here") == expected


def test_media_are_found_by_exact_stem(tmp_path: Path):
    for name in ("a/x.mp4", "a/x1.mp4", "b/y.avi", "b/._y.mp4", "b/y.txt", "c/z.avi", "c/z.mp4", ".hidden/w.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    index = MediaIndex(tmp_path, tmp_path)
    assert (index.path("x"), index.path("a/x1"), index.path("y"), index.path("z")) == (
        "a/x.mp4",
        "a/x1.mp4",
        "b/y.avi",
        "c/z.mp4",
    )
    assert index.path("w") == "w.mp4" and not index.has("w") and not index.has("._y") and len(index) == 4


def test_a_name_in_several_folders_is_not_guessed(tmp_path: Path):
    for folder in ("video", "faces"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.mp4").touch()
    index = MediaIndex(tmp_path, tmp_path)
    with pytest.raises(LayoutError, match=r"several files are named 'x' \(faces/x.mp4, video/x.mp4\)"):
        index.path("x")
    assert index.path("video/x") == "video/x.mp4" and index.names == ["x"]


def test_two_different_tables_of_one_name_are_refused(tmp_path: Path):
    for folder, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "label.csv").write_text(text)
    with pytest.raises(
        LayoutError, match=r"different files named label\.csv: a/label\.csv, b/label\.csv, c/label\.csv"
    ):
        find_file(tmp_path, "label.csv", layout="")
    (tmp_path / "c" / "label.csv").write_text("x")
    assert find_file(tmp_path, "label.csv", layout="") == tmp_path / "a" / "label.csv"


# --- checks


def row(name: str, split: str = "test", **fields) -> Row:
    groups = fields.pop("groups", {})
    return Row(Clip(id=name, split=split, **{"video": f"{name}.mp4", "label": "joy", **fields}), groups)


def test_duplicates():
    assert check_duplicates([row("a"), row("b")]).status == "ok"
    assert check_duplicates([row("a"), row("b"), row("a")]).status == "error"
    shared = check_duplicates([row("a"), row("b", video="a.mp4")])
    assert shared.status == "warning" and "a = b" in shared.text
    # One dialogue's video under two sounds is no duplicate.
    assert check_duplicates([row("a", audio="a.wav"), row("b", video="a.mp4", audio="b.wav")]).status == "ok"


def test_labels():
    meld = source("meld")
    assert check_labels([row("a", label="cheerful")], meld).status == "error"
    assert check_labels([row("a")], meld).status == "warning"  # six labels never occur
    assert check_labels([row(label, label=label) for label in meld.labels or ()], meld).status == "ok"
    sims = source("ch-sims")
    rows = [row(label, label=label, score=0.5) for label in sims.labels or ()]
    assert check_labels(rows, sims).status == "ok"
    assert "1 scores outside -1..1: x" in check_labels([*rows, row("x", label="neutral", score=1.2)], sims).text
    assert check_labels([row("a", label=None)], source("emer")).status == "note"


def test_counts():
    rows = [row("a", "train"), row("b"), row("c", label="anger")]
    right = {
        "clips": 3,
        "split test": 2,
        "label joy": 2,
        "split test label anger": 1,
        "subset all": 3,
        "split train subset all": 1,
    }
    assert check_counts(tally_of(rows), right).status == "ok"
    wrong = check_counts(tally_of(rows), right | {"clips": 4, "split val": 1})
    assert wrong.status == "warning" and "clips: expected 4, found 3; split val: expected 1, found 0" in wrong.text
    assert check_counts({}, {}).status == "note"


def test_leakage():
    def status(rows: list[Row], *disjoint: str) -> list[str]:
        return [found.status for found in check_leakage(rows, disjoint)]

    assert status([row("a", "train", speaker="s1"), row("b", speaker="s2")], "speaker") == ["ok", "ok"]
    assert status([row("a", "train", speaker="s1"), row("b", speaker="s1")], "speaker") == ["error", "ok"]
    assert status([row("a", "train", speaker="s1"), row("b", speaker="s1")]) == ["note", "ok"]
    assert status([row("a", "train"), row("b", video="a.mp4")]) == ["error"]
    assert status([row("a", "train", audio="v"), row("b", audio="v")]) == ["error"]
    dialogues = [row("a", "val", groups={"dialogue": "d"}), row("b", groups={"dialogue": "d"})]
    assert status(dialogues, "dialogue") == ["error", "ok"]
