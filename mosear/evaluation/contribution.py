"""Modality contribution: how much of what a model answers is owed to video, to audio and to the transcript.

Every clip is a game of three players. ``v(S)`` is the worth of the answer when the model may see the modalities ``S``
only (the question always stays), and the Shapley value of a modality is its mean gain over all orders of joining::

    phi_m = sum over S without m of  |S|! (2 - |S|)! / 3!  (v(S + m) - v(S))
    phi_visual + phi_audio + phi_text = v(all) - v(none)

It is exact, since there are only eight ``S``. Two worths are taken: ``accuracy`` (1 if the right label comes first,
else 0) and ``log_prob``, the log-probability of the right label among the candidates, in nats. (Among the candidates: a
modality shall earn no credit for making the model name any label at all.) A modality that a clip lacks gains nothing in
any order, so its value is 0, and those of the others are what they would be in the game without it.

**Share**, over the clips of a subset that carry video and something beside it::

    share_m = mean |phi_m| / sum over k of mean |phi_k|

Video Contribution Collapse (Sun et al., 2026, arXiv:2605.01024: video evidence is marginalised) is published without a
formula at hand; this is our reading. Sizes count, because collapse means that video does not matter, not that it
misleads. Shares of the positive values would call a model healthy whose voice overrules the face (voice negative, face
barely positive: 100 % video), and call one collapsed that follows a face which happens to be wrong. Sizes are taken
clip by clip, because subset means cancel where video helps on one half of the clips and misleads on the other.

**Collapse**: the 95 % bootstrap interval of video's share decides. ``collapsed`` if it lies below the threshold,
``not_collapsed`` if none of it does, else ``undecided``. Fewer than ``FEWEST_CLIPS`` clips decide nothing: a percentile
interval over so few is too narrow to be believed. Where nothing moves the answer there is no share (NaN, undecided).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Gt, Lt

from mosear.evaluation.bootstrap import Interval, Statistic, bootstrap_interval
from mosear.roles import SHOWN
from mosear.settings import AtLeastOne, settings

if TYPE_CHECKING:
    from rich.table import Table

    from mosear.data.clip import Clip

FloatArray = npt.NDArray[np.float64]

COMBINATIONS: tuple[tuple[str, ...], ...] = tuple(
    tuple(modality for bit, modality in enumerate(SHOWN) if index >> bit & 1) for index in range(2 ** len(SHOWN))
)
"""The sets of visible modalities: bit m of an index says whether ``SHOWN[m]`` is in; none first, all last."""
WORTHS = ("accuracy", "log_prob")
COLLAPSED, NOT_COLLAPSED, UNDECIDED = "collapsed", "not_collapsed", "undecided"
FEWEST_CLIPS = 20
NOTHING = 1e-4  # mean |phi| over the modalities, summed; passes in float32 differ by less


@settings
@dataclass(frozen=True)
class Contribution:
    """Settings of the contribution measurement.

    Attributes:
        enabled: measure. Eight more passes for every measured clip.
        collapse_threshold: share of video, in (0, 1), under which its contribution counts as collapsed. The default is
            half of what each of three equal modalities would have.
        max_clips_per_subset: measure at most so many clips of each subset; ``None`` = all. Which ones depends on their
            ids alone, so that two evaluations (say, with and without steering) measure the same clips.
    """

    enabled: bool = False
    collapse_threshold: Annotated[float, Gt(0), Lt(1)] = 0.167
    max_clips_per_subset: Annotated[
        AtLeastOne | None, "null measures all clips, and contribution.enabled=false none"
    ] = 500

    def chosen(self, clips: Iterable[Clip]) -> frozenset[str]:
        """Ids of the clips to measure: per subset those whose hashed ids come first; none if not enabled."""
        if not self.enabled:
            return frozenset()
        subsets: dict[str, list[str]] = {}
        for clip in clips:
            subsets.setdefault(clip.subset, []).append(clip.id)
        chosen: list[str] = []
        for ids in subsets.values():
            chosen += sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())[: self.max_clips_per_subset]
        return frozenset(chosen)


@dataclass(frozen=True, kw_only=True)
class ClipValues:
    """The game of one clip.

    Attributes:
        id: clip id.
        subset: test subset.
        present: modalities that the clip carries.
        accuracy: ``[8]`` 1 or 0 for each of ``COMBINATIONS``.
        log_prob: ``[8]`` log-probability of the right label among the candidates.
    """

    id: str
    subset: str
    present: tuple[str, ...]
    accuracy: tuple[float, ...]
    log_prob: tuple[float, ...]


_WITHOUT = np.array([[i for i in range(len(COMBINATIONS)) if not i >> bit & 1] for bit in range(len(SHOWN))])
_WITH = _WITHOUT | 1 << np.arange(len(SHOWN))[:, None]
_WEIGHTS = np.array([1 / 3, 1 / 6, 1 / 6, 1 / 3])  # |S|! (2 - |S|)! / 3! for none, one, one, two others


def shapley_values(values: npt.ArrayLike) -> FloatArray:
    """Shapley values ``[..., 3]`` (in the order of ``SHOWN``) of games ``[..., 8]`` (of ``COMBINATIONS``)."""
    games = np.asarray(values, dtype=np.float64)
    if games.ndim < 1 or games.shape[-1] != len(COMBINATIONS):
        raise ValueError(f"a game has {len(COMBINATIONS)} values, one per combination; got shape {games.shape}.")
    gains = games[..., _WITH] - games[..., _WITHOUT]  # [..., 3, 4], so a modality that gains nothing gets 0 exactly
    phi: FloatArray = gains @ _WEIGHTS
    return phi


def share_interval(phi: npt.ArrayLike, modality: str = "visual", *, seed: int = 0, n_boot: int = 2000) -> Interval:
    """Share of one modality with its interval over clips.

    Args:
        phi: ``[N, 3]`` Shapley values.
        modality: one of ``SHOWN``.
        seed: of the resampling.
        n_boot: number of replicates.

    Returns:
        The share. A replicate in which nothing moves could have any share: it counts as 0 for the lower bound and as 1
        for the upper one. The mean is NaN where that holds for the clips as they are.
    """
    sizes = np.abs(np.asarray(phi, dtype=np.float64)).T
    column = [SHOWN.index(modality)]

    def share(undefined: float) -> Statistic:
        # The modalities stand where the bootstrap expects seeds, so that all of them see the same drawn clips. The
        # statistic makes one column of the three, which leaves nothing to the draw of seeds (its weights add up to 1).
        def statistic(means: Mapping[str, FloatArray]) -> FloatArray:
            (size,) = means.values()
            total = size.sum(-1, keepdims=True)
            return np.divide(size[..., column], total, out=np.full_like(total, undefined), where=total > NOTHING)

        return statistic

    low = bootstrap_interval(sizes, share(0.0), seed=seed, n_boot=n_boot).low
    high = bootstrap_interval(sizes, share(1.0), seed=seed, n_boot=n_boot).high
    point = share(math.nan)({"": sizes.mean(axis=1)})
    return Interval(float(point[0]), low, high)


def collapse_verdict(share: Interval, threshold: float, clips: int) -> str:
    """``collapsed``, ``not_collapsed`` or ``undecided``, from the interval of video's share over so many clips."""
    if clips < FEWEST_CLIPS or not math.isfinite(share.mean):
        return UNDECIDED
    if share.high < threshold:
        return COLLAPSED
    return NOT_COLLAPSED if share.low >= threshold else UNDECIDED


