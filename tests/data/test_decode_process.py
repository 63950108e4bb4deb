"""Decoding in a process that may die: equal to decoding here, and no file takes the job along."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mosear.data.container import MediaError
from mosear.data.decode_process import (
    DecodeLimits,
    DecodeProcess,
    Decoding,
    InlineDecoder,
    _empty_arrays,
    _Ended,
)
from mosear.data.media import Media, MediaBudget, decode, probe

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds to wait for what takes a moment."""


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecodeProcess]:
    with DecodeProcess() as decoder:
        yield decoder


def same(first: Media, second: Media) -> bool:
    """To the last bit."""
    assert (first.frames is None, first.audio is None) == (second.frames is None, second.audio is None)
    for ours, theirs in ((first.frames, second.frames), (first.audio, second.audio)):
        if ours is not None and theirs is not None:
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    return (first.fps, first.duration, first.cut) == (second.fps, second.duration, second.cut)


def gone(pid: int) -> bool:
    """Whether the process ends within a moment (a zombie has ended)."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def refusal(decoder: DecodeProcess, path: Path, audio: str | None = "video") -> MediaError:
    with pytest.raises(MediaError) as caught:
        decoder.decode(path, audio)
    assert str(path) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("budget", [None, MediaBudget(num_frames=3, max_pixels=500), MediaBudget(max_seconds=0.7)])
def test_arrays_are_those_of_decoding_here(decoder, media, plain_mp4, budget):
    voice, silent = media("voice.m4a", video=None, frames=75), media("silent.mp4", audio=None, frames=5)
    for video, audio in ((plain_mp4, "video"), (plain_mp4, None), (None, voice), (silent, voice), (str(silent), None)):
        assert same(decoder.decode(video, audio, budget), decode(video, audio, budget))
    assert same(InlineDecoder().decode(plain_mp4, "video", budget), decode(plain_mp4, "video", budget))
    assert decoder.probe(plain_mp4) == probe(plain_mp4) and decoder.probe(voice) == probe(voice)


def test_a_sound_without_samples_comes_through(decoder, tmp_path):
    import wave

    with wave.open(str(tmp_path / "short.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(1_000_000)
        file.writeframes(bytes(20))
    assert len(decoder.decode(None, tmp_path / "short.wav").audio) == 0


def test_names_in_any_encoding_come_through(decoder, plain_mp4, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9\xff \n\xc3\xa4.mp4")
    Path(name).write_bytes(plain_mp4.read_bytes())
    assert same(decoder.decode(name, "video"), decode(plain_mp4, "video"))


def test_refusals_are_those_of_decoding_here(decoder, media, plain_mp4, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(plain_mp4.read_bytes()[:3000])
    silent = media("silent.mp4", audio=None, frames=5)
    pid = decoder.pid
    for path in (cut, silent, tmp_path / "missing.mp4"):
        with pytest.raises(MediaError) as here:
            decode(path, "video")
        assert str(refusal(decoder, path)) == str(here.value)
    assert decoder.pid == pid is not None
    with pytest.raises(ValueError, match="both None"):
        decoder.decode(None, None)


def test_a_hang_ends_in_time_and_the_next_file_is_decoded(plain_mp4):
    with DecodeProcess(DecodeLimits(seconds=1.0)) as decoder:
        decoder.probe(plain_mp4)
        stuck = decoder.pid
        os.kill(stuck, signal.SIGSTOP)
        start = time.monotonic()
        error = refusal(decoder, plain_mp4)
        assert error.cause == "too_slow" and "1 s" in error.detail
        assert 1.0 <= time.monotonic() - start < PATIENCE and gone(stuck)
        decoder.limits = DecodeLimits()  # the new child may take a while on a busy machine
        assert same(decoder.decode(plain_mp4, "video"), decode(plain_mp4, "video")) and decoder.pid != stuck


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGABRT"])
def test_a_death_by_signal_names_the_file(plain_mp4, name):
    number = signal.Signals[name]
    with DecodeProcess() as decoder:
        decoder.probe(plain_mp4)
        victim = decoder.pid
        os.kill(victim, signal.SIGSTOP)  # in the middle of the request, however quick the machine is
        timer = threading.Timer(0.3, lambda: (os.kill(victim, number), os.kill(victim, signal.SIGCONT)))
        timer.start()
        error = refusal(decoder, plain_mp4)
        timer.join()
        assert error.cause == "decoder_died" and name in error.detail
        assert decoder.pid is None
        assert same(decoder.decode(plain_mp4, "video"), decode(plain_mp4, "video"))


def test_a_child_that_was_killed_while_idle_is_no_files_fault(plain_mp4):
    with DecodeProcess() as decoder:
        decoder.probe(plain_mp4)
        first = decoder.pid
        os.kill(first, signal.SIGKILL)
        assert gone(first)
        assert same(decoder.decode(plain_mp4, "video"), decode(plain_mp4, "video")) and decoder.pid not in (None, first)


def test_memory_over_the_bound_is_refused(media, plain_mp4):
    large = media("8k.mp4", size=(7680, 4320), frames=1, audio=None, encoder={"preset": "ultrafast"})
    with DecodeProcess(DecodeLimits(memory_gb=0.05)) as decoder:
        error = refusal(decoder, large, None)
        assert error.cause == "out_of_memory" and decoder.pid is None
        assert same(decoder.decode(plain_mp4, "video"), decode(plain_mp4, "video"))


def test_the_child_ends_with_close_and_with_the_object(plain_mp4):
    decoder = DecodeProcess()
    decoder.probe(plain_mp4)
    first = decoder.pid
    decoder.close()
    assert decoder.pid is None and gone(first)
    decoder.close()
    decoder.probe(plain_mp4)
    second = decoder.pid
    del decoder
    assert gone(second)


LONELY = """
import os, sys, time
from mosear.data.decode_process import DecodeProcess
decoder = DecodeProcess()
decoder.probe(sys.argv[1])
heir = os.fork()  # like a loader's worker, it holds the pipes open
if heir == 0:
    time.sleep(600)
