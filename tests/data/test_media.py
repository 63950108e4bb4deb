import io
import itertools
import math
import os
import pickle
import subprocess
import sys
import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from mosear.data.media import MediaBudget, MediaError, decode, probe
from mosear.data.timestamps import Continuous

TONE_HZ = 440


def frame_index(image: np.ndarray) -> int:
    """The index that a frame's brightness encodes (see conftest)."""
    return round((float(image.mean()) - 20) / 4)


def cause_of(video, audio, budget=None) -> str:
    with pytest.raises(MediaError) as caught:
        decode(video, audio, budget)
    error = caught.value
    assert error.cause in str(error) and os.path.basename(error.path) in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error.cause


def shown_at(path, times: list[float]) -> list[int]:
    """Slow reference: decode everything, then look up the frame on screen at each time."""
    with av.open(str(path)) as container:
        start = (container.start_time or 0) / av.time_base
        shown = [(f.time - start, frame_index(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)]
    return [([i for t, i in shown if t <= time + 1e-3] or [shown[0][1]])[-1] for time in times]


def peak_hz(sound: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(sound * np.hanning(len(sound))))) * rate / len(sound))


@pytest.mark.parametrize("count", [1, 2, 5, 8, 16, 50])
def test_frames_stand_at_segment_middles(plain_mp4, count):
    media = decode(plain_mp4, None, MediaBudget(num_frames=count))
    expected = [math.floor((i + 0.5) * 2.0 / count * 25 + 1e-6) for i in range(count)]
    assert [frame_index(image) for image in media.frames] == expected
    assert media.frames.shape == (count, 48, 64, 3) and media.frames.dtype == np.uint8
    assert media.fps == pytest.approx(count / 2.0) and media.duration == 2.0 and media.audio is None


