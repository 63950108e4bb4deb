import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mosear.evaluation import metrics
from mosear.evaluation.judge import CachedJudge, HttpJudge, JudgeError
from mosear.evaluation.metrics.overlap import EMOTIONS_PROMPT, LABEL_PROMPT

KEY = "sk-very-secret"


def chat(content: object) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


class Server:
    """A chat endpoint on this machine that replays what it is given and remembers what it was asked."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, dict[str, str], bytes]] = []
        self.requests: list[tuple[str, dict[str, str], dict]] = []
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                status, headers, content = outer.replies.pop(0)
                if status == 0:
                    outer.release.wait(30)
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def reply(self, content: object = "fine", *, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else chat(content)
        self.replies.append((status, {name.replace("_", "-"): value for name, value in headers.items()}, body))

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    yield running
    running.close()


def judge(server: Server, **settings: object) -> HttpJudge:
    return HttpJudge(**{"endpoint": server.endpoint, "model": "tiny", "backoff": 0.0, **settings})


def test_asks_an_openai_compatible_endpoint(server):
    server.reply("héllo")
    assert judge(server, api_key_env="JUDGE_KEY", temperature=0.5, max_tokens=7)("Wie geht's? 情") == "héllo"
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Wie geht's? 情"}],
        "temperature": 0.5,
        "max_tokens": 7,
    }


def test_without_a_key_none_is_sent(server):
    server.reply()
    judge(server, endpoint=server.endpoint + "/")("?")
    path, headers, _ = server.requests[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_failures_that_may_pass_are_tried_again(server, status, caplog):
    server.reply(b"busy", status=status, Retry_After="0")
    server.reply(b"busy", status=status, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    server.reply("at last")
    assert judge(server, retries=2)("?") == "at last"
    assert len(server.requests) == 3
    assert caplog.text.count(f"HTTP status {status}") == 2


def test_the_last_attempt_says_so(server):
    server.reply(b"busy", status=503)
    server.reply(b"busy", status=503)
    with pytest.raises(JudgeError, match=r"HTTP status 503 .*attempt 2, the last"):
        judge(server, retries=1)("?")
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_other_statuses_fail_at_once_and_show_no_key(server, status):
    server.reply(f"bad key {KEY}".encode(), status=status)
    with pytest.raises(JudgeError, match=f"HTTP status {status}.*check endpoint, model and key") as caught:
        judge(server, api_key_env="JUDGE_KEY")("?")
    assert len(server.requests) == 1
    assert KEY not in str(caught.value)
    assert KEY not in repr(judge(server, api_key_env="JUDGE_KEY"))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(server, status):
    server.reply(b"", status=status, Location=server.endpoint + "/elsewhere")
    with pytest.raises(JudgeError, match=f"HTTP status {status}"):
        judge(server, api_key_env="JUDGE_KEY")("?")
    assert len(server.requests) == 1


def test_a_server_that_never_answers(server):
    server.reply(status=0)
    with pytest.raises(JudgeError, match=r"no reply .*timed out"):
        judge(server, timeout=0.2, retries=0)("?")


def test_a_server_that_is_not_there(server):
    lonely = judge(server, retries=1)
    server.http.server_close()
    with pytest.raises(JudgeError, match=r"no reply .*attempt 2"):
        lonely("?")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"<html>", "expected choices.*<html>"),
        (b'{"choices": []}', "expected choices"),
        (b'{"choices": {"0": 1}}', "expected choices"),
        (chat(None), "raise max_tokens"),
        (chat("  "), "raise max_tokens"),
        (b" " * (4 * 2**20 + 1), "is this a chat endpoint"),
    ],
)
def test_replies_that_are_none(server, reply, message):
    server.reply(reply)
    with pytest.raises(JudgeError, match=message):
        judge(server)("?")


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ({"endpoint": ""}, ["endpoint='' must be an address"]),
        ({"endpoint": "file:///etc/passwd"}, ["must be an address"]),
        ({"endpoint": "http://me:pw@host/v1"}, ["no user name, password"]),
        ({"model": " ", "timeout": 0, "retries": -1}, ["model must be", "timeout=0 must be positive", "retries=-1"]),
        ({"api_key_env": "NO_SUCH_KEY_HERE"}, ["api_key_env='NO_SUCH_KEY_HERE' is not set"]),
    ],
)
def test_settings_are_checked_together(settings, messages):
    with pytest.raises(ValueError) as caught:
        HttpJudge(**{"endpoint": "http://localhost:1/v1", "model": "m", **settings})
    assert all(message in str(caught.value) for message in messages)
    assert "pw" not in str(caught.value).replace("password", "")


def test_an_endpoint_must_be_named():
    with pytest.raises(TypeError, match="endpoint"):
        HttpJudge(model="m")


def test_a_kept_reply_is_not_asked_for_again(server, tmp_path):
    server.reply("first")
    server.reply("second")
    cached = CachedJudge(judge(server), tmp_path / "replies")
    assert [cached("a"), cached("a"), cached("b"), cached("a")] == ["first", "first", "second", "first"]
    assert len(server.requests) == 2
    record = json.loads(cached.path("a").read_text(encoding="utf-8"))
    assert record == {"judge": cached.name, "prompt": "a", "reply": "first"}
    assert len(list(tmp_path.rglob("*.*"))) == 2
    again = CachedJudge(judge(server), tmp_path / "replies")
    assert again("b") == "second"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"judge": "x", "prompt": "a", "reply": "y"}'])
def test_a_damaged_record_is_asked_for_again(server, tmp_path, damage):
    server.reply("first")
    server.reply("again")
    cached = CachedJudge(judge(server), tmp_path)
    cached("a")
    cached.path("a").write_text(damage, encoding="utf-8")
    assert cached("a") == "again"
    assert cached("a") == "again"


def test_a_failure_is_not_kept(server, tmp_path):
    server.reply(b"", status=400)
    server.reply("fine")
    cached = CachedJudge(judge(server), tmp_path)
    with pytest.raises(JudgeError):
        cached("a")
    assert cached("a") == "fine"


def test_judges_are_told_apart(server, tmp_path):
    variants = [
        judge(server),
        judge(server, model="other"),
        judge(server, temperature=0.7),
        judge(server, max_tokens=9),
    ]
    assert len({variant.name for variant in variants}) == 4
    for number, variant in enumerate(variants):
        server.reply(str(number))
        assert CachedJudge(variant, tmp_path)("a") == str(number)
    assert [CachedJudge(variant, tmp_path)("a") for variant in variants] == ["0", "1", "2", "3"]
    assert len(server.requests) == 4
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*.json"))


def test_over_http_with_kept_replies(server, tmp_path):
    """The whole way of a score: prompts to a server on this machine, raw replies on disk, a second run without it."""
    for content in ("[happy, anxious]", "[anxious]", '{"score": 6, "reason": "one of two"}'):
        server.reply(content)
    cached = CachedJudge(judge(server), tmp_path)
    first = metrics.label_overlap(["smiles, hands shaking"], ["hands shaking"], cached)
    assert first["scores"] == [6]
    assert first["judge"] == cached.name
    asked = [body["messages"][0]["content"] for _, _, body in server.requests]
    assert asked[0] == EMOTIONS_PROMPT.format(text="smiles, hands shaking")
    assert asked[2] == LABEL_PROMPT.format(reference="anxious, happy", answer="anxious")
    assert metrics.label_overlap(["smiles, hands shaking"], ["hands shaking"], cached) == first
    assert len(server.requests) == 3
