"""The pickles of DialogueRNN and what came after it: IEMOCAP and MELD by dialogue.

A tuple of dicts from dialogue to a list over its turns, and the dialogues of training and test::

    IEMOCAP_features.pkl, 9:     ids speakers labels text audio video sentences train test
    MELD_features_raw1.pkl, 9:   ids speakers labels text audio sentences train test sentiment
    MELD with video, 10:         ids speakers labels text audio video sentences train test sentiment

The two of 9 differ in what stands last: the test dialogues, or a dict. IEMOCAP's was written by Python 2. There is no
validation set: a share of the training dialogues becomes one, whole dialogues, chosen by a hash of their names.
Speakers are ``M`` and ``F`` of a session in IEMOCAP, one-hot lists within a dialogue in MELD; both are told apart by
dialogue here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mosear.data.sources.tables import repaired
from mosear.data.unpickling import read_pickle
from mosear.features.items import Item, Reading
from mosear.features.layouts.base import Layout, LayoutError, held_out

_FORMS = {
    "iemocap": ("ids", "speakers", "labels", "text", "audio", "video", "sentences", "train", "test"),
    "meld": ("ids", "speakers", "labels", "text", "audio", "sentences", "train", "test", "sentiment"),
    "meld_video": ("ids", "speakers", "labels", "text", "audio", "video", "sentences", "train", "test", "sentiment"),
}
_MODALITIES = ("text", "audio", "video")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--form", choices=("auto", *_FORMS), default="auto", help="what the tuple's parts are")
    parser.add_argument(
        "--validation", type=float, default=0.1, metavar="SHARE", help="of the training dialogues (default: 0.1)"
    )
    parser.add_argument("--sentiment", action="store_true", help="MELD: labels are the three sentiments")
    parser.add_argument("--context", type=int, default=0, metavar="N", help="utterances before that clips list")
    parser.add_argument("--encoding", default="latin1", help="of text that Python 2 wrote (default: latin1)")


def _read(source: Path, options: argparse.Namespace) -> Reading:
    parts = _parts(source, options)
    train, test = (sorted(map(str, parts[name])) for name in ("train", "test"))
    if both := sorted(set(train) & set(test)):
        raise LayoutError(f"{source}: {len(both)} dialogues are in training and in test, e.g. {both[0]}")
    validation = held_out(train, options.validation)
    splits = {"train": [d for d in train if d not in validation], "val": sorted(validation), "test": test}
    kind = "sentiment" if options.sentiment else "labels"
    if kind not in parts:
        raise LayoutError("--sentiment: IEMOCAP's file has no sentiment")
    dialogues = {str(name): name for name in parts["labels"]}
    if unknown := [name for names in splits.values() for name in names if name not in dialogues]:
        raise LayoutError(f"{source}: {len(unknown)} dialogues have no labels, e.g. {unknown[0]}")
    items = {
        split: _Items([dialogues[name] for name in names], parts, parts[kind], options.context)
        for split, names in splits.items()
    }
    counts = {split: sum(len(parts["labels"][d]) for d in found.names) for split, found in items.items()}
    told = ", ".join(f"{split} {len(names):,}" for split, names in splits.items())
    note = f"dialogues: {told}; validation is a share of the training dialogues, chosen by a hash of their names"
    return Reading(dict(items), counts, [source], [note], own_validation=True)


def _parts(source: Path, options: argparse.Namespace) -> dict[str, Any]:
    if source.is_dir():
        raise LayoutError(f"--source {source} is a directory; name the pickle")
    found = read_pickle(source, options.encoding)
    if not isinstance(found, tuple | list) or len(found) not in (9, 10):
        size = f" of {len(found)}" if isinstance(found, tuple | list | dict) else ""
        raise LayoutError(f"{source}: expected a tuple of 9 or 10, found {type(found).__name__}{size}")
    form = options.form
    if form == "auto":
        form = "meld_video" if len(found) == 10 else "meld" if isinstance(found[8], Mapping) else "iemocap"
    if len(_FORMS[form]) != len(found):
        raise LayoutError(f"--form {form} has {len(_FORMS[form])} parts, {source} has {len(found)}")
    parts = dict(zip(_FORMS[form], found, strict=True))
    for name, part in parts.items():
        wanted: tuple[type, ...] = (list, tuple, set, np.ndarray) if name in ("train", "test") else (Mapping,)
        if not isinstance(part, wanted):
            kinds = "dialogues" if name in ("train", "test") else "a dict by dialogue"
            raise LayoutError(f"{source}: part {name} of {form} is no list of {kinds}; see --form")
    return parts


class _Items:
    def __init__(
        self, names: Sequence[Any], parts: Mapping[str, Any], labels: Mapping[Any, Sequence[int]], context: int
    ) -> None:
        self.names, self.parts, self.labels, self.context = names, parts, labels, context

    def __iter__(self) -> Iterator[Item]:
        for dialogue in self.names:
            turns = len(self.parts["labels"][dialogue])
            held = {name: self._turns(name, dialogue, turns) for name in _MODALITIES if name in self.parts}
            speakers = self._turns("speakers", dialogue, turns)
            labels = self._turns("labels", dialogue, turns, self.labels)
            texts = [repaired(str(text)) for text in self._turns("sentences", dialogue, turns)]
            for turn in range(turns):
                yield Item(
                    id=f"{dialogue}/{turn:03d}",
                    features={name: np.asarray(values[turn]) for name, values in held.items()},
                    text=texts[turn],
                    label=int(labels[turn]),
                    speaker=f"{dialogue}/{_speaker(speakers[turn])}",
                    context=tuple(texts[max(0, turn - self.context) : turn]),
                )

    def _turns(self, name: str, dialogue: Any, turns: int, part: Mapping[Any, Any] | None = None) -> Sequence[Any]:
        found = (self.parts[name] if part is None else part).get(dialogue)
        if found is None or len(found) != turns:
            held = "nothing" if found is None else f"{len(found)} turns"
            raise LayoutError(f"dialogue {dialogue} has {turns} labels, but {held} under {name}")
        turns_found: Sequence[Any] = found
        return turns_found


def _speaker(value: Any) -> str:
    """``M``, or the place of the one in a one-hot list."""
    return value if isinstance(value, str) else str(int(np.argmax(np.asarray(value))))


LAYOUT = Layout(
    name="dialogue_rnn",
    title="DialogueRNN and its successors: IEMOCAP or MELD by dialogue, one vector per utterance",
    tree="""--source IEMOCAP_features.pkl or MELD_features_raw1.pkl: a tuple of dicts {dialogue: [one value per turn]}
  ids, speakers, labels, text, audio, video (IEMOCAP), sentences, train dialogues, test dialogues, sentiment (MELD)
--labels  IEMOCAP: hap,sad,neu,ang,exc,fru   MELD: neutral,surprise,fear,sadness,joy,disgust,anger""",
    evidence="The order of the parts and of the labels is that of several public loaders.",
    read=_read,
    add_arguments=_add_arguments,
)