FORMATS = {
    "plain.avi": {"video": "mpeg4", "audio": "libmp3lame"},
    "plain.flv": {"video": "flv1", "audio": "libmp3lame", "rate": 44_100},
    "ntsc.mp4": {"fps": Fraction(30_000, 1001)},
    "live.mkv": {"muxer": {"live": "1"}},
    "vfr.mp4": {"frames": 10, "audio_seconds": 2.0, "times": [0, 1, 2, 3, 4, 5, 6, 30, 31, 49], "encoder": {"bf": "0"}},
    "reordered.mp4": {"encoder": {"bf": "3", "g": "25"}},
    "stereo.mp4": {"rate": 44_100, "layout": "stereo"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_frames_match_a_full_decode(media, name):
    path = media(name, **FORMATS[name])
    clip = decode(path, "video", MediaBudget(num_frames=8))
    seconds = 8 / clip.fps
    assert [frame_index(image) for image in clip.frames] == shown_at(path, [(i + 0.5) * seconds / 8 for i in range(8)])
    assert seconds == pytest.approx(50 / FORMATS[name].get("fps", 25), abs=0.13)  # headers differ by some frames
    assert len(clip.audio) / 16_000 == pytest.approx(float(seconds), abs=0.15)
    assert peak_hz(clip.audio, 16_000) == pytest.approx(TONE_HZ, abs=2)


def test_variable_frame_rate_follows_time_not_counts(media):
    clip = decode(media("vfr.mp4", **FORMATS["vfr.mp4"]), None, MediaBudget(num_frames=4))  # at .25, .75, 1.25, 1.75 s
    assert [frame_index(image) for image in clip.frames] == [6, 6, 8, 8]


def test_flv_counts_no_frames_and_live_mkv_has_no_duration(media):
    with av.open(str(media("plain.flv", **FORMATS["plain.flv"]))) as container:
        assert container.streams.video[0].frames == 0
    assert probe(media("live.mkv", **FORMATS["live.mkv"])).duration is None


@pytest.mark.parametrize(
    "budget, count",
    [({"fps": 2.0}, 4), ({"fps": 4.0}, 8), ({"fps": 0.01}, 1), ({"fps": 25.0, "max_frames": 10}, 10)],
)
def test_fps_budget(plain_mp4, budget, count):
    media = decode(plain_mp4, None, MediaBudget(num_frames=None, **budget))
    assert len(media.frames) == count and media.fps == pytest.approx(count / 2.0)


def test_too_few_frames_are_repeated(media):
    path = media("three.mp4", frames=3, audio=None)
    indices = [frame_index(image) for image in decode(path, None, MediaBudget(num_frames=8)).frames]
    assert indices == [0, 0, 0, 1, 1, 2, 2, 2]


def test_last_frame_stands_when_the_video_ends_before_the_sound(media):
    path = media("long_sound.mkv", frames=25, audio_seconds=2.0)  # Matroska: no duration per stream, so the container's
    clip = decode(path, "video")
    assert [frame_index(image) for image in clip.frames][-4:] == [24] * 4
    assert len(clip.audio) == pytest.approx(32_000, abs=1100)


@pytest.mark.parametrize("size", [(64, 48), (101, 77), (640, 360), (400, 6), (8, 600)])
@pytest.mark.parametrize("max_pixels", [16, 1000, 56 * 56, 10**9])
def test_size_budget(media, size, max_pixels):
    path = media(f"size{size[0]}x{size[1]}.mp4", size=size, frames=1, audio=None, video="mpeg4")
    _, height, width, _ = decode(path, None, MediaBudget(num_frames=1, max_pixels=max_pixels)).frames.shape
    assert height % 2 == width % 2 == 0 and height * width <= max_pixels
    assert height <= size[1] and width <= size[0]
    if max_pixels == 10**9:
        assert (width, height) == (size[0] // 2 * 2, size[1] // 2 * 2)
    if min(height, width) > 20:
        assert width / height == pytest.approx(size[0] / size[1], rel=0.1)


def test_rotated_video_is_turned_upright(media):
    path = media(
        "rotated.mp4", frames=2, audio=None, rotation=90
    )  # filmed: top half bright; shown a quarter turn to the left
    image = decode(path, None, MediaBudget(num_frames=1)).frames[0]
    assert image.shape == (64, 48, 3)
    assert image[:, :20].mean() > 200 > 60 > image[:, 28:].mean()


def test_max_seconds_cuts_both(plain_mp4):
    media = decode(plain_mp4, "video", MediaBudget(num_frames=4, max_seconds=1.0))
    assert [frame_index(image) for image in media.frames] == [3, 9, 15, 21]
    assert len(media.audio) == 16_000 and media.duration == 1.0 and media.fps == 4.0


def test_nothing_after_max_seconds_is_decoded(media, tmp_path):
    data = bytearray(media("long.mp4", frames=250, muxer={"movflags": "faststart"}).read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    broken = tmp_path / "broken_tail.mp4"
    broken.write_bytes(data)
    assert len(decode(broken, "video", MediaBudget(max_seconds=2.0)).frames) == 8
    assert cause_of(broken, "video") == "undecodable"


def test_stereo_44k_becomes_16k_mono_and_keeps_tone_and_level(media):
    sound = decode(None, media("stereo.mp4", **FORMATS["stereo.mp4"])).audio
    assert sound.dtype == np.float32 and sound.shape == (32_000,)
    assert peak_hz(sound, 16_000) == pytest.approx(TONE_HZ, abs=0.6)
    assert np.abs(sound[2000:-2000]).max() == pytest.approx(0.5, abs=0.03)


def test_wav_samples_are_kept_exactly(tmp_path):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 8000).astype("<i2")
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    media = decode(None, path)
    assert np.array_equal(media.audio, samples.astype(np.float32) / 32768)
    assert media.frames is None and media.fps == 0.0 and media.duration == 0.5


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("codec", "kind"), [("pcm_s16le", "s16"), ("pcm_f32le", "flt"), ("pcm_s32le", "s32")])
def test_sound_of_the_wanted_rate_is_what_the_resampler_makes_of_it(tmp_path, codec, kind, channels):
    path, layout = tmp_path / "sound.wav", "mono" if channels == 1 else "stereo"
    samples = np.random.default_rng(0).uniform(-1, 1, (channels, 8000)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16000, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate = 16000
        for piece in av.AudioResampler(format=kind, layout=layout, rate=16000).resample(frame):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="fltp", rate=16000)
        frames = [*container.decode(audio=0), None]
        pieces = [piece.to_ndarray() for frame in frames for piece in resampler.resample(frame)]
    expected = np.concatenate(pieces, axis=1).mean(axis=0, dtype=np.float32)
    assert np.array_equal(decode(None, path, MediaBudget()).audio, expected)


def test_offset_audio_starts_in_silence(media):
    sound = decode(media("delayed.mp4", audio_delay=0.5), "video").audio
    assert np.abs(sound[: int(0.43 * 16_000)]).max() == 0.0  # the codec's own 64 ms of priming come before the sound
    onset = np.argmax(np.abs(sound) > 0.1) / 16_000
    assert onset == pytest.approx(0.5, abs=0.005)
    assert len(sound) == 40_000


def test_aac_padding_is_trimmed(plain_mp4):
    with av.open(str(plain_mp4)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 32_768
    assert len(decode(None, plain_mp4).audio) == 32_000


def test_one_pass_equals_two_files_and_streams(plain_mp4):
    together = decode(plain_mp4, "video")
    apart = decode(plain_mp4, plain_mp4)
    with open(plain_mp4, "rb") as file:
        streamed = decode(file, "video")
        again = decode(file, None)
    memory = decode(io.BytesIO(plain_mp4.read_bytes()), "video", thread_type="AUTO")
    for other in (apart, streamed, memory, decode(plain_mp4, "video")):
        assert np.array_equal(together.frames, other.frames) and np.array_equal(together.audio, other.audio)
        assert (together.fps, together.duration) == (other.fps, other.duration)
    assert np.array_equal(together.frames, again.frames)


def test_separate_sound_file(media, plain_mp4):
    sound = media("voice.m4a", video=None, frames=75)
    clip = decode(plain_mp4, sound)
    assert len(clip.audio) == 48_000 and clip.duration == 3.0 and clip.fps == 4.0


@pytest.mark.parametrize("name", ["wrong.avi", "wrong.txt", "wrong.bin", "wrong.wav", "no_suffix", "データ &.mp4"])
def test_content_counts_not_the_extension(renamed, plain_mp4, name):
    assert np.array_equal(decode(renamed(name), "video").frames, decode(plain_mp4, "video").frames)


def test_probe(plain_mp4, media):
    info = probe(plain_mp4)
    assert (info.has_video, info.has_audio, info.duration) == (True, True, 2.0)
    assert (info.width, info.height, info.frame_rate) == (64, 48, 25.0)
    info = probe(media("voice.m4a", video=None, frames=75))
    assert (info.has_video, info.width, info.frame_rate) == (False, 0, None)


BAD_CONTENT = {
    "empty.mp4": (b"", "empty_file"),
    "text.mp4": (b"This is not a video.\n" * 50, "not_media"),
    "umlaut.mp4": ("ä".encode() * 400, "not_media"),  # the sniffed part ends inside a character
    "umlaut_shifted.mp4": (b"x" + "ä".encode() * 400, "not_media"),
    "page.mp4": (b"<!DOCTYPE html><html>404</html>", "not_media"),
    "playlist.mp4": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not_media"),
    "pointer.wav": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git_lfs_pointer"),
    "bare_header.mp4": (b"\x00\x00\x00\x20ftypisom" + bytes(64), "truncated"),
}


@pytest.mark.parametrize("name", BAD_CONTENT)
def test_bad_content(tmp_path, name):
    content, cause = BAD_CONTENT[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert cause_of(path, "video") == cause
    assert cause_of(None, path) == cause
    with pytest.raises(MediaError, match=cause):
        probe(path)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("suffix", [".mp4", ".bin", ".wav"])
def test_random_bytes(tmp_path, seed, suffix):
    path = tmp_path / f"random{suffix}"
    path.write_bytes(np.random.default_rng(seed).bytes(20_000))
    assert cause_of(path, "video") == "not_media"


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.95, 0.999])
def test_truncated_mp4(plain_mp4, tmp_path, share):
    data = plain_mp4.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(share * len(data))])
    assert cause_of(path, "video") == "truncated"


