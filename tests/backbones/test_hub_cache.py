"""Checkpoints by hub id without a network: whole ones load from the hub library's cache, half ones say how to go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mosear.backbones.backbone import OmniBackbone

COMMIT = "a" * 40
CHILD = """
import json, socket, sys
def refuse(*arguments, **options):
    raise SystemExit(f"network: {arguments}")
socket.socket.connect = socket.getaddrinfo = refuse
from mosear.backbones import load_backbone
found = {}
for name, revision in json.loads(sys.argv[1]):
    try:
        loaded = load_backbone(name, dtype="fp32", revision=revision)
        found[f"{name} {revision}"] = sum(float(p.double().sum()) for p in loaded.model.parameters())
    except ValueError as error:
        found[f"{name} {revision}"] = str(error)
print(json.dumps(found))
"""


def in_hub_cache(home: Path, name: str, source: Path, *, without: tuple[str, ...] = ()) -> None:
    """A checkpoint as the hub library keeps it after a download (or an interrupted one)."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for path in source.iterdir():
        if path.is_file() and not path.name.startswith(without or ("\0",)):
            (snapshot / path.name).write_bytes(path.read_bytes())


def test_offline_mode_is_honoured(qwen25_dir: Path, qwen25: OmniBackbone, tmp_path: Path) -> None:
    in_hub_cache(tmp_path, "some/whole", qwen25_dir)
    in_hub_cache(tmp_path, "some/weightless", qwen25_dir, without=("model",))
    in_hub_cache(tmp_path, "some/mute", qwen25_dir, without=("tokenizer", "processor", "preprocessor"))
    asked = [["some/whole", None], ["some/whole", COMMIT], ["some/whole", "b" * 40]]
    asked += [["some/weightless", None], ["some/mute", None], ["some/absent", None]]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps(asked)],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    total = sum(float(p.double().sum()) for p in qwen25.model.parameters())
    assert found["some/whole None"] == found[f"some/whole {COMMIT}"] == pytest.approx(total)
    assert "No backbone found for 'some/whole'" in found[f"some/whole {'b' * 40}"], "another commit is not here"
    assert "No backbone found for 'some/absent'" in found["some/absent None"]
    for name in ("some/weightless", "some/mute"):
        assert f"Not all files of '{name}' are here" in found[f"{name} None"]
        assert f"hf download {name}" in found[f"{name} None"]
