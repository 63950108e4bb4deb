"""What a caller may put into the report besides the scores."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mosear.evaluation.predictions import PredictionRow

_IMAGE_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True, kw_only=True)
class ClipMedia:
    """A clip's media as the model had them.

    Attributes:
        video: the video as a data URI, or None.
        audio: sound of its own as a data URI, or None.
        muted: whether the model was not given the sound of the video's file.
        notes: what is not in the page and why, each with a link to the file or None.
    """

    video: str | None = None
    audio: str | None = None
    muted: bool = False
    notes: Sequence[tuple[str, str | None]] = ()

    def __post_init__(self) -> None:
        for uri in (self.video, self.audio):
            if uri is not None and not uri.startswith(("data:video/", "data:audio/")):
                raise ValueError(f"media in a page are data URIs of video or audio, got {uri[:40]!r}.")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One clip to show.

    Attributes:
        id: clip id.
        subset: test subset of the clip.
        label: true label.
        image: PNG or JPEG bytes, for example a strip of frames; None where there is no video.
        media: what can be played, or None.
        text: transcript, or None.
        predictions: ``{system: predicted label or None}``, the systems named as in ``summaries``.
        written: ``{system: the answer as it was generated}``, of systems that write answers.
        distributions: ``{system: [C] probabilities or None}``.
        readings: ``{"visual" | "audio" | "text": [C] probabilities or None}`` of the unimodal passes.
        rows: ``{system: row}``, from which sets, scores and series are shown.
    """

    id: str
    subset: str
    label: str
    image: bytes | None = None
    media: ClipMedia | None = None
    text: str | None = None
    predictions: Mapping[str, str | None] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)
    distributions: Mapping[str, Sequence[float] | None] = field(default_factory=dict)
    readings: Mapping[str, Sequence[float] | None] = field(default_factory=dict)
    rows: Mapping[str, PredictionRow] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, rows: Mapping[str, PredictionRow], image: bytes | None = None) -> Example:
        """The example for one clip's rows ``{system: row}``; readings are those of the last row that has any."""
        if len({row.id for row in rows.values()}) != 1:
            raise ValueError(f"an example is one clip, got rows of {sorted({row.id for row in rows.values()})}.")
        first = next(iter(rows.values()))
        readings: dict[str, Sequence[float] | None] = {}
        for row in rows.values():
            found = {"visual": row.p_visual, "audio": row.p_audio, "text": row.p_text}
            readings = found if any(values is not None for values in found.values()) else readings
        return cls(
            id=first.id,
            subset=first.subset,
            label=first.label,
            image=image,
            text=first.text,
            predictions={name: row.prediction for name, row in rows.items()},
            written={name: row.answer_text for name, row in rows.items() if row.answer_text is not None},
            distributions={name: row.distribution for name, row in rows.items()},
            readings=readings,
            rows=dict(rows),
        )

    def image_uri(self) -> str | None:
        """The image as a data URI, so that the report stays one file; None without an image."""
        if self.image is None:
            return None
        for magic, kind in _IMAGE_TYPES.items():
            if self.image.startswith(magic):
                return f"data:{kind};base64,{base64.b64encode(self.image).decode()}"
        raise ValueError(f"the image of example {self.id!r} is neither PNG nor JPEG (starts with {self.image[:8]!r}).")


@dataclass(frozen=True)
class Table:
    """A table for loggers that show tables.

    Attributes:
        name: where it stands, such as ``gate/test``.
        columns: headings.
        rows: numbers and short texts.
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """An extra chart, such as a loss curve.

    Attributes:
        title: heading.
        series: ``{name: [(x, y), ...]}``.
        x_label: what x is.
        caption: one sentence on how to read it.
    """

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    x_label: str = "step"
    caption: str = ""