print(decoder.pid, heir, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_the_child_ends_with_its_parent_although_others_hold_the_pipes(plain_mp4):
    parent = subprocess.Popen([sys.executable, "-c", LONELY, plain_mp4], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child, heir = map(int, parent.stdout.readline().split())
    try:
        parent.kill()
        parent.wait()
        assert gone(child)
        os.kill(heir, 0)
    finally:
        os.kill(heir, signal.SIGKILL)
        parent.stdout.close()


FORKED = """
import os, sys
import numpy as np
from mosear.data.decode_process import DecodeProcess
from mosear.data.media import decode
path, decoder = sys.argv[1], DecodeProcess()
decoder.probe(path)
first = decoder.pid
forked = os.fork()
if forked == 0:
    assert decoder.pid is None
    assert np.array_equal(decoder.decode(path, "video").frames, decode(path, "video").frames)
    assert decoder.pid != first
    decoder.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
assert decoder.pid == first
assert np.array_equal(decoder.decode(path, "video").audio, decode(path, "video").audio)
assert decoder.pid == first
"""


@pytest.mark.slow
def test_a_forked_copy_has_a_child_of_its_own(plain_mp4):
    command = [sys.executable, "-W", "error", "-c", FORKED, str(plain_mp4)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_copies_have_children_of_their_own(decoder, plain_mp4):
    decoder.probe(plain_mp4)
    for other in (copy.copy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert other.limits == decoder.limits and other.pid is None
    assert decoder.pid is not None


def test_threads_share_a_child(decoder, media, plain_mp4):
    silent = media("silent.mp4", audio=None, frames=5)
    found: dict[int, Media] = {}

    def work(number: int) -> None:
        found[number] = decoder.decode(silent if number % 2 else plain_mp4, None)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert same(found[number], decode(silent if number % 2 else plain_mp4, None))


@pytest.mark.parametrize(
    "announced",
    [
        {"frames": [65, 10, 10, 3], "audio": None},
        {"frames": [8, 10_000, 10_000, 3], "audio": None},
        {"frames": [8, 10, 10, 4], "audio": None},
        {"frames": None, "audio": 10**9},
        {"frames": None, "audio": -1},
    ],
)
def test_no_more_memory_is_taken_than_the_budget_allows(announced):
    with pytest.raises(_Ended):
        _empty_arrays(announced, MediaBudget())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "thread"}, "mode='thread' must be one of inline, process"),
        ({"seconds": 0}, "seconds=0 must be positive"),
        ({"memory_gb": -1}, "memory_gb=-1 must be positive"),
    ],
)
def test_settings_that_cannot_work(values, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**values)


def test_settings_choose_the_decoder():
    chosen = Decoding(seconds=3, memory_gb=2).decoder()
    assert isinstance(chosen, DecodeProcess) and chosen.limits == DecodeLimits(3, 2)
    assert isinstance(Decoding(mode="inline").decoder(), InlineDecoder)


def test_what_the_child_prints_is_no_reply(decoder, media: Callable[..., Path]):
    """Standard output of the child is its standard error: libraries may print."""
    decoder.probe(media("silent.mp4", audio=None, frames=5))
    assert os.readlink(f"/proc/{decoder.pid}/fd/1") == os.readlink(f"/proc/{decoder.pid}/fd/2")
