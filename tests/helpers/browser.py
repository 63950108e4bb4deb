"""A headless Chromium for tests of the pages."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
from pathlib import Path
from select import select
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PATIENCE = 180  # seconds for one answer, on a machine that is busy
KEYS = {"ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36, "Enter": 13, "Escape": 27, "/": 191}


class Browser:
    """A headless Chromium with one tab, spoken to over its debugging pipe (JSON messages that end in a null byte)."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_browser, our_writing = os.pipe()
        our_reading, from_browser = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4; out of their way first, they may be ours.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]
        options = ["headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-extensions"]
        options = [f"--{option}" for option in (*options, "remote-debugging-pipe", f"user-data-dir={profile}")]
        self.process = os.posix_spawn(
            CHROMIUM,
            [CHROMIUM, *options],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, ends[0], 3),
                (os.POSIX_SPAWN_DUP2, ends[1], 4),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self.writing, self.reading = os.fdopen(our_writing, "wb"), os.fdopen(our_reading, "rb")
        self.number, self.events, self.rest, self.session = 0, [], b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.writing.write(json.dumps(message).encode() + b"\0")
        self.writing.flush()
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            assert select([self.reading], [], [], PATIENCE)[0], "the browser has stopped answering"
            piece = os.read(self.reading.fileno(), 1 << 16)
            assert piece, "the browser has gone"
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, page: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def run(self, expression: str, *, gesture: bool = False) -> Any:
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": gesture}
        done = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def press(self, *keys: str) -> None:
        for key in keys:
            known = {"key": key, "windowsVirtualKeyCode": KEYS[key], **({"text": key} if len(key) == 1 else {})}
            self.call("Input.dispatchKeyEvent", type="keyDown", **known)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=KEYS[key])

    def write(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def complaints(self) -> list[str]:
        """Exceptions, console messages and what the page's content security policy has stopped."""
        self.run("0")
        names = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event) for event in self.events if event.get("method") in names]

    def asked_for(self) -> list[str]:
        """Addresses of everything that the page has requested."""
        asked = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in asked]

    def close(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        self.writing.close()
        self.reading.close()