@pytest.mark.parametrize(
    "name, options",
    [("long.mp4", {"frames": 250, "muxer": {"movflags": "faststart"}})]
    + [(name, FORMATS[name]) for name in ("plain.avi", "plain.flv")],
)
@pytest.mark.parametrize("wanted", ["both", "picture", "sound"])
def test_truncated_file_that_still_opens(media, tmp_path, name, options, wanted):
    data = media(name, **options).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(0.6 * len(data))])
    video, audio = {"both": (path, "video"), "picture": (path, None), "sound": (None, path)}[wanted]
    assert cause_of(video, audio) == "truncated"


def test_missing_tracks(media, plain_mp4):
    silent, voice = media("silent.mp4", audio=None, frames=5), media("voice.m4a", video=None, frames=75)
    assert cause_of(silent, "video") == cause_of(None, silent) == "no_audio_track"
    assert cause_of(voice, None) == "no_video_track"
    assert decode(silent, None).frames is not None


def test_zero_length(tmp_path):
    path = tmp_path / "nothing.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16_000)
    assert cause_of(None, path) == "zero_length"


def test_missing_file_directory_and_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would block for ever
    for name in ("nothing.mp4", "", "pipe"):
        assert cause_of(tmp_path / name, None) == "missing_file"


def test_8k_frame(media):
    path = media("8k.mp4", size=(7680, 4320), frames=1, audio=None, encoder={"preset": "ultrafast"})
    frames = decode(path, None, MediaBudget(num_frames=1)).frames
    assert frames.shape[1] * frames.shape[2] <= 128 * 28 * 28 and frame_index(frames[0]) == 0
    assert cause_of(path, None, MediaBudget(max_decode_pixels=7680 * 4320 - 1)) == "too_large"


