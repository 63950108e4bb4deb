"""The zoo at sizes that say nothing: one model of each part, and the pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import zoo
from benchmarks.results import ROOT

SMALL = ["trainer.max_epochs=1", "data.prepare.train_clips=16", "data.prepare.val_clips=8", "data.num_workers=0"]


def test_every_model_file_is_there() -> None:
    for file in zoo.MODELS.values():
        assert (ROOT / "conf" / "model" / f"{file}.yaml").is_file()
    rows = zoo.names_of(zoo.PARTS["labels"])
    assert len(rows) == 2 * len(zoo.MODELS) and "late_fusion+dropout" in rows


@pytest.mark.slow
def test_parts_are_run_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    monkeypatch.setattr(zoo, "KEEP", (1.0, 0.5))
    for name in zoo.PARTS:
        part = zoo.PARTS[name]
        monkeypatch.setitem(zoo.PARTS, name, zoo.Part(part.options, ("linear_probe",), part.dropout, part.subset))
    study = zoo.Zoo(tmp_path / "out", 3, [f"data_dir={tmp_path / 'data'}", *SMALL])
    for name in zoo.PARTS:
        for row in zoo.names_of(zoo.PARTS[name]):
            study.model(name, row, 0)
        if name == "labels":
            study.bare_omni()
        zoo.write_part(study, name, [0], [])
    for keep in zoo.KEEP:
        study.compressed(keep, 0)
    zoo.write_compression(study, [0])
    pages = {path.name: path.read_text() for path in (tmp_path / "docs" / "tables").iterdir()}
    assert set(pages) == {"zoo-labels.md", "zoo-blends.md", "zoo-continuous.md", "zoo-compression.md"}
    assert "linear_probe+dropout - linear_probe" in pages["zoo-labels.md"] and "| 1,734 |" in pages["zoo-labels.md"]
    assert "| 1 | 1.000 |" in pages["zoo-compression.md"] and "ccc" in pages["zoo-continuous.md"].lower()
