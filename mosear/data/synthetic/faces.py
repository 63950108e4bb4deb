"""Cartoon faces: an emotion, an intensity and a speaker become a short RGB clip.

Shapes are drawn as signed distances in head coordinates (x right, y down, the image spans about [-1, 1]), anti-aliased
over one pixel. Expression parameters live in `FACE_CUES`; pose, light and colours are nuisances drawn per clip.
Every random number but the sensor noise is drawn before the first pixel, so a face is the same at any size.
"""

from dataclasses import dataclass

import numpy as np

from mosear.data.synthetic.emotions import PARAMETER_LIMIT, CueSpace
from mosear.data.synthetic.speakers import Speaker

FACE_CUES = CueSpace(
    names=(
        "brow_angle",  # + inner ends up
        "brow_height",
        "mouth_curve",  # + smile
        "mouth_open",
        "mouth_width",
        "eye_open",
        "nod",
        "shake",
        "droop",  # + head sinks and tilts
    ),
    prototypes=np.array(
        [
            [0.0, -0.3, 0.1, -1.0, 0.2, -0.1, -1.0, -1.0, -0.1],  # neutral
            [-1.0, -0.8, -0.6, 0.2, 0.7, -0.3, -0.6, 1.0, 0.0],  # angry
            [0.0, 0.3, 1.0, 0.2, 1.0, 0.1, 1.0, -0.8, -0.4],  # happy
            [0.9, -0.2, -1.0, -0.9, 0.0, -1.0, -0.8, -0.8, 1.0],  # sad
            [1.0, 0.7, -0.5, -0.2, -0.8, 0.8, -0.8, 0.4, 0.2],  # worried
            [0.0, 1.0, 0.1, 1.0, -0.8, 1.0, -0.2, -0.9, -1.0],  # surprise
        ]
    ),
)

CLIP_SECONDS = 2.0
POSITION_JITTER = 0.05
ZOOM_JITTER = 0.06
ROLL_JITTER = 0.05
SENSOR_NOISE = 4.0
"""Standard deviation of the luma noise, in 8-bit steps."""

LIP_COLOUR = (168, 58, 62)
MOUTH_COLOUR = (74, 18, 28)
TEETH_COLOUR = (244, 240, 232)
EYE_COLOUR = (250, 250, 248)
PUPIL_COLOUR = (36, 26, 24)


@dataclass(frozen=True)
class _Pose:
    """Head position per frame [T] and the light of the clip."""

    centre_x: np.ndarray
    centre_y: np.ndarray
    look_x: np.ndarray
    look_y: np.ndarray
    roll: np.ndarray
    zoom: float
    blink: np.ndarray
    background: np.ndarray
    light_angle: float
    light_strength: float
    exposure: float


def face_parameters(emotion: str, intensity: float, speaker: Speaker, rng: np.random.Generator) -> dict[str, float]:
    """Draws the expression parameters of one face, speaker offsets included, by name."""
    parameters = FACE_CUES.named(FACE_CUES.draw(emotion, intensity, rng))
    parameters["brow_height"] += speaker.brow_offset
    parameters["mouth_width"] += speaker.mouth_offset
    return parameters


def render_face(
    emotion: str,
    intensity: float,
    speaker: Speaker,
    rng: np.random.Generator,
    *,
    num_frames: int = 16,
    size: int = 112,
) -> np.ndarray:
    """Renders a face that moves for two seconds.

    Args:
        emotion: One of `EMOTIONS`.
        intensity: Strength of the cue in [0, 1]; 0 is an uninformative blend, 1 the crisp prototype.
        speaker: Whose face it is.
        rng: Source of every random choice.
        num_frames: Frames T, spread evenly over the two seconds.
        size: Height and width in pixels.

    Returns:
        Frames, uint8 [T, size, size, 3].
    """
    parameters = face_parameters(emotion, intensity, speaker, rng)
    pose = _draw_pose(parameters, num_frames, rng)
    canvas = _Canvas(pose, size)
    _draw_head(canvas, speaker)
    _draw_eyes(canvas, parameters, speaker)
    _draw_brows(canvas, parameters, speaker)
    _draw_mouth(canvas, parameters)
    return canvas.expose(rng)


