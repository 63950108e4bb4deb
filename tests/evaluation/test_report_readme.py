"""The manifest row in the README is one that the data path reads, and its subset is what its labels say."""

import json
from pathlib import Path

from mosear.data.clip import Clip
from mosear.data.conflict_rules import camer


def test_the_example_row_is_in_the_subset_that_its_labels_give():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    start = text.index('    {"id": "a1"')
    row = json.loads(text[start : text.index("\n\n", start)])
    shown = row["modality_labels"]
    assert camer(visual=shown["visual"], audio=shown["audio"], joint=row["label"]) == row["subset"] == "consistent"
    assert Clip.from_row(row).label == row["label"]
