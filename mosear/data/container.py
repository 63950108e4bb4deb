"""Opens media files by their content, and says in one word what is wrong with a file that cannot be opened."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.stream import Disposition

Source = Path | str | BinaryIO

_REMEDIES = {
    "missing_file": "Check the manifest's path and the data root",
    "unreadable": "Check the file's permissions and the disk",
    "empty_file": "Copy or download the file again",
    "git_lfs_pointer": "Fetch the real content with `git lfs pull` (a repository's zip holds pointers only)",
    "truncated": "The copy was cut short: download or encode the file again",
    "not_media": "Replace it with a video or audio file",
    "no_audio_track": "Set audio to null in the manifest if the clip has no sound",
    "no_video_track": "Set video to null in the manifest if the clip has no picture",
    "zero_length": "Drop the clip or replace the file",
    "too_large": "Downscale the file, or raise max_decode_pixels if the memory allows it",
    "undecodable": "Re-encode the file (for example to H.264 + AAC in mp4)",
    "unsuitable": "Drop the clip or replace the file",
    "implausible_sound": "Write the sound again at a usual rate with finite samples between -1 and 1, or drop the clip",
    "decoder_died": "Encode the file again, or drop the clip",
    "too_slow": "Encode the file again with smaller frames, or raise the limit (data.decode.seconds)",
    "out_of_memory": "Encode the file again with smaller frames, or raise the limit (data.decode.memory_gb)",
}

OUT_OF_MEMORY = "the decoder asked for more than it may have"

# Demuxers are named, because FFmpeg would otherwise also open playlists and scripts (hls, concat), which read *other*
# files and URLs, and would trust an extension alone (any `.bin` or `.txt` "is" a video to it).
_DEMUXERS = (
    "mov,mp4,m4a,avi,flv,matroska,webm,mpegts,mpeg,mpegvideo,asf,mxf,m4v,h264,hevc,gif,"
    "wav,w64,mp3,flac,ogg,aac,aiff,au,caf,amr"
)
_OPEN_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
# FFmpeg looks for DTS under the name of PCM, in up to 2500 packets: ten times the work of decoding a short sound. If it
# is there, the first packets show it.
_WAV_OPTIONS = {"max_probe_packets": "8"}

_SNIFF_BYTES = 512
_MAGIC = (
    b"RIFF",
    b"RF64",
    b"FLV",
    b"\x1a\x45\xdf\xa3",
    b"OggS",
    b"fLaC",
    b"ID3",
    b"FORM",
    b"\x00\x00\x01\xba",
    b"\x30\x26\xb2\x75",
)
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide")


class MediaError(ValueError):
    """A media file cannot be used.

    Attributes:
        path: The file, or a description of the stream that was passed.
        cause: One of ``missing_file, unreadable`` (the system refuses to read it), ``empty_file, git_lfs_pointer,
            truncated, not_media, no_audio_track, no_video_track, zero_length, too_large, undecodable, unsuitable`` (it
            decodes, but the backbone's processor can make nothing of it), ``implausible_sound`` (samples that are not
            finite or far out of range, or a rate that no recorder has), ``out_of_memory``; and, of files that another
            process decodes, ``decoder_died, too_slow``.
        detail: What was seen in this file.
    """

    def __init__(self, path: str, cause: str, detail: str) -> None:
        super().__init__(
            path, cause, detail
        )  # all three in `args`, so that the error survives the pickling between processes
        self.path, self.cause, self.detail = path, cause, detail

    def __str__(self) -> str:
        return f"{self.path}: {self.cause}: {self.detail}. {_REMEDIES[self.cause]}."


def source_name(source: Source) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", "<stream>"))


@contextmanager
def opened(source: Source) -> Iterator[InputContainer]:
    """Opens a container by its content; every way in which that can fail becomes a `MediaError` with its cause."""
    name = source_name(source)
    try:
        with _container(source, name) as container:
            yield container
    except MemoryError as error:
        raise MediaError(name, "out_of_memory", OUT_OF_MEMORY) from error
    except (OSError, av.FFmpegError) as error:
        system = isinstance(error, OSError) and not _blames_system_for_content(error, source)
        raise MediaError(name, "unreadable" if system else "undecodable", error.strerror or str(error)) from error


def decoder_options(max_pixels: int) -> dict[str, str]:
    """Makes FFmpeg's decoder refuse larger frames before it allocates them; it counts rows padded to 64 pixels."""
    return {"max_pixels": str(max_pixels + 64 * 2**16)}


