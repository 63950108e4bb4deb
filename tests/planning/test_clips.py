"""What ``debug=dry`` finds about clips before anything is loaded."""

from __future__ import annotations

import time

import pyarrow as pa
import pyarrow.parquet as pq

from mosear.data.clip import Clip
from mosear.data.manifest import load_manifest, write_manifest
from mosear.data.synthetic import ensure_corpus
from mosear.planning.clips import headers, long_texts


def test_long_texts_are_named_with_their_clips(tmp_path):
    clips = [Clip("short", text="Oh.", label="sad"), Clip("long", text="word " * 400, label="sad")]
    manifest = load_manifest(write_manifest(clips, tmp_path / "a.parquet"))
    (line,) = long_texts(manifest, 100)
    assert "1 clip(s)" in line and "'long' (about 500 tokens)" in line and "data.max_tokens=100" in line
    assert list(long_texts(manifest, 500)) == []


def test_a_million_texts_take_a_moment(tmp_path):
    count = 1_000_000
    text = pa.array(["It is fine."] * (count - 1) + ["word " * 5000])
    ids = pa.array([f"c{i}" for i in range(count)])
    same = {name: pa.array([name] * count) for name in ("subset", "split")}
    pq.write_table(pa.table({"id": ids, "text": text, **same}), tmp_path / "a.parquet")
    manifest = load_manifest(tmp_path / "a.parquet")
    start = time.perf_counter()
    (line,) = long_texts(manifest, 2048)
    assert f"'c{count - 1}' (about 6250 tokens)" in line
    assert time.perf_counter() - start < 20, "well under a second on an idle machine"


def test_bad_headers_are_named_and_how_many_were_looked_at(tmp_path):
    root = ensure_corpus(tmp_path / "corpus", train_clips=4, val_clips=2, test_clips=6, workers=1, size=56)
    manifest = load_manifest(root / "test.parquet")
    assert headers(manifest) == "the media headers of 32 of 42 clips can be read"
    first, second = manifest.resolve(manifest[0])[0], manifest.resolve(manifest[2])[0]
    first.unlink()
    second.write_bytes(b"no film")
    said = headers(manifest)
    assert said.startswith("the media of 2 of 32 clips looked at (42 in all) cannot be used, e.g. ")
    assert repr(manifest[0].id) in said and repr(manifest[2].id) in said
