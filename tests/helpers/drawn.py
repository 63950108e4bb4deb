"""What the renderer of the synthetic corpus really draws and speaks."""

from __future__ import annotations

import pytest

from mosear.data.synthetic import faces, voices


def drawn_parameters(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    """Parameters of the clip that is rendered last, as ``face`` and ``voice``; filled as clips are rendered."""
    drawn: dict[str, dict[str, float]] = {}
    for kind, module, name in (("face", faces, "_draw_pose"), ("voice", voices, "_pitch_contour")):
        original = getattr(module, name)

        def spy(parameters, *rest, original=original, kind=kind):
            drawn[kind] = dict(parameters)
            return original(parameters, *rest)

        monkeypatch.setattr(module, name, spy)
    return drawn
