"""Draws the contact sheets of the synthetic faces shown in the documentation.

python -m mosear.data.synthetic.contact_sheet --output docs/images/synthetic_faces.png
python -m mosear.data.synthetic.contact_sheet --ood --output docs/images/synthetic_ood_faces.png
python -m mosear.data.synthetic.contact_sheet --blends --output docs/images/synthetic_blends.png
python -m mosear.data.synthetic.contact_sheet --continuous --output docs/images/synthetic_continuous.png
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mosear.data.synthetic.blends import LABELS
from mosear.data.synthetic.clips import FPS, NUM_FRAMES
from mosear.data.synthetic.continuous import CONTINUOUS, plan_continuous, render_continuous
from mosear.data.synthetic.emotions import EMOTIONS
from mosear.data.synthetic.expressions import draw_parameters, render_face_along, weights_of
from mosear.data.synthetic.faces import FACE_CUES, render_face
from mosear.data.synthetic.ood import make_ood_speaker, render_ood_face
from mosear.data.synthetic.plans import clip_rngs
from mosear.data.synthetic.speakers import make_speaker

INTENSITIES = (0.25, 0.5, 0.75, 1.0)
SPEAKERS = (0, 1)
GAP = 4
LABEL_WIDTH = 76
HEADER_HEIGHT = 18
SHOWN_FRAME = 5


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows and columns.

    Attributes:
        rows: Names of the rows.
        columns: Names of the columns.
        faces: Picture uint8 [size, size, 3] by row and column; a place without one stays white.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    faces: dict[tuple[int, int], np.ndarray]

    def picture(self) -> np.ndarray:
        """RGB image, uint8 [height, width, 3], with white gaps and room for labels."""
        size = len(next(iter(self.faces.values())))
        step = size + GAP
        shape = (HEADER_HEIGHT + len(self.rows) * step, LABEL_WIDTH + len(self.columns) * step, 3)
        sheet = np.full(shape, 255, dtype=np.uint8)
        for (row, column), face in self.faces.items():
            top, left = HEADER_HEIGHT + row * step, LABEL_WIDTH + column * step
            sheet[top : top + size, left : left + size] = face
        return sheet


def contact_sheet(size: int = 112, seed: int = 0, ood: bool = False) -> Sheet:
    """Rows are emotions, columns are intensities 0.25 to 1 for two speakers.

    Args:
        size: Height and width of one face.
        seed: Seed of speakers and faces.
        ood: Whether to draw them as the subset `ood` does.
    """
    columns = [(speaker, intensity) for speaker in SPEAKERS for intensity in INTENSITIES]
    faces = {}
    for row, emotion in enumerate(EMOTIONS):
        for column, (index, intensity) in enumerate(columns):
            rng = np.random.default_rng([seed, row, column])
            if ood:
                frames = render_ood_face(
                    emotion, intensity, make_ood_speaker(index, seed), rng, *rng.spawn(1), size=size
                )
            else:
                frames = render_face(emotion, intensity, make_speaker("train", index, seed), rng, size=size)
            faces[row, column] = frames[SHOWN_FRAME]
    return Sheet(EMOTIONS, tuple(f"{intensity:.2f}" for _, intensity in columns), faces)


def blends_sheet(size: int = 112, seed: int = 0) -> Sheet:
    """Rows and columns are emotions: one alone on the diagonal, equal blends beside it."""
    speaker = make_speaker("train", SPEAKERS[0], seed)
    faces = {}
    for row, first in enumerate(LABELS):
        for column, second in enumerate(LABELS):
            rng = np.random.default_rng([seed, row, column])
            weights = weights_of(((first, 0.5), (second, 0.5)))[None]
            faces[row, column] = render_face_along(
                draw_parameters(FACE_CUES, weights, rng), speaker, rng, num_frames=NUM_FRAMES, size=size
            )[SHOWN_FRAME]
    return Sheet(LABELS, LABELS, faces)


def continuous_sheet(size: int = 112, seed: int = 0) -> Sheet:
    """Rows are moving clips, columns every second frame."""
    group = next(group for group in CONTINUOUS.groups if group.subset == "moving")
    rows: list[str] = []
    faces: dict[tuple[int, int], np.ndarray] = {}
    shown = range(0, NUM_FRAMES, 2)
    for row in range(6):
        plan = plan_continuous(seed, group, row)
        frames, _ = render_continuous(plan, clip_rngs(seed, group, row)[1], size)
        rows.append(f"{plan.course.start}\nto {plan.course.end}")
        faces |= {(row, column): frames[frame] for column, frame in enumerate(shown)}
    return Sheet(tuple(rows), tuple(f"{frame / FPS:.2f} s" for frame in shown), faces)


def write_sheet(path: Path, sheet: Sheet) -> None:
    """Draws the sheet with its labels and saves it as a PNG."""
    from PIL import Image, ImageDraw

    picture = sheet.picture()
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    step = (picture.shape[0] - HEADER_HEIGHT) // len(sheet.rows)
    size = step - GAP
    for row, name in enumerate(sheet.rows):
        draw.text((6, HEADER_HEIGHT + row * step + size // 2 - 6), name, fill=(40, 40, 40))
    for column, name in enumerate(sheet.columns):
        draw.text((LABEL_WIDTH + column * step + size // 2 - 10, 3), name, fill=(40, 40, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    # A palette: sensor noise compresses badly, and the documentation should stay light.
    image.quantize(192, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the contact sheet of the synthetic faces.")
    parser.add_argument("--output", type=Path, default=Path("docs/images/synthetic_faces.png"))
    parser.add_argument("--size", type=int, default=112, help="height and width of one face in pixels")
    parser.add_argument("--seed", type=int, default=0)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--ood", action="store_true", help="draw the faces of the test subset ood")
    kind.add_argument("--blends", action="store_true", help="draw blends of two emotions")
    kind.add_argument("--continuous", action="store_true", help="draw clips that move from one emotion to another")
    arguments = parser.parse_args()
    if arguments.blends or arguments.continuous:
        sheet = (blends_sheet if arguments.blends else continuous_sheet)(arguments.size, arguments.seed)
    else:
        sheet = contact_sheet(arguments.size, arguments.seed, arguments.ood)
    write_sheet(arguments.output, sheet)
    print(f"Wrote {arguments.output}")


if __name__ == "__main__":
    main()