def _blames_system_for_content(error: OSError, source: Source) -> bool:
    """FFmpeg's demuxers also call it an I/O error when an element of the file makes no sense."""
    if not isinstance(error, av.FFmpegError) or error.errno != errno.EIO or not isinstance(source, str | os.PathLike):
        return False
    try:
        with open(source, "rb") as file:
            while file.read(2**20):
                pass
    except OSError:
        return False
    return True


@contextmanager
def _container(source: Source, name: str) -> Iterator[InputContainer]:
    head = _sniff(source)
    # Absolute, since FFmpeg would read a name like "data:..." or "concat:..." as a protocol.
    file = os.path.abspath(source) if isinstance(source, str | os.PathLike) else source
    try:
        container = av.open(
            file,
            container_options=_OPEN_OPTIONS | (_WAV_OPTIONS if head[8:12] == b"WAVE" else {}),
            metadata_errors="replace",  # titles in any encoding: nothing here reads them
        )
    except av.FFmpegError as error:
        if isinstance(error, OSError | MemoryError):
            raise
        known = head.startswith(_MAGIC) or head[4:8] in _MP4_BOXES
        if known:
            raise MediaError(
                name, "truncated", f"starts like media but its index cannot be read ({error.strerror})"
            ) from error
        raise MediaError(name, "not_media", f"no known container format (first bytes {head[:8].hex(' ')})") from error
    assert isinstance(container, InputContainer)
    with container:
        yield container


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Raises a `MediaError` unless ``path`` is a regular file, or an `OSError` where the system will not say."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(os.fspath(path), "missing_file", "no such file") from error
    if not stat.S_ISREG(mode):
        raise MediaError(os.fspath(path), "missing_file", "not a regular file")


def _sniff(source: Source) -> bytes:
    """Returns the first bytes, or raises where they already tell that this is no media file."""
    name = source_name(source)
    if isinstance(source, str | os.PathLike):
        check_is_file(source)  # also keeps pipes and devices out, which could block for ever
        with open(source, "rb") as file:
            head = file.read(_SNIFF_BYTES)
    else:
        source.seek(0)
        head = source.read(_SNIFF_BYTES)
        source.seek(0)
    if not head:
        raise MediaError(name, "empty_file", "0 bytes")
    if head.startswith(b"version https://git-lfs"):
        raise MediaError(name, "git_lfs_pointer", "a Git LFS pointer, not the content")
    if _is_text(head):
        raise MediaError(name, "not_media", f"a text file that begins {head[:40].decode('utf-8', 'replace')!r}")
    if head[4:8] in _MP4_BOXES:
        with open(source, "rb") if isinstance(source, str | os.PathLike) else nullcontext(source) as file:
            _check_mp4_is_whole(file, name)
    return head


def _check_mp4_is_whole(file: BinaryIO, name: str) -> None:
    """Walks the top-level boxes, whose sizes must fit the file.

    FFmpeg opens many a cut file without a word, and then lacks a track whose description was cut off.
    """
    length = file.seek(0, os.SEEK_END)
    start = 0
    while start + 8 <= length:
        file.seek(start)
        size, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        size = {0: length - start, 1: large}.get(size, size)  # 0: up to the end of the file; 1: 64-bit size follows
        if not kind.isalnum() or size < 8:
            break  # not a box: padding or a foreign trailer, which players ignore
        if start + size > length:
            detail = f"its {kind.decode('latin-1')} box needs {start + size} bytes, the file has {length}"
            raise MediaError(name, "truncated", detail)
        start += size
    file.seek(0)


def _is_text(head: bytes) -> bool:
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end == len(head) == _SNIFF_BYTES and error.reason == "unexpected end of data"
    return True


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The first real video stream; the cover picture of a music file is not one."""
    return next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
