"""Media of example clips inside the page, so that they play wherever the page is copied to."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from mosear.evaluation.report.content import ClipMedia

MEGABYTE = 1_000_000
OWN_TRACK = "video"
_START = 64  # bytes that tell what a file is

_KINDS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("video/mp4", lambda start: start[4:8] == b"ftyp"),
    ("video/webm", lambda start: start.startswith(b"\x1aE\xdf\xa3") and b"webm" in start),
    ("audio/wav", lambda start: start[:4] == b"RIFF" and start[8:12] == b"WAVE"),
    ("audio/flac", lambda start: start.startswith(b"fLaC")),
    ("audio/ogg", lambda start: start.startswith(b"OggS")),
    ("audio/mpeg", lambda start: start.startswith((b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"))),
)


def media_type(start: bytes) -> str | None:
    """What a browser may play, by a file's first bytes; None for other files, whatever they are called."""
    return next((kind for kind, fits in _KINDS if fits(start)), None)


def link_to(file: Path, folder: Path) -> str:
    """A relative link from a page in ``folder`` to a file, so that no path of this machine is told."""
    return "./" + quote(Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix())


class Embedder:
    """Puts clips' files into a page until it is full; a file that is left out is named and linked.

    Args:
        folder: where the page will be.
        megabytes: of media in the page at most, as encoded there; 0 embeds none and says nothing.
    """

    def __init__(self, folder: Path, megabytes: float) -> None:
        self.folder, self.megabytes, self.left = folder, megabytes, int(megabytes * MEGABYTE)

    def __call__(self, video: Path | None, audio: Path | str | None) -> ClipMedia | None:
        """The media of one clip as the model had them.

        Args:
            video: file of the video.
            audio: file of the sound, ``"video"`` for the video's own, None for none.
        """
        if not self.megabytes:
            return None
        notes: list[tuple[str, str | None]] = []
        seen = self._uri(video, notes)
        heard = self._uri(audio, notes) if isinstance(audio, Path) else None
        muted = video is not None and audio != OWN_TRACK
        return ClipMedia(video=seen, audio=heard, muted=muted, notes=tuple(notes))

    def _uri(self, file: Path | None, notes: list[tuple[str, str | None]]) -> str | None:
        if file is None:
            return None
        try:
            size = file.stat().st_size
            with file.open("rb") as opened:
                kind = media_type(opened.read(_START))
            if kind is None:
                notes.append((f"{file.name} is of a kind that browsers do not play.", link_to(file, self.folder)))
            elif (encoded := 4 * -(-size // 3)) > self.left:
                told = f"{file.name} ({size / MEGABYTE:.1f} MB) is not in this page, which holds {self.megabytes:g} MB."
                notes.append((told, link_to(file, self.folder)))
            else:
                self.left -= encoded
                return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
        except OSError as error:
            notes.append((f"{file.name} could not be read ({error.strerror or 'no reason given'}).", None))
        return None