def test_too_large_is_told_from_the_header_alone(media):
    path = media("h264.mp4", size=(640, 360), frames=1, audio=None)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - start)  # nothing left that could be decoded
    assert cause_of(io.BytesIO(bytes(data)), None, MediaBudget(max_decode_pixels=1000)) == "too_large"


@pytest.mark.parametrize(
    "values, message",
    [
        ({"fps": 2.0}, "exactly one of num_frames and fps"),
        ({"num_frames": None}, "exactly one of num_frames and fps"),
        ({"num_frames": 0}, "num_frames=0 must be at least 1"),
        ({"num_frames": 65}, "above max_frames=64"),
        ({"max_seconds": math.inf}, "max_seconds=inf must be finite and positive"),
        ({"max_pixels": 3}, "max_pixels=3 must be at least 4"),
        ({"audio_rate": -1}, "audio_rate=-1 must be at least 1"),
    ],
)
def test_bad_budgets(values, message):
    with pytest.raises(ValueError, match=message):
        MediaBudget(**values)


def test_nothing_asked():
    with pytest.raises(ValueError, match="both None"):
        decode(None, None)
    with pytest.raises(ValueError, match="video is None"):
        decode(None, "video")


def test_no_torch_needed():
    code = (
        "import sys, mosear.data.media, mosear.data.manifest; print('torch' in sys.modules, 'datasets' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


def float_wav(path, samples, rate=16_000):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.asarray(samples, np.float32)[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("rate", [16_000, 48_000], ids=["as it is", "resampled"])
@pytest.mark.parametrize(
    ("value", "seen"), [(np.nan, "not finite"), (np.inf, "not finite"), (1e30, "full scale"), (20_000.0, "full scale")]
)
def test_sound_that_no_microphone_gives_is_refused(tmp_path, rate, value, seen):
    wave_of = np.zeros(rate, np.float32)
    wave_of[rate // 4 : rate // 2] = value
    path = float_wav(tmp_path / "odd.wav", wave_of, rate)
    assert cause_of(None, path) == "implausible_sound"
    with pytest.raises(MediaError, match=seen):
        decode(None, path)


def test_sound_above_full_scale_is_a_sound(tmp_path):
    assert decode(None, float_wav(tmp_path / "loud.wav", np.full(1600, 4.0))).audio.max() == 4.0


def test_a_file_that_cannot_be_read_has_a_cause(plain_mp4, tmp_path):
    assert cause_of("/proc/self/mem", None) == "unreadable"  # a regular file whose first byte no process may read
    locked = tmp_path / "locked.mp4"
    locked.write_bytes(plain_mp4.read_bytes())
    locked.chmod(0)
    if not os.access(locked, os.R_OK):
        assert cause_of(locked, "video") == "unreadable"
    with pytest.raises(MediaError, match="unreadable: File name too long"):
        probe("a" * 300 + ".mp4")


def test_a_disk_that_fails_while_decoding_has_a_cause(plain_mp4):
    """A stream whose end cannot be read: opening works, demuxing does not."""

    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > self.getbuffer().nbytes // 4 and broken:
                raise OSError(5, "Input/output error")
            return super().read(size)

    broken = False
    stream = Failing(plain_mp4.read_bytes())
    decode(stream, "video")
    broken = True
    assert cause_of_stream(stream) in ("unreadable", "truncated")


def cause_of_stream(stream) -> str:
    with pytest.raises(MediaError) as caught:
        decode(stream, "video")
    return caught.value.cause


@pytest.mark.parametrize(("first", "second"), [(25, 50), (50, 25)])
@pytest.mark.parametrize("audio", ["aac", None])
def test_time_stamps_that_restart_go_on(media, media_dir, first, second, audio):
    """Recordings strung together; the header knows the end of the last one alone."""
    parts = [media(f"part{n}{audio}.ts", frames=n, audio=audio) for n in (first, second)]
    path = media_dir / f"strung{first}{audio}.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    found = decode(path, "video" if audio else None, MediaBudget(num_frames=15))
    assert found.duration == pytest.approx(3.0, abs=0.25)
    seen = [frame_index(image) for image in found.frames]
    turn = next(i for i in range(1, 15) if seen[i] < seen[i - 1])
    assert turn == pytest.approx(15 * first / 75, abs=1)
    assert seen[0] <= 5 and seen[turn - 1] >= first - 6 and seen[turn] <= 6 and seen[-1] >= second - 6
    if audio:
        assert len(found.audio) / 16_000 == pytest.approx(3.0, abs=0.25)
    short = decode(path, "video" if audio else None, MediaBudget(num_frames=4, max_seconds=0.5))
    assert [frame_index(image) for image in short.frames] == sorted(frame_index(image) for image in short.frames)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("below.flv", {"audio": None}),  # its counter overflows: a leap of 24 days in the middle
        ("below_sound.flv", {"rate": 44_100, "audio": "libmp3lame"}),
        ("below.ts", {}),
        ("below.mkv", {}),  # FFmpeg drops the pictures below 0 here, but not the sound
    ],
)
def test_time_stamps_that_begin_below_zero(media, name, options):
    path = media(name, begin=-1.0, muxer={"avoid_negative_ts": "disabled"}, **options)
    found = decode(path, "video" if options.get("audio", "aac") else None, MediaBudget(num_frames=8))
    assert found.duration == pytest.approx(2.0, abs=0.25)
    seen = [frame_index(image) for image in found.frames]
    assert seen == sorted(seen) and seen[-1] >= 40
    if not name.endswith("mkv"):
        assert seen[0] <= 5 and max(b - a for a, b in itertools.pairwise(seen)) <= 9
    if found.audio is not None:
        assert len(found.audio) / 16_000 == pytest.approx(2.0, abs=0.25)


def test_intact_time_stamps_stay_as_they_are(media):
    for name, options in {
        "vfr.mp4": FORMATS["vfr.mp4"],
        "intact.ts": {},
        "gap.mkv": {"frames": 3, "times": [0, 1, 2500]},
    }.items():
        with av.open(str(media(name, **options))) as container:
            plain = [(p.stream_index, p.pts, p.dts) for p in container.demux()]
        with av.open(str(media(name, **options))) as container:
            continuous = Continuous()
            assert [(p.stream_index, p.pts, p.dts) for p in continuous(container.demux())] == plain
        assert continuous.jumps == 0


@pytest.mark.parametrize("name", ["plain.mp4", "live.mkv", "sound.wav"])
def test_a_clip_says_that_it_was_cut(media, name):
    options = {"plain.mp4": {}, "sound.wav": {"video": None, "audio": "pcm_s16le"}} | FORMATS
    path = media(name, **options[name])
    sources = (None, path) if name.endswith("wav") else (path, "video")
    for limit, cut in ((0.5, True), (1.5, True), (2.0, False), (30.0, False)):
        assert decode(*sources, MediaBudget(max_seconds=limit)).cut == cut
        if name != "live.mkv":  # its header does not know
            assert probe(path).is_cut(MediaBudget(max_seconds=limit)) == cut
