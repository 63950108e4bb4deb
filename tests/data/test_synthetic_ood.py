"""The test subset in another style: other speakers, pictures and sounds, and the expressions that the plan says."""

import numpy as np
import pytest

from mosear.data.synthetic import make_speaker
from mosear.data.synthetic.contact_sheet import contact_sheet
from mosear.data.synthetic.ood import OOD, SPEAKERS, make_ood_speaker, plan_ood_clip, render_ood_arrays
from mosear.data.synthetic.plans import SPEAKERS as OF_SPLIT
from mosear.data.synthetic.plans import clip_rngs
from mosear.data.synthetic.reasons import clip_cues, face_cues, voice_cues
from tests.helpers.drawn import drawn_parameters


def rendered(index: int, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    return render_ood_arrays(plan_ood_clip(0, index), clip_rngs(0, OOD, index)[1], size=size)


def test_clips_have_the_shapes_of_the_others_and_depend_on_seed_and_index_alone() -> None:
    frames, sound = rendered(3)
    assert frames.shape == (16, 48, 48, 3) and frames.dtype == np.uint8
    assert sound.shape == (32_000,) and sound.dtype == np.float32 and np.abs(sound).max() <= 1.0
    again, heard = rendered(3)
    assert np.array_equal(frames, again) and np.array_equal(sound, heard)


def test_clips_are_consistent_and_balanced() -> None:
    plans = [plan_ood_clip(0, index) for index in range(12)]
    for plan in plans:
        assert plan.face is not None and plan.voice is not None
        assert plan.face[0] == plan.voice[0] == plan.label and not plan.missing
        assert plan.group.subset == "ood" and plan.group.split == "test"
    assert len({plan.label for plan in plans}) == 6 and len({plan.id for plan in plans}) == 12


def test_speakers_lie_outside_the_range_of_the_others() -> None:
    others = [make_speaker(split, i, 0) for split, count in OF_SPLIT.items() for i in range(count)]
    own = [make_ood_speaker(index, 0) for index in range(SPEAKERS)]
    assert not {speaker.id for speaker in own} & {speaker.id for speaker in others}
    for name in ("pitch_hz", "face_width"):
        values = [getattr(speaker, name) for speaker in others]
        assert all(not min(values) <= getattr(speaker, name) <= max(values) for speaker in own)
    assert not {speaker.skin for speaker in own} & {speaker.skin for speaker in others}


def test_pictures_have_one_colour_on_paper() -> None:
    """Every pixel lies on the line between paper and pencil: two principal directions, of which one is noise."""
    frames, _ = rendered(1)
    pixels = frames.reshape(-1, 3).astype(np.float64)
    spread = np.linalg.svd(pixels - pixels.mean(0), compute_uv=False)
    assert spread[1] < 0.02 * spread[0]


def test_expressions_are_drawn_as_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = drawn_parameters(monkeypatch)
    for index in range(6):
        rendered(index, size=32)
        cues = clip_cues(0, plan_ood_clip(0, index), index)
        assert cues["video"] == face_cues(drawn["face"]) and cues["audio"] == voice_cues(drawn["voice"])


def test_the_contact_sheet_can_show_it() -> None:
    plain, ood = contact_sheet(size=32).picture(), contact_sheet(size=32, ood=True).picture()
    assert plain.shape == ood.shape and not np.array_equal(plain, ood)
