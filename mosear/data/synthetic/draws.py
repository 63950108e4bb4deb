"""What the plans of several flavours draw alike: kinds in turn, speakers, transcripts that hint at an emotion."""

from collections.abc import Sequence

import numpy as np

from mosear.data.synthetic.emotions import EMOTIONS
from mosear.data.synthetic.plans import CONSISTENT_TEXT, SPEAKERS, Group, _speaks_for, _transcript
from mosear.data.synthetic.speakers import Speaker, make_speaker


def in_turn(kinds: Sequence[str], index: int) -> tuple[str, int]:
    """Kind of clip number `index` of a group in which kinds come in turn, and which of its kind it is."""
    turn, position = divmod(index, len(kinds))
    kind = kinds[position]
    return kind, turn * kinds.count(kind) + kinds[:position].count(kind)


def draw_speaker(seed: int, group: Group, rng: np.random.Generator) -> Speaker:
    """One of the speakers of the group's split."""
    return make_speaker(group.split, int(rng.integers(SPEAKERS[group.split])), seed)


def draw_hint(emotions: Sequence[str], split: str, rng: np.random.Generator) -> tuple[str | None, str | None]:
    """A transcript that fits one of a clip's emotions and one that the clip does not show, an idle one, or none.

    Returns:
        Transcript or None, and the emotion that it hints at or None.
    """
    hinted = emotions[int(rng.integers(len(emotions)))]
    others = [emotion for emotion in EMOTIONS if emotion not in emotions]
    text = _transcript((hinted, others[int(rng.integers(len(others)))]), CONSISTENT_TEXT, split, rng)
    return text, hinted if text is not None and _speaks_for(text, hinted) else None
