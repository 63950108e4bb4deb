"""Small trees in the layouts of published data sets, with real media of 0.3 s; nothing of any data set is in them."""

import csv
import itertools
import json
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_SIZE, _FPS, _RATE = 32, 10, 16_000
_numbers = itertools.count(1)


def media(path: Path, *, video: bool = True, audio: bool = True, frames: int = 3, seconds: float | None = None) -> Path:
    """Writes a media file that differs from every other one; the suffix chooses the container."""
    number = next(_numbers)
    path.parent.mkdir(parents=True, exist_ok=True)
    flash = path.suffix == ".flv"
    codecs = {".flv": ("flv1", "libmp3lame"), ".avi": ("mpeg4", "libmp3lame"), ".wav": ("", "pcm_s16le")}
    picture_codec, sound_codec = codecs.get(path.suffix, ("libx264", "aac"))
    rate = 44_100 if flash else _RATE
    with av.open(path, "w") as container:
        picture = container.add_stream(picture_codec, rate=_FPS) if video and picture_codec else None
        sound = container.add_stream(sound_codec, rate=rate, layout="mono") if audio else None
        if picture is not None:
            picture.width = picture.height = _SIZE
            picture.pix_fmt = "yuv420p"
            image = np.random.default_rng(number).integers(0, 255, (_SIZE, _SIZE, 3), np.uint8)
            for index in range(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = index
                container.mux(picture.encode(frame))
            container.mux(picture.encode())
        if sound is not None:
            length = round((seconds if seconds is not None else frames / _FPS) * rate)
            wave = 0.5 * np.sin(2 * np.pi * (200 + number) * np.arange(length) / rate)
            converted = av.AudioResampler(format=sound.format, layout="mono", rate=rate)
            frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
            fifo = av.AudioFifo()
            for piece in converted.resample(frame):
                fifo.write(piece)
            while chunk := fifo.read(sound.frame_size or length, partial=True):
                container.mux(sound.encode(chunk))
            container.mux(sound.encode())
    return path


def table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], *, windows: bool = False) -> Path:
    """Writes a comma-separated table; ``windows`` with a byte-order mark and CR LF, as spreadsheets do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8-sig" if windows else "utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n" if windows else "\n")
        writer.writerows([header, *rows])
    return path


SUMMARY_HEADER = (
    "",
    "FileName",
    "VoiceVote",
    "VoiceLevel",
    "FaceVote",
    "FaceLevel",
    "MultiModalVote",
    "MultiModalLevel",
)
CREMA_VOTES = {  # voice, face, both
    "1001_DFA_ANG_XX": ("A", "A", "A"),
    "1001_IEO_HAP_HI": ("N", "H", "H"),
    "1002_TIE_SAD_XX": ("S", "N", "S"),
    "1019_IOM_FEA_XX": ("A:D", "F", "F"),
    "1037_MTI_DIS_XX": ("A", "D", "F"),
    "1055_TAI_NEU_XX": ("N", "N", "S"),
    "1073_WSI_NEU_XX": ("N", "N", "N"),
    "1064_TIE_SAD_XX": ("N", "S", "S"),
}


def crema_d(root: Path) -> Path:
    """Eight clips: one of each group, a tie, and a clip that is known to be broken."""
    for name in CREMA_VOTES:
        media(root / "VideoFlash" / f"{name}.flv")
        media(root / "AudioWAV" / f"{name}.wav", video=False)
    rows = [
        (number, name, voice, "50", face, "60.5", both, "70")
        for number, (name, (voice, face, both)) in enumerate(CREMA_VOTES.items(), 1)
    ]
    table(root / "processedResults" / "summaryTable.csv", SUMMARY_HEADER, rows)
    # Ten people each; the first clip's voice gets six of ten votes, all others eight.
    votes = []
    for kind, column in (("1", 0), ("2", 1), ("3", 2)):
        for number, (name, letters) in enumerate(CREMA_VOTES.items(), 1):
            winner = letters[column].split(":")[0]
            share = 6 if (number, kind) == (1, "1") else 8
            counts = {letter: 0 for letter in "ADFHNS"} | {winner: share, "S" if winner != "S" else "N": 10 - share}
            votes.append((f"{kind}{number:05d}", *counts.values(), name, 10, share / 10, letters[column]))
    header = ("", *"ADFHNS", "fileName", "numResponses", "agreement", "emoVote")
    table(root / "processedResults" / "tabulatedVotes.csv", header, votes)
    return root


def ravdess(root: Path, actors: Sequence[int] = (1, 2)) -> Path:
    """Speech of some actors: sentence 1, all emotions, intensities and repetitions, as picture and as sound files.

    One utterance is a single file with both tracks; one song and one hidden file lie beside.
    """
    for actor in actors:
        folder = root / f"Actor_{actor:02d}"
        for emotion, intensity, repetition in itertools.product(range(1, 9), (1, 2), (1, 2)):
            if emotion == 1 and intensity == 2:
                continue
            key = f"01-{emotion:02d}-{intensity:02d}-01-{repetition:02d}-{actor:02d}"
            if (emotion, intensity, repetition) == (2, 1, 1):
                media(folder / f"01-{key}.mp4")
                continue
            media(folder / f"02-{key}.mp4", audio=False, frames=4)
            media(folder / f"03-{key}.wav", video=False, seconds=0.5 if repetition == 1 else 0.2)
    media(root / "Actor_01" / "03-02-03-01-01-01-01.wav", video=False)
    (root / "Actor_01" / "._02-01-03-01-01-01-01.mp4").write_bytes(b"resource fork")
    return root


MELD_HEADER = (
    *("Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID"),
    *("Season", "Episode", "StartTime", "EndTime"),
)


def meld(root: Path) -> Path:
    """The same dialogue number in two splits, curly quotes, a wrongly decoded apostrophe, "NA", 0 s and 300 s."""

    def row(number: int, text: str, speaker: str, emotion: str, dialogue: int, utterance: int, end: str) -> tuple:
        return (number, text, speaker, emotion, "neutral", dialogue, utterance, 1, 1, "00:00:01,000", end)

    folder = root / "MELD.Raw"
    train = [
        row(2, "NA", "Ross", "sadness", 0, 10, "00:00:02,000"),
        row(1, "“Hi, there”", "Joey", "joy", 0, 2, "00:00:02,500"),
        row(3, "I\x92m fine", "Joey", "neutral", 1, 0, "00:00:01,000"),
    ]
    dev = [row(1, "Oh…", "Monica", "surprise", 0, 0, "00:00:02,000")]
    test = [
        row(1, "No, no.", "Ross", "anger", 0, 2, "00:05:05,900"),
        row(2, "Yuck", "Ross", "disgust", 1, 0, "00:00:03,000"),
        row(3, "Help", "Rachel", "fear", 2, 0, "00:00:03,000"),
    ]
    for name, folder_name, rows in (
        ("train", "train/train_splits", train),
        ("dev", "dev_splits_complete", dev),
        ("test", "output_repeated_splits_test", test),
    ):
        table(folder / f"{name}_sent_emo.csv", MELD_HEADER, rows, windows=name == "dev")
        for cells in rows:
            media(folder / folder_name / f"dia{cells[5]}_utt{cells[6]}.mp4")
            (folder / folder_name / f"._dia{cells[5]}_utt{cells[6]}.mp4").write_bytes(b"x")
    return root


def mer2023(root: Path) -> Path:
    """Four sets; one .avi; a name that begins another one; a transcript table with an empty cell."""
    sets = {
        "train": [("sample_00000001", "happy", "2.5"), ("sample_00000012", "sad", "-1.25"), ("sample_2", "angry", "0")],
        "test1": [("sample_00000003", "neutral", "0.5")],
        "test2": [("sample_00000004", "worried", "-2")],
        "test3": [("samplenew_00000005", "surprise")],
    }
    for part, rows in sets.items():
        header = ("name", "discrete", "valence")[: len(rows[0])]
        table(root / f"{part}-label.csv", header, rows, windows=part == "test1")
        for cells in rows:
            media(root / part / f"{cells[0]}{'.avi' if part == 'test2' else '.mp4'}")
    media(root / "train" / "sample_000000012.mp4")
    media(root / "train" / "sample_20.mp4")
    texts = [
        ("sample_00000001", "你好", "Hello"),
        ("sample_00000012", "", ""),
        ("sample_00000003", "好吧", "All right"),
    ]
    table(root / "transcription-engchi-polish.csv", ("name", "chinese", "english"), texts)
    return root


def mer2025(root: Path) -> Path:
    """Five clips and their subtitles, quoted where Chinese text holds a comma."""
    labels = ("happy", "sad", "worried", "neutral", "angry")
    rows = [(f"samplenew3_0000000{i}", label, i - 2) for i, label in enumerate(labels)]
    table(root / "track1_train_disdim.csv", ("name", "discrete", "valence"), rows, windows=True)
    texts = [(name, "你好, 再见", "Hello, and goodbye") for name, *_ in rows[:2]]
    table(root / "subtitle_chieng.csv", ("name", "chinese", "english"), texts)
    for name, *_ in rows:
        media(root / "video" / f"{name}.mp4")
    return root


def mafw(root: Path) -> Path:
    """One clip per label in five folds, below a folder with blanks and an ampersand; the last clip has no sound."""
    labels = (
        *("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
        *("contempt", "anxiety", "helplessness", "disappointment"),
    )
    for fold in range(1, 6):
        folder = root / "Train & Test Set" / "single" / "no_caption" / f"set_{fold}"
        folder.mkdir(parents=True)
        lines = {"train": "", "test": ""}
        for clip, label in enumerate(labels, 1):
            lines["test" if clip % 5 == fold % 5 else "train"] += f"{clip:05d}.mp4 {label}\n"
        for split, text in lines.items():
            (folder / f"{split}.txt").write_text(text)
    for clip in range(1, len(labels) + 1):
        media(root / "clips" / f"{clip:05d}.mp4", audio=clip < len(labels))
    return root


SIMS_COLUMNS = ("video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation", "mode")
SIMS_V2_ROWS = [
    ("video_0001", "0001", "好", "1.0", "0.8", "0.6", "1.0", "Positive", "train"),
    ("aqgy3_0001", "00000", "不好", "-0.8", "0.4", "-0.8", "-1.0", "Negative", "train"),
    ("aqgy4_0005", "00011_0", "嗯，好", "-0.1", "0.0", "0.0", "-0.1", "Neutral", "train"),
    ("video_xjzw", "00012", "行", "0.2", "-0.2", "0.2", "0.4", "Positive", "train"),
    ("test10", "00001", "来", "0.0", "0.0", "0.2", "0.0", "Neutral", "valid"),
    ("csbgs2_0001", "00003", "走", "-0.4", "-0.6", "-0.4", "0.6", "Negative", "test"),
]


def sims_v2(root: Path) -> Path:
    """All id patterns of CH-SIMS v2, in ``meta.csv`` with a byte-order mark and CR LF."""
    table(root / "meta.csv", SIMS_COLUMNS, SIMS_V2_ROWS, windows=True)
    for video, clip, *_ in SIMS_V2_ROWS:
        media(root / "Raw" / video / f"{clip}.mp4")
    return root


def sims_old(root: Path) -> Path:
    """The first release of CH-SIMS: one label table per modality and row numbers per split."""
    clips = [("video_0001", "0001"), ("video_0001", "0002"), ("video_0002", "0001"), ("video_0003", "0001")]
    labels = {
        "M": (0.8, -0.2, 0.0, -1.0),
        "T": (0.6, 0.2, 0.0, -1.0),
        "A": (1.0, -0.2, 0.0, -0.8),
        "V": (0.8, -0.4, 0.0, -1),
    }
    for letter, values in labels.items():
        rows = [(*clip, value) for clip, value in zip(clips, values, strict=True)]
        table(root / "metadata" / "sentiment" / f"label_{letter}.csv", ("video_id", "clip_id", "label"), rows)
    texts = [(*clip, "好的", "Fine") for clip in clips]
    table(root / "metadata" / "Translation.csv", ("video_id", "clip_id", "Chinese", "English"), texts)
    for split, indices in (("train", (0, 1)), ("val", (2,)), ("test", (3,))):
        table(root / "metadata" / f"{split}_index.csv", ("index",), [(index,) for index in indices])
    for video, clip in clips:
        media(root / "Raw" / video / f"{clip}.mp4")
    return root


def mosi(root: Path) -> Path:
    """``label.csv`` without unimodal labels, columns in another order, an id with a dollar sign's neighbours."""
    columns = ("video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "mode", "annotation")
    rows = [
        ("03bSnISJMiM", "1", "IT WAS GOOD", "2.4", "", "", "", "train", "Positive"),
        ("-mJ2ud6oKI8", "2", "NOT REALLY", "-1.5999999", "", "", "", "valid", "Negative"),
        ("_dI--eQ6qVU", "10", "WELL", "0.0", "", "", "", "test", "Neutral"),
    ]
    table(root / "label.csv", columns, rows)
    for video, clip, *_ in rows:
        media(root / "Raw" / video / f"{clip}.mp4")
    return root


def mosei(root: Path) -> Path:
    """``label.csv`` with a column per emotion, and a table of the emotions alone."""
    emotions = ("happy", "sad", "anger", "surprise", "disgust", "fear")
    rows = [
        ("a", "1", "GOOD", "2", "train", 1.33, 0, 0, 0.66, 0, 0),
        ("b", "0", "WELL", "0", "valid", 0, 0, 0, 0, 0, 0),
        ("c", "7", "BAD", "-1", "test", 0, 3, 0, 0, 0, 0.33),
    ]
    table(root / "label.csv", ("video_id", "clip_id", "text", "label", "mode", *emotions), rows)
    table(root / "emotions" / "all.csv", ("clip_id", "video_id", *emotions), [(c, v, *e) for v, c, _, _, _, *e in rows])
    for video, clip, *_ in rows:
        media(root / "Raw" / video / f"{clip}.mp4")
    return root


def affwild2(root: Path) -> Path:
    """Six training videos and one for validation with two people; hidden files; a video without any annotated frame."""
    folder = root / "5th ABAW Annotations" / "VA_Estimation_Challenge"
    annotations = {f"Train_Set/{at}-30-1280x720": ["0.5,-0.25", "-5,-5", "-1,1"] for at in range(6)}
    annotations |= {"Validation_Set/video1_left": ["0,0"] * 3, "Validation_Set/video1_right": ["0.1,0.2"] * 3}
    annotations |= {"Train_Set/silent": ["-5,-5"] * 3, "Train_Set/._0-30-1280x720": ["junk"]}
    for name, lines in annotations.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text("\n".join(["valence,arousal", *lines, ""]))
    for at in range(6):
        media(root / f"batch{1 + at % 3}" / f"{at}-30-1280x720.mp4")
    media(root / "batch1" / "video1.mp4")
    media(root / "batch1" / "silent.mp4")
    return root


def iemocap(root: Path) -> Path:
    """Five sessions with one dialogue each; annotators' lines, a line that is no turn, and hidden files."""
    for session in range(1, 6):
        dialogue = f"Ses{session:02d}F_impro01"
        folder = root / f"Session{session}"
        turns = [
            ("F000", "neu"),
            ("M000", "hap"),
            ("F001", "exc"),
            ("M001", "xxx"),
            ("F002", "fru"),
            ("M002", "ang"),
            ("F003", "sad"),
        ]
        summary = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        lines = ["Ses_no_turn at all"] if session == 5 else []
        for number, (turn, code) in enumerate(turns):
            start, end = f"{number}.2901", f"{number + 1}.2357"
            summary.append(f"[{start} - {end}]\t{dialogue}_{turn}\t{code}\t[2.5000, 2.0000, 3.0000]")
            summary += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
            lines.append(f"{dialogue}_{turn} [00{start}-00{end}]: Line {number}.")
            media(folder / "sentences" / "wav" / dialogue / f"{dialogue}_{turn}.wav", video=False)
        evaluation = folder / "dialog" / "EmoEvaluation"
        (evaluation / "Categorical").mkdir(parents=True)
        (folder / "dialog" / "transcriptions").mkdir()
        (evaluation / f"{dialogue}.txt").write_text("\n".join(summary))
        (evaluation / f"._{dialogue}.txt").write_bytes(b"\xff\xfe")
        (evaluation / "Categorical" / f"{dialogue}_e2_cat.txt").write_text(f"{dialogue}_F000 :Neutral state; ()\n")
        (folder / "dialog" / "transcriptions" / f"{dialogue}.txt").write_text("\n".join(lines))
    return root


def dfew(root: Path) -> Path:
    """Seven clips, one per label, in five folds; integer names in the tables, padded and plain files."""
    for fold in range(1, 6):
        test = [(clip, clip) for clip in range(1, 8) if clip % 5 == fold % 5]
        train = [(clip, clip) for clip in range(1, 8) if clip % 5 != fold % 5]
        for split, rows in (("train", train), ("test", test)):
            path = root / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / f"set_{fold}.csv"
            table(path, ("video_name", "label"), rows)
    for clip in range(1, 8):
        media(root / "Clip" / "original" / (f"{clip}.mp4" if clip < 4 else f"{clip:05d}.mp4"))
    return root


def emer(root: Path) -> Path:
    """Quoted cells with commas and line breaks, in two languages."""
    rows = [
        ("samplenew_00000001", "['sad', 'let down']", "“Well, then.”", "In the text, the person says:\n“well”."),
        ("samplenew_00000002", "[]", "Yes", "Nothing is said about it."),
        ("samplenew_00000003", "Surprised", "Oh", "Wide eyes, raised brows"),
    ]
    table(root / "gt-eng.csv", ("names", "emotions", "subtitles", "reasons"), rows)
    chinese = [(rows[0][0], "['伤心']", "好吧。", "她低下头，叹气。")]
    table(root / "gt-chi.csv", ("names", "emotions", "subtitles", "reasons"), chinese)
    for name, *_ in rows:
        media(root / "video" / f"{name}.mp4")
    return root


def ca_mer(root: Path) -> Path:
    """One clip of each group, and one with three different labels."""
    rows = [
        ("sample_1", "angry", "angry", "Anger"),
        ("sample_2", "neutral", "worried", "worry"),
        ("sample_3", "sad", "happy", "sad"),
        ("sample_4", "sad", "happy", "angry"),
    ]
    table(root / "labels.csv", ("name", "q_a", "q_v", "q_av"), rows)
    for name, *_ in rows:
        media(root / "video" / f"{name}.mp4")
    return root


def emomm(root: Path) -> Path:
    """An aligned source with its three incomplete versions, a conflicting one, and one without unimodal labels."""
    columns = ("base_id", "lang", "text", "label_T", "label_A", "label_V", "label_M", "drop")
    aligned = ("a1", "zh", "好", "0.8", "0.6", "1.0", "0.8")
    rows = [(*aligned, drop) for drop in ("none", "T", "A", "V")]
    rows += [("b1", "en", "no", "-0.6", "0.6", "", "0.4", "none"), ("c1", "en", "so", "", "", "", "0.4", "none")]
    table(root / "labels.csv", columns, rows)
    for name in ("a1", "b1", "c1"):
        media(root / "video" / f"{name}.mp4")
    return root


def read_jsonl(path: Path) -> list[dict]:
    """The rows of a manifest as plain dicts."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
