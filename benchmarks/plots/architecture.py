"""The diagram of the README: a frozen backbone with experts and a gate, and where steering acts."""

from __future__ import annotations

from benchmarks.plots.drawing import picture, text

_BOX = (168, 104)


def _box(x: float, y: float, css: str, title: str, lines: tuple[str, ...]) -> str:
    wide, high = _BOX
    drawn = f'<g class="{css}"><rect class="box" x="{x}" y="{y}" width="{wide}" height="{high}" rx="9"/></g>'
    drawn += text(x + wide / 2, y + 28, title, "head mid")
    return drawn + "".join(text(x + wide / 2, y + 50 + 18 * i, line, "muted mid") for i, line in enumerate(lines))


def _arrow(x: float, y: float, to_x: float, to_y: float, css: str = "") -> str:
    tip = f"M{to_x} {to_y}" + ("l-8 -4.5v9z" if to_y == y else "l-4.5 -8h9z")
    return f'<path class="arrow {css}" d="M{x} {y}L{to_x} {to_y}"/><path class="tip" d="{tip}"/>'


def architecture(theme: str) -> str:
    """Four boxes from clip to report; steering comes from above, tuning from below."""
    top, wide, apart = 116, _BOX[0], 44
    lefts = [24 + i * (wide + apart) for i in range(4)]
    middle = top + _BOX[1] / 2
    body = _box(lefts[0], top, "s0", "Clip", ("face, voice, words", "each token has a role"))
    body += _box(lefts[1], top, "s0", "Frozen backbone", ("Qwen2.5-Omni or", "Qwen3-Omni thinker"))
    body += _box(lefts[2], top, "s1", "Experts and gate", ("visual, non-visual, omni", "LoRA, mixed per prompt"))
    body += _box(lefts[3], top, "s0", "Label scores", ("probability per emotion,", "metrics, report"))
    for left in lefts[:3]:
        body += _arrow(left + wide, middle, left + wide + apart - 2, middle)
    between = (lefts[1] + lefts[2] + wide) / 2
    body += text(between, 32, "Steering at inference: AR, CHASE", "head mid")
    body += text(between, 51, "moves attention between face and voice, no training", "muted mid")
    below = top + _BOX[1]
    body += text(between, below + 66, "Conflict mixing in training", "head mid")
    body += text(between, below + 85, "recombined faces, voices and words tune the adapter alone", "muted mid")
    body += _arrow(lefts[1] + wide / 2, 62, lefts[1] + wide / 2, top - 3, "dashed")
    x = lefts[2] + wide / 2
    body += f'<path class="arrow dashed" d="M{x} {below + 50}V{below + 3}"/>'
    body += f'<path class="tip" d="M{x} {below + 2}l-4.5 8h9z"/>'
    label = (
        "From a clip through the frozen backbone with experts and gate to label scores; AR and CHASE act on attention"
    )
    return picture(body, lefts[3] + wide + 24, below + 106, label=label, theme=theme)
