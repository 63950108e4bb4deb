"""The synthetic emotion corpus: rendered faces, voices and transcripts, written as real mp4 files.

    python -m mosear.data.synthetic --root data/synthetic

Importing the package needs numpy only; PyAV, pyarrow and rich are loaded when files are written.
"""

from mosear.data.synthetic.clips import render_clip_arrays
from mosear.data.synthetic.corpus import ensure_corpus
from mosear.data.synthetic.emotions import EMOTIONS
from mosear.data.synthetic.faces import render_face
from mosear.data.synthetic.mp4 import write_clip
from mosear.data.synthetic.speakers import Speaker, make_speaker
from mosear.data.synthetic.voices import render_voice

__all__ = [
    "EMOTIONS",
    "Speaker",
    "ensure_corpus",
    "make_speaker",
    "render_clip_arrays",
    "render_face",
    "render_voice",
    "write_clip",
]
