"""What an importer is, what it is asked, and what it gives back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mosear.data.clip import Clip

Language = Literal["original", "english"]


class LayoutError(ValueError):
    """The directory does not look like the data set; the message shows what was expected and what is there."""


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        root: Directory that holds the data set as it was published.
        out: The manifest to write; media that an importer makes itself goes beside it.
        fold: Number of the test fold, from 1; None makes no folds (see `Source.folds`).
        rule: Name of the conflict rule that names subsets; None is the source's own (see `Source.rules`).
        min_agreement: Least share of votes that a unimodal or joint majority needs, where votes are known.
        language: Which transcript, where there are two.
        emotions: Table with a column per emotion, for the column ``labels``; True for the data set's own label table.
    """

    root: Path
    out: Path
    fold: int | None = None
    rule: str | None = None
    min_agreement: float = 0.0
    language: Language = "original"
    emotions: Path | bool = False


@dataclass(frozen=True)
class Row:
    """A clip, and what else it belongs to.

    Attributes:
        clip: The manifest row.
        groups: Kind of group -> which one, such as ``{"dialogue": "train/12"}``. Splits are compared by these. The
            speaker need not be repeated here.
    """

    clip: Clip
    groups: Mapping[str, str] = field(default_factory=dict)

    def group(self, kind: str) -> str | None:
        """The clip's group of this kind, if it has one."""
        return self.clip.speaker if kind == "speaker" else self.groups.get(kind)


@dataclass(frozen=True)
class Remux:
    """A file to make: the picture of one file with the sound of another."""

    picture: Path
    sound: Path
    target: Path


@dataclass
class Reading:
    """What an importer found.

    Attributes:
        rows: The clips, in a stable order.
        dropped: Reason -> ids of clips that the labels list and the manifest leaves out.
        notes: What the user should know about this copy.
        tally: Counts to compare with the published ones; by default those of ``rows`` (`tally_of`).
        media_root: What the clips' paths are relative to; by default the request's root.
        remuxes: Files that must be made before the clips can be read.
    """

    rows: list[Row]
    dropped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tally: Mapping[str, int] | None = None
    media_root: Path | None = None
    remuxes: list[Remux] = field(default_factory=list)

    def drop(self, reason: str, clip_id: str) -> None:
        """Notes that a clip is left out."""
        self.dropped.setdefault(reason, []).append(clip_id)


def no_counts(request: Request) -> Mapping[str, int]:
    """For data sets whose published counts are not known."""
    return {}


def folded_counts(
    request: Request, labels: Mapping[str, int], *, total: int, test_folds: Sequence[int]
) -> Mapping[str, int]:
    """Published totals of a set with folds: clips, clips of each label, and the two splits of the fold asked for."""
    counts = {"clips": total, **{f"label {label}": count for label, count in labels.items()}}
    if request.fold is not None:
        test = test_folds[request.fold - 1]
        counts |= {"split test": test, "split train": total - test}
    return counts


@dataclass(frozen=True)
class Source:
    """An importer.

    Attributes:
        name: What the command line calls it.
        title: One line about the data set.
        licence: Under what terms it is given, in a few words.
        layout: The expected tree, as shown to users.
        read: Reads labels and finds media; decodes nothing.
        evidence: Where the layout comes from, and what is not verified.
        labels: Every value that ``label`` may take; None for an open vocabulary.
        scores: Lowest and highest ``score``; None if there is none.
        counts: The published counts, with the keys of `tally_of`, for this request.
        disjoint: Kinds of groups that no two splits may share.
        folds: Number of folds that ``--fold`` chooses from; 0 if the data set has splits of its own.
        rules: Conflict rules that its unimodal labels allow; the first one is the default if ``default_rule``.
        default_rule: Whether subsets follow the first rule when none is asked for.
        votes: Whether ``--min-agreement`` applies.
        languages: Whether ``--language`` applies.
        emotions: Whether ``--emotions`` applies.
        verified: False for adapters to a layout that was described but never seen.
    """

    name: str
    title: str
    licence: str
    layout: str
    read: Callable[[Request], Reading]
    evidence: str
    labels: tuple[str, ...] | None = None
    scores: tuple[float, float] | None = None
    counts: Callable[[Request], Mapping[str, int]] = no_counts
    disjoint: tuple[str, ...] = ()
    folds: int = 0
    rules: tuple[str, ...] = ()
    default_rule: bool = False
    votes: bool = False
    languages: bool = False
    emotions: bool = False
    verified: bool = True

    def import_from(self, request: Request) -> Reading:
        """Checks the request against what this source offers, and reads.

        Raises:
            ValueError: An option does not apply to this source, or the directory is not as expected.
        """
        self._check(request)
        reading = self.read(request)
        if not reading.rows:
            dropped = "; ".join(f"{len(ids)} {reason}" for reason, ids in reading.dropped.items()) or "none"
            raise LayoutError(f"{self.name}: no clip is left of {request.root} (left out: {dropped})")
        return reading

    def _check(self, request: Request) -> None:
        if not request.root.is_dir():
            raise LayoutError(f"--root {request.root} is not a directory; expected:\n{self.layout}")
        if request.fold is not None and not 1 <= request.fold <= self.folds:
            has = f"has folds 1 to {self.folds}" if self.folds else "has no folds: its splits are published"
            raise ValueError(f"--fold {request.fold}: {self.name} {has}")
        if request.rule is not None and request.rule not in self.rules:
            has = f"its rules are {', '.join(self.rules)}" if self.rules else "it has no unimodal labels"
            raise ValueError(f"--rule {request.rule}: {self.name} cannot be grouped so; {has}")
        if request.min_agreement and not self.votes:
            raise ValueError(f"--min-agreement {request.min_agreement}: {self.name} publishes no votes")
        if not 0 <= request.min_agreement <= 1:
            raise ValueError(f"--min-agreement is a share of votes in 0..1, got {request.min_agreement}")
        if request.language != "original" and not self.languages:
            raise ValueError(f"--language {request.language}: {self.name} has one transcript only")
        if request.emotions and not self.emotions:
            raise ValueError(f"--emotions: {self.name} has no emotions beside its label")


def tally_of(rows: Sequence[Row]) -> Counter[str]:
    """Counts clips: ``clips``, ``split NAME``, ``label NAME``, ``subset NAME``, and ``split NAME label NAME``."""
    counts: Counter[str] = Counter()
    for row in rows:
        clip = row.clip
        counts.update(("clips", f"split {clip.split}", f"label {clip.label}", f"subset {clip.subset}"))
        counts.update((f"split {clip.split} label {clip.label}", f"split {clip.split} subset {clip.subset}"))
    return counts


def split_of_fold(member: int, fold: int | None, folds: int) -> str:
    """The split of fold ``member`` (from 1) when ``fold`` is tested: the next one validates, the others train.

    Without a test fold every clip is a test clip: the whole set is a zero-shot benchmark.
    """
    if fold is None or member == fold:
        return "test"
    return "val" if member == fold % folds + 1 else "train"
