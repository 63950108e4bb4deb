"""Draws the contact sheets of the synthetic faces shown in the documentation.

python -m mosear.data.synthetic.contact_sheet --output docs/images/synthetic_faces.png
python -m mosear.data.synthetic.contact_sheet --ood --output docs/images/synthetic_ood_faces.png
"""

import argparse
from pathlib import Path

import numpy as np

from mosear.data.synthetic.emotions import EMOTIONS
from mosear.data.synthetic.faces import render_face
from mosear.data.synthetic.ood import make_ood_speaker, render_ood_face
from mosear.data.synthetic.speakers import make_speaker

INTENSITIES = (0.25, 0.5, 0.75, 1.0)
SPEAKERS = (0, 1)
GAP = 4
LABEL_WIDTH = 76
HEADER_HEIGHT = 18
SHOWN_FRAME = 5


def contact_sheet(size: int = 112, seed: int = 0, ood: bool = False) -> np.ndarray:
    """Faces as one picture: rows are emotions, columns are intensities 0.25 to 1 for two speakers.

    Args:
        size: Height and width of one face.
        seed: Seed of speakers and faces.
        ood: Whether to draw them as the subset `ood` does.

    Returns:
        RGB image, uint8 [height, width, 3], with white gaps and room for labels.
    """
    columns = [(speaker, intensity) for speaker in SPEAKERS for intensity in INTENSITIES]
    step = size + GAP
    sheet = np.full((HEADER_HEIGHT + len(EMOTIONS) * step, LABEL_WIDTH + len(columns) * step, 3), 255, dtype=np.uint8)
    for row, emotion in enumerate(EMOTIONS):
        for column, (index, intensity) in enumerate(columns):
            rng = np.random.default_rng([seed, row, column])
            if ood:
                frames = render_ood_face(
                    emotion, intensity, make_ood_speaker(index, seed), rng, *rng.spawn(1), size=size
                )
            else:
                frames = render_face(emotion, intensity, make_speaker("train", index, seed), rng, size=size)
            top, left = HEADER_HEIGHT + row * step, LABEL_WIDTH + column * step
            sheet[top : top + size, left : left + size] = frames[SHOWN_FRAME]
    return sheet


def write_contact_sheet(path: Path, size: int = 112, seed: int = 0, ood: bool = False) -> None:
    """Draws the sheet with its labels and saves it as a PNG."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(contact_sheet(size, seed, ood))
    draw = ImageDraw.Draw(image)
    step = size + GAP
    for row, emotion in enumerate(EMOTIONS):
        draw.text((6, HEADER_HEIGHT + row * step + size // 2 - 6), emotion, fill=(40, 40, 40))
    for column, intensity in enumerate(INTENSITIES * len(SPEAKERS)):
        draw.text((LABEL_WIDTH + column * step + size // 2 - 10, 3), f"{intensity:.2f}", fill=(40, 40, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    # A palette: sensor noise compresses badly, and the documentation should stay light.
    image.quantize(192, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the contact sheet of the synthetic faces.")
    parser.add_argument("--output", type=Path, default=Path("docs/images/synthetic_faces.png"))
    parser.add_argument("--size", type=int, default=112, help="height and width of one face in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ood", action="store_true", help="draw the faces of the test subset ood")
    arguments = parser.parse_args()
    write_contact_sheet(arguments.output, arguments.size, arguments.seed, arguments.ood)
    print(f"Wrote {arguments.output}")


if __name__ == "__main__":
    main()
