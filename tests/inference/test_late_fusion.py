import numpy as np
import pytest

from mosear.inference.late_fusion import late_fusion, late_fusion_with_transcript

NONE = [np.nan] * 3
SEEN_0, HEARD_1, SAID_1 = [0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.7, 0.1]


def distributions(seed: int, n: int = 200, absent: float = 0.2):
    rng = np.random.default_rng(seed)
    values = rng.dirichlet(np.ones(5) * 0.5, n)
    values[rng.random(n) < absent] = np.nan
    return values


def literal(visual, audio, text, margin):
    """Both controls, clip by clip, as the docstrings state them."""
    plain, arbitrated = [], []
    for v, a, t in zip(visual, audio, text, strict=True):
        no_v, no_a, no_t = (bool(np.isnan(x[0])) for x in (v, a, t))
        if no_v and no_a:
            plain.append(-1)
        elif no_v or no_a:
            plain.append(int(np.argmax(a if no_v else v)))
        else:
            plain.append(int(np.argmax(v if max(v) >= max(a) else a)))
        answer = plain[-1]
        if no_v and no_a and not no_t:
            answer = int(np.argmax(t))
        elif not (no_v or no_a or no_t):
            i, j = int(np.argmax(v)), int(np.argmax(a))
            if i != j and abs(t[i] - t[j]) > margin:
                answer = i if t[i] > t[j] else j
        arbitrated.append(answer)
    return plain, arbitrated


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_literal_rule(seed, margin):
    visual, audio, text = (distributions(10 * seed + i) for i in range(3))
    plain, arbitrated = literal(visual, audio, text, margin)
    assert late_fusion(visual, audio).tolist() == plain
    assert late_fusion_with_transcript(visual, audio, text, margin=margin).tolist() == arbitrated


@pytest.mark.parametrize(
    ("visual", "audio", "expected"),
    [(SEEN_0, HEARD_1, 0), (HEARD_1, SEEN_0, 0), (NONE, HEARD_1, 1), (SEEN_0, NONE, 0), (NONE, NONE, -1)],
)
def test_late_fusion(visual, audio, expected):
    assert late_fusion([visual], [audio]).tolist() == [expected]


@pytest.mark.parametrize(
    ("text", "margin", "expected"),
    [
        (SAID_1, 0.05, 1),  # the text sides with the voice, against confidence
        (SAID_1, 0.6, 0),  # undecided within the margin: confidence
        (NONE, 0.05, 0),  # no text: confidence
        ([0.1, 0.1, 0.8], 0.0, 0),  # the text's own favourite is no candidate
    ],
)
def test_the_transcript_arbitrates(text, margin, expected):
    assert late_fusion_with_transcript([SEEN_0], [HEARD_1], [text], margin=margin).tolist() == [expected]


def test_agreement_is_not_overruled_by_the_text():
    assert late_fusion_with_transcript([SEEN_0], [SEEN_0], [SAID_1]).tolist() == [0]


def test_no_clips():
    empty = np.empty((0, 3))
    assert late_fusion(empty, empty).shape == (0,)
    assert late_fusion_with_transcript(empty, empty, empty).shape == (0,)


@pytest.mark.parametrize(
    ("visual", "message"),
    [
        ([[0.5, 0.4, 0.4]], "sum to 1"),
        ([[1.5, -0.5, 0.0]], r"p_visual\[0\]"),
        ([[0.5, 0.5, np.nan]], "row of NaN"),
        ([0.5, 0.5], r"\[N, C\]"),
        ([[0.5, 0.5]], "same clips and labels"),
    ],
)
def test_user_errors(visual, message):
    with pytest.raises(ValueError, match=message):
        late_fusion(visual, [HEARD_1])