def _unit(value: float) -> float:
    """Maps a parameter from [-1, 1] to [0, 1], never below 0."""
    return max(0.0, 0.5 + 0.5 * value)


def _draw_pose(parameters: dict[str, float], num_frames: int, rng: np.random.Generator) -> _Pose:
    """Head motion over time from nod, shake and droop, plus the clip's nuisances."""
    jitter_x, jitter_y, jitter_zoom, jitter_roll = rng.uniform(-1.0, 1.0, size=4)
    nod_phase, shake_phase, light_angle = rng.uniform(0.0, 2.0 * np.pi, size=3)
    nod_hz, shake_hz = rng.uniform(0.9, 1.3), rng.uniform(1.2, 1.6)
    droop_side = rng.choice([-1.0, 1.0])
    blink_at = rng.uniform(0.1, 0.9)
    background = rng.uniform(90.0, 200.0) + rng.uniform(-40.0, 40.0, size=3)
    light_strength, exposure = rng.uniform(0.05, 0.25), rng.uniform(0.8, 1.1)

    seconds = np.arange(num_frames) * (CLIP_SECONDS / num_frames)
    nod = 0.075 * _unit(parameters["nod"]) * np.sin(2.0 * np.pi * nod_hz * seconds + nod_phase)
    shake = 0.075 * _unit(parameters["shake"]) * np.sin(2.0 * np.pi * shake_hz * seconds + shake_phase)
    droop = parameters["droop"] * (0.5 + 0.5 * seconds / CLIP_SECONDS)
    return _Pose(
        centre_x=POSITION_JITTER * jitter_x + shake,
        centre_y=0.04 + POSITION_JITTER * jitter_y + nod + 0.06 * droop,
        # The features move further than the outline: a cheap turn of the head.
        look_x=0.8 * shake,
        look_y=0.8 * nod + 0.05 * droop,
        roll=ROLL_JITTER * jitter_roll + 0.16 * droop_side * np.maximum(droop, 0.0),
        zoom=1.0 + ZOOM_JITTER * jitter_zoom,
        blink=np.abs(seconds / CLIP_SECONDS - blink_at) < 0.5 / num_frames,
        background=background,
        light_angle=light_angle,
        light_strength=light_strength,
        exposure=exposure,
    )


