"""The same clips for every system: rendered once, listed in each one's format, in the order of mosear's training."""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.clips import CLIPS, Clips
from mosear.data.prompt import Prompt
from mosear.data.sampling import BucketBatchSampler
from mosear.data.synthetic.clips import SAMPLE_RATE, render_clip_arrays
from mosear.data.synthetic.corpus import manifest_row
from mosear.data.synthetic.plans import GROUPS, ClipPlan, clip_rngs, plan_clip
from mosear.files import written_atomically

SEED = 0

PROMPT = Prompt(list_labels=True)
"""As in ``data=manifest``."""


def write_data(directory: Path, count: int, batch_size: int, clips: Clips = CLIPS["small"]) -> None:
    """Render clips and list them.

    Writes ``clips/ID.mp4`` and ``clips/ID.wav`` (the same sound), ``mosear.jsonl``, ``ms_swift.jsonl`` and, for
    LLaMA-Factory, ``llamafactory.json`` with ``dataset_info.json``.

    Args:
        directory: where to; clips that are there are kept.
        count: clips; a multiple of ``batch_size``, so that no system sees a smaller batch.
        batch_size: clips per step.
        clips: their kind.
    """
    if count % batch_size:
        raise ValueError(f"{count} clips are no multiple of batch_size={batch_size}: the last batch would be smaller.")
    (directory / "clips").mkdir(parents=True, exist_ok=True)
    group = next(group for group in GROUPS if group.name == "train_natural")
    plans = [plan_clip(SEED, group, index) for index in range(count)]
    for index, plan in enumerate(plans):
        video, sound = media(directory, plan)
        if not (video.exists() and sound.exists()):
            _, rng = clip_rngs(SEED, group, index)
            frames, audio = render_clip_arrays(plan.face, plan.voice, plan.speaker, rng)
            assert frames is not None and audio is not None, "clips of this group have picture and sound"
            audio = clips.sound(audio)
            clips.write(video, frames, audio, rng)
            write_wav(sound, audio)
    conversations = [conversation(directory, plans[index]) for index in training_order(count, batch_size)]
    write_lines(directory / "mosear.jsonl", [mosear_row(plan) for plan in plans])
    write_lines(directory / "ms_swift.jsonl", conversations)
    write_json(directory / "llamafactory.json", conversations)
    write_json(directory / "dataset_info.json", DATASET_INFO)


DATASET_INFO = {
    "clips": {
        "file_name": "llamafactory.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "videos": "videos", "audios": "audios"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
}
"""LLaMA-Factory's description of ``llamafactory.json``."""


def training_order(count: int, batch_size: int) -> list[int]:
    """The order in which mosear's first epoch visits the clips; the peers read theirs from start to end."""
    sampler = BucketBatchSampler([1] * count, batch_size, seed=SEED, bucket=1)
    return [int(index) for index in sampler.all_batches().ravel()]


def media(directory: Path, plan: ClipPlan) -> tuple[Path, Path]:
    """Video and sound file of a clip."""
    return directory / "clips" / f"{plan.id}.mp4", directory / "clips" / f"{plan.id}.wav"


def mosear_row(plan: ClipPlan) -> dict[str, Any]:
    """A line of mosear's manifest."""
    video, sound = media(Path(), plan)
    return {**manifest_row(plan), "video": video.as_posix(), "audio": sound.as_posix()}


def conversation(directory: Path, plan: ClipPlan) -> dict[str, Any]:
    """A row of either peer: question and answer, with the media in the order in which mosear's prompt has them."""
    video, sound = media(directory.resolve(), plan)
    return {
        "messages": [
            {"role": "user", "content": "<video><audio>" + PROMPT.user_text(plan.text)[0]},
            {"role": "assistant", "content": plan.label},
        ],
        "videos": [str(video)],
        "audios": [str(sound)],
    }


def write_wav(path: Path, audio: np.ndarray) -> None:
    """Mono, 16 bits."""
    samples = np.round(np.clip(audio, -1.0, 1.0) * 32767).astype("<i2")
    with written_atomically(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One JSON object per line."""
    with written_atomically(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """One JSON document."""
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
