"""A language model as judge of free descriptions, behind one small interface.

A judge is anything that answers a prompt (:class:`Judge`). :class:`HttpJudge` asks a server with an OpenAI-compatible
chat endpoint, which the user must name: nothing in mosear asks a judge unless it is handed one. :class:`CachedJudge`
keeps all replies. What judges are asked stands in :mod:`mosear.evaluation.metrics.overlap`.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import urlsplit

from annotated_types import Ge

from mosear.files import written_atomically
from mosear.settings import AtLeastOne, NotNegative, Positive, settings

_LOG = logging.getLogger(__name__)
_TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0
_LARGEST_REPLY = 4 * 2**20


class JudgeError(RuntimeError):
    """The judge could not be asked, or gave no usable reply."""


class Judge(Protocol):
    """Answers a prompt. ``name`` says who judged: the model, and every setting that changes replies."""

    @property
    def name(self) -> str: ...

    def __call__(self, prompt: str) -> str: ...


@settings
@dataclass(frozen=True, kw_only=True)
class HttpJudge:
    """A model behind an OpenAI-compatible chat endpoint, such as vLLM's, llama.cpp's or a hosted one.

    Texts about people leave this machine for ``endpoint``; redirects are not followed.

    Attributes:
        endpoint: the server's base address, such as "http://localhost:8000/v1"; there is no default.
        model: the model's name on that server.
        api_key_env: environment variable that holds the key, or None for a server without one. The key itself is never
            stored, logged or shown.
        temperature: 0 for replies that repeat as far as the server allows.
        max_tokens: longest reply.
        timeout: seconds until one attempt is given up.
        retries: further attempts after the first, for connection errors, time-outs and the statuses 408, 409, 425, 429
            and 5xx; other statuses fail at once.
        backoff: seconds before the first further attempt, doubled for each one after, unless the server says how long
            to wait (Retry-After); a minute at most.
    """

    endpoint: str
    model: str
    api_key_env: str | None = None
    temperature: NotNegative = 0.0
    max_tokens: AtLeastOne = 512
    timeout: Positive = 60.0
    retries: Annotated[int, Ge(0)] = 3
    backoff: NotNegative = 1.0

    def further_problems(self) -> list[str]:
        """An address, a model or a key that cannot be used."""
        problems = []
        address = urlsplit(self.endpoint)
        if address.scheme not in ("http", "https") or not address.hostname:
            problems.append(f'endpoint={self.endpoint!r} must be an address such as "http://localhost:8000/v1"')
        if address.username or address.password or address.query or address.fragment:
            problems.append("endpoint must hold no user name, password, query or fragment; give keys by api_key_env")
        if not self.model.strip():
            problems.append("model must be the model's name on the server, got an empty string")
        if self.api_key_env is not None and not os.environ.get(self.api_key_env, "").strip():
            problems.append(f"api_key_env={self.api_key_env!r} is not set in the environment")
        return problems

    @property
    def name(self) -> str:
        """Model, server and settings: a cached reply of one is never taken for another's."""
        return f"{self.model} @ {self.endpoint.rstrip('/')} t={self.temperature:g} max_tokens={self.max_tokens}"

    def __call__(self, prompt: str) -> str:
        """The reply to one user message.

        Raises:
            JudgeError: after the last attempt, or at once where trying again is pointless.
        """
        for attempt in range(self.retries + 1):
            try:
                return self._ask(prompt)
            except _Transient as problem:
                if attempt == self.retries:
                    raise JudgeError(f"{self.name}: {problem} (attempt {attempt + 1}, the last)") from problem
                wait = min(self.backoff * 2**attempt if problem.wait is None else problem.wait, _LONGEST_WAIT)
                _LOG.warning("%s: %s; asking again in %.1f s.", self.name, problem, wait)
                time.sleep(wait)
        raise AssertionError("the loop returns or raises")

    def _ask(self, prompt: str) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key_env is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.api_key_env].strip()}"
        url = self.endpoint.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirect)
        with self._errors_named(), opener.open(request, timeout=self.timeout) as response:
            raw = response.read(_LARGEST_REPLY + 1)
        return self._content(raw)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except urllib.error.HTTPError as error:
            with error:
                # The message of a server may repeat the request's headers, so only its status is shown.
                problem = f"HTTP status {error.code} ({error.reason})"
                wait = _seconds(error.headers.get("Retry-After"))
            if error.code in _TRANSIENT:
                raise _Transient(problem, wait) from None
            raise JudgeError(f"{self.name}: {problem}; check endpoint, model and key.") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Transient(f"no reply ({getattr(error, 'reason', None) or error!r})") from error

    def _content(self, raw: bytes) -> str:
        if len(raw) > _LARGEST_REPLY:
            raise JudgeError(f"{self.name}: a reply of more than {_LARGEST_REPLY} bytes; is this a chat endpoint?")
        try:
            content = json.loads(raw)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            beginning = raw[:200].decode("utf-8", "replace")
            raise JudgeError(f"{self.name}: expected choices[0].message.content, got {beginning!r}") from None
        if not isinstance(content, str) or not content.strip():
            raise JudgeError(f"{self.name}: an empty reply; raise max_tokens if the model thinks before it answers.")
        return content


class _Transient(Exception):
    """A failure that may pass; ``wait`` is the server's own advice in seconds."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key and the texts to a server that was not named."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is left to the back-off."""
    return float(header) if header is not None and re.fullmatch(r"\d{1,6}", header.strip()) else None


@dataclass(frozen=True)
class CachedJudge:
    """Asks a judge once per prompt and keeps the reply, so that a score can be checked and repeated.

    One JSON file per (judge, prompt), named by their SHA-256, with both and the raw reply in it. A file that is damaged
    or belongs to another prompt is asked for again.

    Attributes:
        judge: whom to ask.
        directory: where the replies are kept; made if needed.
    """

    judge: Judge
    directory: str | Path

    @property
    def name(self) -> str:
        """The name of the judge behind the cache."""
        return self.judge.name

    def path(self, prompt: str) -> Path:
        """The file of a prompt's reply."""
        key = hashlib.sha256(json.dumps([self.judge.name, prompt]).encode()).hexdigest()
        return Path(self.directory) / key[:2] / f"{key}.json"

    def __call__(self, prompt: str) -> str:
        """The kept reply, or a new one."""
        path = self.path(prompt)
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = None
        if isinstance(kept, dict) and (kept.get("judge"), kept.get("prompt")) == (self.name, prompt):
            reply = kept.get("reply")
            if isinstance(reply, str):
                return reply
        reply = self.judge(prompt)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"judge": self.name, "prompt": prompt, "reply": reply}
        with written_atomically(path) as temporary:
            temporary.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return reply
