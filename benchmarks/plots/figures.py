"""Which table becomes which picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plots.drawing import Panel, Row, chart, scale_of
from benchmarks.plots.lines import Lines
from benchmarks.plots.tables import Table, read, tables, value

_GROUP = re.compile(r"\*\*(.+?)\*\*[:,]? ?(.*)")
_SUBSETS = ("consistent", "video aligned", "audio aligned", "contextual")
_LONG_PROMPTS = "+experiment=mosear_7b data.batch_size=1 method=answer_tuning data.eval_batch_size=1 --tokens 8192"
_LARGEST = "+experiment=mosear_30b data.prepare=null data.budget.max_pixels=100352 data.max_pixels=100352"
_TUNED = "24 epochs at a learning rate of 2e-3"


@dataclass(frozen=True)
class Figure:
    """A picture of one table of a page.

    Attributes:
        name: of the file.
        title, note: over the chart.
        page: below ``docs/``.
        panels: columns that are drawn; the first table that has them, and those of ``find``, is meant.
        kinds: the panels' scale (see :func:`benchmarks.plots.drawing.scale_of`): one for all, or one each.
        titles: the panels' titles, where they are not the columns'.
        labels: how many leading columns name a row; of two, the first is a heading.
        bars: bars instead of points.
        keep: the rows that are drawn, and their names there; all if empty.
        find: further columns of the table.
    """

    name: str
    title: str
    note: str
    page: str
    panels: tuple[str, ...]
    kinds: tuple[str, ...] = ("share",)
    titles: tuple[str, ...] = ()
    labels: int = 1
    bars: bool = False
    keep: tuple[tuple[str, str], ...] = ()
    find: tuple[str, ...] = ()

    def draw(self, docs: Path, theme: str) -> str:
        """The picture as an SVG file."""
        table = read(docs / self.page, (*self.panels, *self.find))
        kept = dict(self.keep) or {name_of(row, self.labels): "" for row in table.rows}
        rows = [row for row in table.rows if name_of(row, self.labels) in kept]
        columns = [[value(row[table.columns.index(column)]) for row in rows] for column in self.panels]
        kinds = self.kinds * len(self.panels) if len(self.kinds) == 1 else self.kinds
        shared = scale_of(kinds[0], [number for column in columns for number in column])
        panels = [
            Panel(title, shared if len(self.kinds) == 1 else scale_of(kind, column), tuple(column))
            for title, kind, column in zip(self.titles or self.panels, kinds, columns, strict=True)
        ]
        named = list(rows_of(Table(table.columns, tuple(rows)), self.labels, kept))
        return chart(self.title, self.note, named, panels, bars=self.bars, theme=theme)


def name_of(row: tuple[str, ...], labels: int) -> str:
    """How the specification calls a row."""
    return ", ".join(cell for cell in row[:labels] if cell)


def colour(name: str) -> str:
    """A colour each for MoSE, LoRA, steering, controls and the bare model; of a difference, its first term's."""
    term = name.lower().split(" - ")[0]
    if any(word in term for word in ("balanced", "control", "late fusion")):
        return "control"
    if re.match(r"(chase|ar)\b", term) or (" + " in term and term.startswith("zero-shot")):
        return "s2"
    if any(word in term for word in ("zero-shot", "none", "backbones as they are", "llamafactory", "ms_swift")):
        return "s0"
    return "s3" if term.startswith("lora") else "s1"


def rows_of(table: Table, labels: int, names: dict[str, str]) -> Iterator[Row]:
    """Names, colours and headings."""
    before = ""
    for row in table.rows:
        heading, name = "", row[0]
        group = _GROUP.match(row[0])
        if labels > 1:
            heading, name = row[0], " · ".join(filter(None, row[1:labels]))
        elif group and group[2]:
            heading, name = group[1], group[2]
        shown = names.get(name_of(row, labels)) or name.replace("*", "")
        yield Row(shown, colour(name), heading if heading != before else "")
        before = heading or before


MAIN = Figure(
    "main-result",
    "Who decides: accuracy in per cent",
    f"Two backbones that follow the voice, 3000 clips per subset; tuned for {_TUNED}",
    "results.md",
    _SUBSETS,
    titles=("all agree", "the face decides", "the voice decides", "the words decide"),
    bars=True,
    keep=(
        ("the backbones as they are", "as they are"),
        ("MoSE + conflict mixing", "MoSE + conflict mixing"),
        ("CHASE, no training", "CHASE, no training"),
        ("the control without the bias", "control without the bias"),
    ),
)
"""The picture of the README."""

