"""The benchmark of damaged files sees every outcome, and goes on where it stopped."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from benchmarks import decode_process
from benchmarks.damaged_files import damaged
from benchmarks.fuzz_media import OUTCOMES, Watched, main


@pytest.mark.slow
def test_a_run_counts_outcomes_and_goes_on_where_it_stopped(tmp_path, capfd):
    path = tmp_path / "fuzz.json"
    options = ["--files", "6", "--json", str(path), "--containers"]
    assert main([*options, "wav"]) == 0
    first = json.loads(path.read_text())["containers"]
    assert [sum(found[name] for name in OUTCOMES) for found in first] == [6]
    table = capfd.readouterr().out
    assert "| container | decoded | refused |" in table and "| wav |" in table
    assert main([*options, "wav,mp3"]) == 0
    both = json.loads(path.read_text())["containers"]
    assert both[0] == first[0] and both[1]["container"] == "mp3"
    assert main([*options, "wav", "--memory-mb", "1"]) == 1
    (over,) = json.loads(path.read_text())["containers"]
    assert over["memory"] == 6 and over["faults"][0]["file"] == "wav:0:0"


@pytest.mark.slow
def test_a_death_and_a_hang_are_seen():
    watched = Watched(seconds=0.5)
    try:
        assert watched("wav", 0, 0)["outcome"] in ("decoded", "refused")
        pid = watched._process.pid
        os.kill(pid, signal.SIGSTOP)
        kill = threading.Timer(0.2, os.kill, (pid, signal.SIGKILL))
        kill.start()
        assert watched("wav", 0, 1)["outcome"] == "died"
        kill.join()
        watched("wav", 0, 2)
        os.kill(watched._process.pid, signal.SIGSTOP)
        assert watched("wav", 0, 3)["outcome"] == "timed out"
        assert watched("wav", 0, 4)["outcome"] in ("decoded", "refused")
    finally:
        watched.close()


def test_a_file_can_be_written_by_its_name(capfdbinary):
    assert main(["--show", "flac:0:3"]) == 0
    written = capfdbinary.readouterr()
    content, done = damaged("flac", 0, 3)
    assert written.out == content and done in written.err.decode()


@pytest.mark.parametrize("wrong", [["--containers", "mp4,mov"], ["--files", "0"], ["--seconds", "0"]])
def test_options_that_cannot_work(wrong, capsys):
    with pytest.raises(SystemExit):
        main(wrong)
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.slow
def test_the_cost_of_a_process_is_measured(capsys, monkeypatch):
    monkeypatch.setattr(decode_process, "CLIPS", {"small": (64, 64, 1)})
    decode_process.main(["--rounds", "2"])
    shown = capsys.readouterr().out
    assert "| small | 2 |" in shown and "Start of a process" in shown