class _Canvas:
    """Frames under construction, with head coordinates for any part of the picture."""

    def __init__(self, pose: _Pose, size: int) -> None:
        self.pose = pose
        self.size = size
        self.pixel = 2.0 / (size * pose.zoom)
        grid = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
        self._grid = grid
        vignette = 1.0 - 0.12 * (grid[:, None] ** 2 + grid[None, :] ** 2)
        backdrop = (pose.background[:, None, None] * vignette).astype(np.float32)
        # Planar [3, T, H, W]: blending with a shared alpha is several times faster than on interleaved pixels.
        self.frames = np.repeat(backdrop[:, None], len(pose.roll), axis=1)

    def box(self, left: float, right: float, top: float, bottom: float, features: bool = True) -> tuple[slice, slice]:
        """Pixel rows and columns that a rectangle in head coordinates covers in any frame."""
        pose = self.pose
        x = np.array([left, right, left, right])[:, None] + (pose.look_x if features else 0.0)
        y = np.array([top, top, bottom, bottom])[:, None] + (pose.look_y if features else 0.0)
        cos, sin = np.cos(pose.roll), np.sin(pose.roll)
        image_x = pose.zoom * (x * cos - y * sin) + pose.centre_x
        image_y = pose.zoom * (x * sin + y * cos) + pose.centre_y
        return self._slice(image_y), self._slice(image_x)

    def _slice(self, values: np.ndarray) -> slice:
        low = int(np.floor((values.min() + 1.0) * self.size / 2.0)) - 2
        high = int(np.ceil((values.max() + 1.0) * self.size / 2.0)) + 2
        return slice(max(low, 0), min(max(high, 0), self.size))

    def coordinates(self, box: tuple[slice, slice], features: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Head coordinates x, y, each float32 [T, h, w], of the pixels in a box."""
        pose = self.pose
        column = (self._grid[None, None, box[1]] - _per_frame(pose.centre_x)) / np.float32(pose.zoom)
        row = (self._grid[None, box[0], None] - _per_frame(pose.centre_y)) / np.float32(pose.zoom)
        cos, sin = _per_frame(np.cos(pose.roll)), _per_frame(np.sin(pose.roll))
        x, y = column * cos + row * sin, row * cos - column * sin
        if features:
            x -= _per_frame(pose.look_x)
            y -= _per_frame(pose.look_y)
        return x, y

    def paint(self, box: tuple[slice, slice], distance: np.ndarray, colour: tuple[int, int, int]) -> None:
        """Fills where the signed distance [T, h, w] is negative, blending over one pixel."""
        alpha = np.clip(np.float32(0.5) - distance * np.float32(1.0 / self.pixel), 0.0, 1.0)
        keep = np.float32(1.0) - alpha
        for plane, level in zip(self.frames, colour, strict=True):
            region = plane[:, box[0], box[1]]
            region *= keep
            region += alpha * np.float32(level)

    def expose(self, rng: np.random.Generator) -> np.ndarray:
        """Applies light and sensor noise; returns uint8 [T, size, size, 3]."""
        pose = self.pose
        slope = self._grid[None, :] * np.cos(pose.light_angle) + self._grid[:, None] * np.sin(pose.light_angle)
        light = (pose.exposure * (1.0 + pose.light_strength * slope)).astype(np.float32)
        noise = rng.standard_normal(self.frames.shape[1:], dtype=np.float32) * np.float32(SENSOR_NOISE)
        self.frames *= light
        self.frames += noise
        planes = np.clip(self.frames, 0.0, 255.0, out=self.frames).astype(np.uint8)
        return np.ascontiguousarray(planes.transpose(1, 2, 3, 0))


def _per_frame(values: np.ndarray) -> np.ndarray:
    """[T] to float32 [T, 1, 1]."""
    return values.astype(np.float32)[:, None, None]


def _ellipse(x: np.ndarray, y: np.ndarray, radius_x: float | np.ndarray, radius_y: float | np.ndarray) -> np.ndarray:
    """First-order signed distance to an axis-aligned ellipse: (|q| - 1) |q| / |grad|, exact for a circle."""
    scaled_x, scaled_y = x / radius_x, y / radius_y
    norm = np.sqrt(scaled_x * scaled_x + scaled_y * scaled_y) + np.float32(1e-6)
    gradient = np.sqrt((scaled_x / radius_x) ** 2 + (scaled_y / radius_y) ** 2) + np.float32(1e-6)
    return (norm - np.float32(1.0)) * norm / gradient


def _capsule(x: np.ndarray, y: np.ndarray, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """Distance to a line segment."""
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    offset_x, offset_y = x - np.float32(start[0]), y - np.float32(start[1])
    share = (offset_x * np.float32(along_x) + offset_y * np.float32(along_y)) / np.float32(along_x**2 + along_y**2)
    share = np.clip(share, 0.0, 1.0)
    return np.hypot(offset_x - share * np.float32(along_x), offset_y - share * np.float32(along_y))


def _shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    red, green, blue = (min(255, int(channel * factor)) for channel in colour)
    return red, green, blue


def _draw_head(canvas: _Canvas, speaker: Speaker) -> None:
    """Shirt, hair behind, neck, ears, head, fringe and nose."""
    width = 0.60 * speaker.face_width
    box = canvas.box(-1.0, 1.0, 0.55, 1.6, features=False)
    x, y = canvas.coordinates(box, features=False)
    canvas.paint(box, _ellipse(x, y - np.float32(1.25), 0.85, 0.45), speaker.shirt)
    canvas.paint(box, np.maximum(np.abs(x) - np.float32(0.22), y - np.float32(0.92)), _shade(speaker.skin, 0.86))

    behind_bottom = 0.62 if speaker.hair_style == 1 else 0.12
    box = canvas.box(-0.8, 0.8, -0.95, 0.85, features=False)
    x, y = canvas.coordinates(box, features=False)
    hair = _ellipse(x, y + np.float32(0.08), width + 0.09, 0.82)
    canvas.paint(box, np.maximum(hair, y - np.float32(behind_bottom)), speaker.hair)
    if speaker.hair_style != 1:
        ears = _ellipse(np.abs(x) - np.float32(width), y - np.float32(0.05), 0.09, 0.14)
        canvas.paint(box, ears, _shade(speaker.skin, 0.92))
    head = _ellipse(x, y, width, 0.78)
    canvas.paint(box, head, speaker.skin)

    box = canvas.box(-0.8, 0.8, -0.95, -0.2, features=False)
    x, y = canvas.coordinates(box, features=False)
    lean = (0.0, 0.0, 0.22)[speaker.hair_style]
    hairline = y - (np.float32(-0.56) + np.float32(0.30) * x * x + np.float32(lean) * x)
    canvas.paint(box, np.maximum(_ellipse(x, y + np.float32(0.08), width + 0.09, 0.82), hairline), speaker.hair)

    box = canvas.box(-0.1, 0.1, 0.0, 0.25)
    x, y = canvas.coordinates(box)
    canvas.paint(box, _ellipse(x, y - np.float32(0.14), 0.06, 0.05), _shade(speaker.skin, 0.82))


def _draw_eyes(canvas: _Canvas, parameters: dict[str, float], speaker: Speaker) -> None:
    """Both eyes at once, by symmetry in x; a blink closes them for one frame."""
    openness = 0.035 + 0.125 * _unit(parameters["eye_open"])
    radius_y = _per_frame(np.where(canvas.pose.blink, 0.03, openness))
    closed = _per_frame(canvas.pose.blink)
    box = canvas.box(-0.46, 0.46, -0.32, 0.12)
    x, y = canvas.coordinates(box)
    x, y = np.abs(x) - np.float32(0.26), y + np.float32(0.10)
    white = _ellipse(x, y, 0.155, radius_y)
    canvas.paint(box, white - np.float32(0.028), _shade(speaker.skin, 0.42))
    white = white + closed
    canvas.paint(box, white, EYE_COLOUR)
    canvas.paint(box, np.maximum(_ellipse(x, y, 0.072, 0.072), white), PUPIL_COLOUR)


def _draw_brows(canvas: _Canvas, parameters: dict[str, float], speaker: Speaker) -> None:
    """Both brows at once, by symmetry in x."""
    height = -0.37 - 0.10 * parameters["brow_height"]
    tilt = 0.105 * parameters["brow_angle"]
    reach = 0.10 * PARAMETER_LIMIT + 0.105 * PARAMETER_LIMIT + 0.09
    box = canvas.box(-0.52, 0.52, -0.37 - reach, -0.37 + reach)
    x, y = canvas.coordinates(box)
    distance = _capsule(np.abs(x), y, (0.12, height - tilt), (0.42, height + tilt))
    canvas.paint(box, distance - np.float32(0.048), _shade(speaker.hair, 0.7))


def _draw_mouth(canvas: _Canvas, parameters: dict[str, float]) -> None:
    """A bent lens: centre line y = c (1 - 2 u^2), half height o sqrt(1 - u^2), u = x / width."""
    width = 0.12 + 0.24 * _unit(parameters["mouth_width"])
    # A narrow mouth bends less, or it would fold into a V.
    bend = parameters["mouth_curve"] * min(0.10, 0.36 * width)
    opening = 0.20 * _unit(parameters["mouth_open"])
    box = canvas.box(-0.50, 0.50, 0.12, 0.78)
    x, y = canvas.coordinates(box)
    u = np.clip(x / np.float32(width), -1.0, 1.0)
    centre = np.float32(0.44) + np.float32(bend) * (1.0 - 2.0 * u * u)
    steepness = np.sqrt(1.0 + (4.0 * np.float32(bend / width) * u) ** 2)
    half = np.float32(opening) * np.sqrt(np.maximum(1.0 - u * u, 0.0))
    beyond = np.abs(x) - np.float32(width)
    across = (np.abs(y - centre) - half) / steepness
    distance = np.hypot(np.maximum(across, 0.0), np.maximum(beyond, 0.0)) + np.minimum(np.maximum(across, beyond), 0.0)
    canvas.paint(box, distance - np.float32(0.042), LIP_COLOUR)
    canvas.paint(box, distance + np.float32(0.008), MOUTH_COLOUR)
    teeth = np.maximum(distance + np.float32(0.012), y - (centre - half + np.float32(0.06)))
    canvas.paint(box, teeth, TEETH_COLOUR)