def summarise_contribution(
    clips: Sequence[ClipValues], *, threshold: float, seed: int = 0, n_boot: int = 2000
) -> dict[str, Any]:
    """What ``metrics.json`` says under ``contribution``.

    Returns:
        ``collapse_threshold`` and ``subsets``: ``{subset: {"n": measured clips, "accuracy": scores, "log_prob":
        scores}}`` with the scores of :func:`_scores`.
    """
    subsets: dict[str, list[ClipValues]] = {}
    for clip in clips:
        subsets.setdefault(clip.subset, []).append(clip)
    return {
        "collapse_threshold": threshold,
        "subsets": {
            name: {"n": len(own)} | {worth: _scores(own, worth, threshold, seed, n_boot) for worth in WORTHS}
            for name, own in subsets.items()
        },
    }


def _scores(clips: Sequence[ClipValues], worth: str, threshold: float, seed: int, n_boot: int) -> dict[str, Any]:
    """One worth on one subset.

    Returns:
        ``none`` and ``all``: mean worth with nothing and with everything visible; ``shapley``: ``{modality: mean
        value}``, which add up to their difference; ``interval``: ``{modality: [low, high]}``; ``shares``: ``{modality:
        share}``; and about video ``share_interval`` and ``verdict``, None where no clip carries video beside something
        else.
    """
    games = np.array([getattr(clip, worth) for clip in clips], dtype=np.float64)
    phi = shapley_values(games)
    intervals = [bootstrap_interval(column, seed=seed, n_boot=n_boot) for column in phi.T]
    rivals = np.array(["visual" in clip.present and len(clip.present) > 1 for clip in clips])
    compared = phi[rivals] if rivals.any() else phi
    sizes = np.abs(compared).mean(axis=0)
    total = sizes.sum()
    video = share_interval(compared, seed=seed, n_boot=n_boot) if rivals.any() else None
    return {
        "none": float(games[:, 0].mean()),
        "all": float(games[:, -1].mean()),
        "shapley": {name: interval.mean for name, interval in zip(SHOWN, intervals, strict=True)},
        "interval": {name: [interval.low, interval.high] for name, interval in zip(SHOWN, intervals, strict=True)},
        "shares": {
            name: float(size / total) if total > NOTHING else math.nan for name, size in zip(SHOWN, sizes, strict=True)
        },
        "share_interval": [video.low, video.high] if video else None,
        "verdict": collapse_verdict(video, threshold, len(compared)) if video else None,
    }


def contribution_table(summary: Mapping[str, Any]) -> Table:
    """Per subset: the mean Shapley values of the log-probability, and what follows for video, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    threshold = f"{100 * summary['collapse_threshold']:.1f} %"
    table = Table(title=f"Contribution to the right label's log-probability; video collapsed below {threshold}")
    table.add_column("subset")
    for heading in ("n", "video", "audio", "text", "video's share (95 %)", "verdict"):
        table.add_column(heading, justify="right")
    for name, subset in summary["subsets"].items():
        scores = subset["log_prob"]
        values = [f"{scores['shapley'][modality]:+.2f}" for modality in SHOWN]
        share, verdict = "", "no video"
        if (bounds := scores["share_interval"]) is not None:
            low, high = (100 * bound for bound in bounds)
            point = 100 * scores["shares"]["visual"]
            share = f"{point:.1f} [{low:.1f}, {high:.1f}]" if math.isfinite(point) else "nothing moves the answer"
            verdict = scores["verdict"].replace("_", " ")
        # Text, not str: rich would read markup such as [red] in a subset name.
        table.add_row(*map(Text, [name.replace("_", " "), str(subset["n"]), *values, share, verdict]))
    return table
