"""Control baselines that fuse unimodal readings, without any training or steering.

A reading is the label distribution that the model gives when it sees one modality alone, ``[N, C]``; a row of NaN
says that the clip has no such modality (or that nothing was read). Every adapter and every steering policy has to
beat these controls or be cheaper than them: they cost two or three extra passes and know nothing about conflicts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

UNPARSED = -1
_SUM_TOLERANCE = 1e-3


def _as_reading(name: str, values: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Checks ``[N, C]`` distributions and returns them with the mask ``[N]`` of rows that are present."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"{name} must be [N, C] label distributions, got shape {array.shape}.")
    missing = np.isnan(array)
    present: npt.NDArray[np.bool_] = ~np.asarray(missing.all(axis=1))
    rows = array[present]
    bad = missing[present].any(axis=1) | (rows < 0).any(axis=1) | (np.abs(rows.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if bad.any():
        row = int(np.flatnonzero(present)[np.flatnonzero(bad)[0]])
        raise ValueError(
            f"{name}[{row}] = {array[row].tolist()} is no distribution: give probabilities that sum to 1, "
            "or a row of NaN where the modality is absent."
        )
    return array, present


def _same_shape(**readings: FloatArray) -> None:
    if len({array.shape for array in readings.values()}) > 1:
        shapes = {name: array.shape for name, array in readings.items()}
        raise ValueError(f"the readings must cover the same clips and labels, got shapes {shapes}.")


def late_fusion(p_visual: npt.ArrayLike, p_audio: npt.ArrayLike) -> IntArray:
    """Answers with the more confident of the two unimodal readings.

    ::

        y = argmax p_v   if max p_v >= max p_a   else   argmax p_a

    An absent modality never wins; a clip without both gets -1 (unparsed). An exact tie goes to the visual reading.

    Args:
        p_visual: ``[N, C]`` distributions read from the face alone, NaN rows where absent.
        p_audio: ``[N, C]`` distributions read from the voice alone, NaN rows where absent.

    Returns:
        ``[N]`` label indices, -1 where there is no reading.
    """
    visual, has_visual = _as_reading("p_visual", p_visual)
    audio, has_audio = _as_reading("p_audio", p_audio)
    _same_shape(p_visual=visual, p_audio=audio)
    visual, audio = np.nan_to_num(visual, nan=-1.0), np.nan_to_num(audio, nan=-1.0)
    answer = np.where(visual.max(axis=1) >= audio.max(axis=1), visual.argmax(axis=1), audio.argmax(axis=1))
    return np.where(has_visual | has_audio, answer, UNPARSED).astype(np.int64)


def late_fusion_with_transcript(
    p_visual: npt.ArrayLike, p_audio: npt.ArrayLike, p_text: npt.ArrayLike, *, margin: float = 0.05
) -> IntArray:
    """Late fusion in which the transcript arbitrates between a face and a voice that disagree.

    With ``i = argmax p_v``, ``j = argmax p_a`` and ``d = p_t[i] - p_t[j]``::

        y = i                           if i != j, the text is there, and d >  margin
        y = j                           if i != j, the text is there, and d < -margin
        y = late_fusion(p_v, p_a)       otherwise
        y = argmax p_t                  if face and voice are both absent (-1 without text, too)

    Args:
        p_visual: ``[N, C]``, NaN rows where absent.
        p_audio: ``[N, C]``, NaN rows where absent.
        p_text: ``[N, C]`` distributions read from the transcript alone, NaN rows where there is none.
        margin: probability difference up to which the text counts as undecided and confidence decides.

    Returns:
        ``[N]`` label indices, -1 where there is no reading at all.
    """
    visual, has_visual = _as_reading("p_visual", p_visual)
    audio, has_audio = _as_reading("p_audio", p_audio)
    text, has_text = _as_reading("p_text", p_text)
    _same_shape(p_visual=visual, p_audio=audio, p_text=text)
    answer = late_fusion(visual, audio)
    if not len(answer):
        return answer
    rows = np.arange(len(answer))
    # argmax of an all-NaN row is 0: harmless, because such rows are masked out of `arbitrated` below.
    seen, heard, said = visual.argmax(axis=1), audio.argmax(axis=1), text.argmax(axis=1)
    difference = np.nan_to_num(text[rows, seen] - text[rows, heard])
    arbitrated = has_visual & has_audio & has_text & (seen != heard) & (np.abs(difference) > margin)
    answer = np.where(arbitrated, np.where(difference > 0, seen, heard), answer)
    return np.where(~has_visual & ~has_audio & has_text, said, answer).astype(np.int64)