FIGURES: tuple[Figure | Lines, ...] = (
    MAIN,
    Figure(
        "reinforcement",
        "Tuning and reinforcement learning: accuracy in per cent",
        "LoRA on tiny-omni-reasons, 2,400 clips seen, three seeds, 300 clips per subset",
        "grpo.md",
        ("consistent", "conflict mean", "contextual", "ood"),
        bars=True,
    ),
    Figure(
        "rollouts",
        "Times faster than generate",
        "Groups of 8 completions, one thread",
        "grpo.md",
        ("raw: times faster", "encoded: times faster"),
        ("zero",),
        ("raw media", "from the cache"),
        labels=2,
        bars=True,
    ),
    Figure(
        "zoo",
        "Fusion models and omni models: accuracy in per cent",
        "Embedded corpus, three seeds, 300 clips per subset",
        "all-methods.md",
        ("consistent", "conflict mean", "contextual", "missing video", "missing audio"),
        bars=True,
    ),
    Figure(
        "blends-ideal",
        "Whole set right, in per cent",
        "What an ideal observer of blends could reach",
        "synthetic.md",
        ("ideal: both", "face", "voice"),
        titles=("both", "face alone", "voice alone"),
        bars=True,
    ),
    Lines(
        "compression",
        "What compression of visual tokens costs",
        "DeepMSI on the embedded corpus: accuracy in per cent over the share of tokens left",
        "tables/zoo-compression.md",
        "tokens left (share)",
        ("consistent", "video aligned", "audio aligned", "contextual"),
    ),
    Figure(
        "zoo-sets",
        "Sets of labels: overlap in per cent",
        "Embedded corpus of blends, three seeds, 300 clips per subset",
        "all-methods.md",
        ("single", "blend", "split over face and voice", "none: exactly right"),
        titles=("single", "blend", "face and voice differ", "none: exactly right"),
        bars=True,
    ),
    Figure(
        "peers",
        "mosear beside the better of two peers",
        "Ratios: CPU speed (higher is better), also with the feature cache, and peak memory (lower is better)",
        "peers.md",
        ("x speed", "x speed, cached", "x memory"),
        ("zero", "zero", "zero"),
        bars=True,
    ),
    Figure(
        "peers-systems",
        "Three trainers in six settings",
        "Speed in samples per CPU second, peak memory in MiB",
        "appendix/peers.md",
        ("samples per CPU second", "x faster peer", "peak MiB", "x smaller peer"),
        ("zero", "zero", "zero", "zero"),
        ("samples / CPU s", "x faster peer", "peak MiB", "x smaller peer"),
        labels=2,
        bars=True,
    ),
    Figure(
        "peers-losses",
        "How far losses are from mosear's",
        "Absolute difference of the first step, and the largest",
        "appendix/peers.md",
        ("first difference", "largest difference"),
        ("zero",),
        labels=2,
        bars=True,
    ),
    Figure(
        "peers-profile",
        "Where a training step of mosear goes",
        "Per cent of CPU time by part, each without the parts inside it",
        "appendix/peers.md",
        ("tiny", "tiny, camera", "mid"),
        ("share",),
        bars=True,
    ),
    Figure(
        "peers-operators",
        "The same step of mid by kind of operator",
        "Per cent of the profiler's time",
        "appendix/peers.md",
        (
            "products of frozen weights",
            "products of the adapter",
            "attention",
            "element by element, copies, Python",
        ),
        ("zero",),
        ("frozen weights", "adapter", "attention", "other"),
        bars=True,
    ),
    Figure(
        "conflict-mixing",
        "Tuning, by backbone",
        f"Accuracy in per cent, natural clips, {_TUNED}",
        "appendix/conflict-mixing.md",
        ("consistent", "video-aligned", "audio-aligned", "contextual", "conflict mean", "gap"),
    ),
    Figure(
        "arbiters",
        "What limits the conflict mean",
        "Accuracy in per cent of arbiters that see the unimodal predictions alone",
        "appendix/conflict-mixing.md",
        ("video-aligned", "audio-aligned", "conflict mean"),
        find=("",),
    ),
    Figure(
        "short-recipe",
        "The short recipe, by training clips",
        "Accuracy in per cent, 8 epochs; seeds in parentheses",
        "appendix/conflict-mixing.md",
        ("consistent", "video-aligned", "audio-aligned", "contextual", "conflict mean", "gap"),
        labels=2,
        find=("training clips",),
    ),
    Figure(
        "ablations",
        "One change of the short recipe per row",
        "Difference in points with 95 % intervals",
        "appendix/ablations.md",
        ("conflict mean", "gap", "contextual", "mean of four"),
        ("centre", "centre", "centre", "centre"),
    ),
    Figure(
        "steering",
        "Steering, by backbone, without training",
        "Accuracy in per cent",
        "appendix/steering.md",
        ("consistent", "video-aligned", "audio-aligned", "contextual", "conflict mean", "gap"),
        find=("mean of four",),
    ),
    Figure(
        "answering",
        "Time of generation beside label scoring",
        "Ratios with quartiles, by tokens written: above 1, scoring is faster",
        "appendix/answering.md",
        ("time, generate / score", "time, transformers / score"),
        ("zero",),
        ("our generation", "model.generate"),
    ),
    Figure(
        "cache-size",
        "Size of the feature cache",
        "GB per hour of video, in clips of 30 s and of 5 s",
        "appendix/feature-cache.md",
        ("an hour", "an hour in clips of 5 s"),
        ("zero",),
        ("clips of 30 s", "clips of 5 s"),
        labels=2,
        bars=True,
    ),
    Figure(
        "experts",
        "MoSE, and a loop over its experts, beside one LoRA of equal rank",
        "Ratios to LoRA; below 1 is faster, or smaller",
        "appendix/layers.md",
        ("MoSE time", "loop time", "MoSE saved", "loop saved", "MoSE peak", "loop peak"),
        ("zero", "zero", "zero", "zero", "zero", "zero"),
        labels=4,
    ),
    Figure(
        "steered-attention",
        "Steered attention beside SDPA",
        "Time as a ratio to the unsteered kernel with 95 % intervals",
        "appendix/layers.md",
        ("AR", "CHASE", "eager"),
        ("zero", "zero", "zero"),
        labels=4,
    ),
    Figure(
        "damaged-files",
        "What becomes of damaged files",
        "Of 1,000 files of each container; every other outcome is a fault",
        "appendix/damaged-files.md",
        ("decoded", "refused"),
        ("zero",),
        bars=True,
        find=("container",),
    ),
    Figure(
        "memory",
        "Memory per process in GiB, by trainer",
        "Estimates; those that spread, on 8 GPUs",
        "memory.md",
        ("gpu", "ddp", "zero2", "zero3", "zero3_offload", "activations"),
        ("zero",),
        bars=True,
        keep=(
            ("+experiment=mosear_7b backbone=qwen2_5_omni_3b", "3B"),
            ("+experiment=mosear_7b", "7B"),
            (_LONG_PROMPTS, "7B, prompts of 8192 tokens"),
            (
                "+experiment=mosear_30b data.prepare=null data.budget.max_pixels=100352 data.max_pixels=100352",
                "30B-A3B",
            ),
        ),
    ),
    Figure(
        "crema-d-conflict-labels",
        "Labels of CREMA-D-Conflict",
        "Clips per label in each subset",
        "crema-d-conflict.md",
        ("neutral", "happy", "disgust", "fear", "angry", "sad"),
        ("zero",),
        bars=True,
    ),
)


def of_tables(docs: Path) -> Iterator[Figure]:
    """Two pictures of each file of ``docs/tables``: its systems and their differences."""
    for path in sorted((docs / "tables").glob("*.md")):
        for table in tables(path.read_text(encoding="utf-8")):
            if table.columns[0] not in ("system", "difference"):
                continue
            differences = table.columns[0] == "difference"
            columns = table.columns[1 if differences else 2 :]
            title = f"{path.stem}: {'differences in points' if differences else 'accuracy in per cent'}"
            yield Figure(
                f"table-{path.stem}{'-differences' if differences else ''}",
                title,
                "With 95 % bootstrap intervals",
                f"tables/{path.name}",
                columns,
                ("centre",) if differences else ("share",),
                find=(table.columns[0],),
            )
