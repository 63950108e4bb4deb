"""Finds what a data set consists of below its root."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mosear.data.sources.base import LayoutError

VIDEO_SUFFIXES = (".mp4", ".avi", ".flv", ".mkv", ".webm", ".mov")
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a")

_ENTRIES_SHOWN = 12


def visible_files(directory: Path) -> Iterator[Path]:
    """All files below a directory, sorted; hidden ones (``._x``, which macOS leaves in archives) are skipped."""
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def find_file(root: Path, *names: str, layout: str) -> Path:
    """The one file below ``root`` with one of these names, wherever an archive put it.

    Raises:
        LayoutError: There is none, or there are several that differ.
    """
    found = [path for path in visible_files(root) if path.name in names]
    if not found:
        raise unlike(root, f"no file {' or '.join(names)}", layout)
    if len({path.read_bytes() for path in found}) > 1:
        listed = ", ".join(str(path.relative_to(root)) for path in found)
        raise LayoutError(f"{root} holds different files named {' or '.join(names)}: {listed}. Keep one of them.")
    return found[0]


def find_directory(root: Path, *names: str, layout: str) -> Path:
    """The shallowest directory below ``root``, or ``root`` itself, with one of these names.

    Raises:
        LayoutError: There is none.
    """
    if root.name in names:
        return root
    found = [
        Path(folder, name)
        for folder, folders, _ in os.walk(root)
        for name in folders
        if name in names and not name.startswith(".")
    ]
    if not found:
        raise unlike(root, f"no directory {' or '.join(names)}", layout)
    return min(found, key=lambda path: (len(path.parts), str(path)))


class MediaIndex:
    """Media files of a directory by stem; a name that begins another name never finds the other's file.

    Attributes:
        names: The bare stems of all files.
    """

    def __init__(self, root: Path, directory: Path, suffixes: Sequence[str] = VIDEO_SUFFIXES) -> None:
        self.root, self.directory, self.suffixes = root, directory, tuple(suffixes)
        ranks = {suffix: rank for rank, suffix in enumerate(self.suffixes)}
        files = [path for path in visible_files(directory) if path.suffix.lower() in ranks]
        self._paths: dict[str, Path] = {}  # of files that differ in the suffix alone, the one with the best suffix
        for path in sorted(files, key=lambda path: ranks[path.suffix.lower()], reverse=True):
            self._paths[path.relative_to(directory).with_suffix("").as_posix()] = path
        self._by_name: dict[str, list[Path]] = {}
        for path in self._paths.values():
            self._by_name.setdefault(path.stem, []).append(path)

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def names(self) -> list[str]:
        return sorted(self._by_name)

    def path(self, stem: str) -> str:
        """The file of a stem, relative to the root. Where there is none, the path it should have had.

        Args:
            stem: Path without suffix below the directory, such as ``video_0001/0001``; or the bare name of a file
                that may lie in any folder of it.

        Raises:
            LayoutError: Several folders have a file of that bare name.
        """
        named = self._by_name.get(stem, [])
        found = self._paths.get(stem) or (named[0] if named else None)
        if found is None:
            found = self.directory / f"{stem}{self.suffixes[0]}"
        elif stem not in self._paths and len(named) > 1:
            listed = ", ".join(sorted(path.relative_to(self.root).as_posix() for path in named))
            raise LayoutError(f"{self.directory}: several files are named {stem!r} ({listed}); move the others away")
        return found.relative_to(self.root).as_posix()

    def has(self, stem: str) -> bool:
        """Whether there is a file of that stem."""
        return stem in self._paths or stem in self._by_name


def unlike(root: Path, problem: str, layout: str) -> LayoutError:
    """An error that shows the expected tree beside the found one."""
    return LayoutError(f"{root}: {problem}.\nexpected:\n{_indented(layout)}\nfound:\n{_indented(tree(root))}")


def tree(root: Path) -> str:
    """The first two levels of a directory, a dozen entries of each."""
    lines = []
    for entry in _first_entries(root):
        lines.append(entry.name + ("/" if entry.is_dir() else ""))
        if entry.is_dir():
            lines += [f"  {child.name}{'/' if child.is_dir() else ''}" for child in _first_entries(entry)]
    return "\n".join(lines) or "(an empty directory)"


def _first_entries(directory: Path) -> list[Path]:
    entries = sorted(directory.iterdir())
    rest = len(entries) - _ENTRIES_SHOWN
    return entries if rest <= 0 else entries[:_ENTRIES_SHOWN] + [Path(f"... and {rest} more")]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip("\n").splitlines())
