"""A process whose peers are gone says so; other errors pass as they are."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mosear.runtime.lost_peers import LostPeersError, naming_lost_peers


@pytest.fixture
def launched(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")


def wait_for_nobody() -> None:
    from torch.distributed import TCPStore

    TCPStore("localhost", 0, is_master=True, timeout=timedelta(milliseconds=100)).wait(["never"])


def test_the_backend_s_error_becomes_one_that_says_what_to_do(launched):
    with pytest.raises(LostPeersError, match="has lost contact") as raised, naming_lost_peers():
        wait_for_nobody()
    assert "Process 1 of 2 " in str(raised.value) and "resume=auto" in str(raised.value)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_a_process_on_its_own_has_no_peers_to_lose(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RuntimeError) as raised, naming_lost_peers():
        wait_for_nobody()
    assert not isinstance(raised.value, LostPeersError)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("timed out waiting"), SystemExit(75)])
def test_other_errors_pass(error, launched):
    with pytest.raises(type(error)) as raised, naming_lost_peers():
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "said",
    [
        "[transport/tcp/unbound_buffer.cc:78] Timed out waiting 20000ms for recv operation to complete",
        "[transport/tcp/pair.cc:538] Connection closed by peer [10.0.0.1]:4242",
        "[transport/tcp/pair.cc:534] Read error [10.0.0.1]:4242: Connection reset by peer",
        "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)",
        "NCCL remote error: remote process exited or there was a network error",
        "wait timeout after 100ms, keys: /never",
    ],
)
def test_what_backends_say_is_understood(said, launched):
    with pytest.raises(LostPeersError, match="lost contact"), naming_lost_peers():
        raise RuntimeError(said)
