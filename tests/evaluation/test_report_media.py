"""Example clips in a run report: their media are inside the page up to a limit, and what is not is named."""

import base64
import re
import wave
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from mosear.evaluation.report import Example
from mosear.evaluation.report.clip_media import Embedder, media_type
from mosear.evaluation.report.content import ClipMedia
from tests.helpers.report_pages import EVIL, LABELS, Page, make_rows, render

MP4 = b"\0\0\0\x20ftypisom" + bytes(500)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "media" / "one.mp4"
    path.parent.mkdir()
    path.write_bytes(MP4)
    return path


def shown(tmp_path: Path, media: ClipMedia | None, **changes) -> tuple[str, Page]:
    folder = tmp_path / "page"
    folder.mkdir()
    systems = {name: make_rows(name, 0.5, seed=i) for i, name in enumerate(("zero_shot", "tuned"))}
    example = Example.from_rows({name: rows[1] for name, rows in systems.items()})
    html, _ = render(folder, systems, examples=[replace(example, media=media, **changes)])
    return html, Page(html)


def sources(page: Page, wanted: str) -> list[str]:
    return [value for tag, name, value in page.attributes if (tag, name) == (wanted, "src")]


def test_a_clip_is_in_the_page_byte_for_byte(tmp_path, video):
    _, page = shown(tmp_path, Embedder(tmp_path / "page", 2)(video, "video"))
    (source,) = sources(page, "video")
    assert source.startswith("data:video/mp4;base64,") and base64.b64decode(source.split(",")[1]) == MP4
    assert ("video", "controls", None) in page.attributes
    assert ("video", "muted", None) not in page.attributes


def test_the_page_holds_no_more_than_the_limit(tmp_path, video):
    encoded = len(base64.b64encode(MP4))
    embed = Embedder(tmp_path, (2 * encoded + 10) / 1e6)
    media = [embed(video, "video") for _ in range(4)]
    assert [one.video is not None for one in media] == [True, True, False, False]
    assert sum(len(one.video.split(",")[1]) for one in media[:2]) == 2 * encoded


def test_what_does_not_fit_is_named_with_a_link_that_leads_to_it(tmp_path, video):
    hostile = video.with_name('<b onclick="x">&#1 long.mp4')
    video.rename(hostile)
    hostile.write_bytes(MP4 + bytes(1_500_000))
    html, page = shown(tmp_path, Embedder(tmp_path / "page", 1)(hostile, "video"))
    assert f"{hostile.name} (1.5 MB) is not in this page, which holds 1 MB." in page.words
    (link,) = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href") and value[0] != "#"]
    assert (tmp_path / "page" / unquote(link)).resolve() == hostile.resolve()
    assert "<b onclick" not in html and str(tmp_path) not in html
    assert "no video" in page.words and sources(page, "video") == []


def test_content_says_what_a_file_is_and_not_its_name(tmp_path, video):
    video.write_bytes(b"<html><script>alert(1)</script></html>" + bytes(100))
    media = Embedder(tmp_path, 2)(video, "video")
    assert media.video is None and "of a kind that browsers do not play" in media.notes[0][0]
    with wave.open(str(tmp_path / "a.mp4"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.zeros(8, np.int16).tobytes())
    assert media_type((tmp_path / "a.mp4").read_bytes()) == "audio/wav"
    with pytest.raises(ValueError, match="data URIs of video or audio, got 'https:"):
        ClipMedia(video="https://example.org/x.mp4")


def test_sound_is_as_the_model_had_it(tmp_path, video):
    sound = video.with_name("voice.wav")
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.zeros(80, np.int16).tobytes())
    embed = Embedder(tmp_path, 2)
    assert [embed(video, audio).muted for audio in ("video", sound, None)] == [False, True, True]
    assert not embed(None, sound).muted
    _, page = shown(tmp_path, embed(video, sound))
    assert ("video", "muted", None) in page.attributes
    (source,) = sources(page, "audio")
    assert base64.b64decode(source.split(",")[1]) == sound.read_bytes()
    assert "The model was not given the sound of this video, but the sound above." in page.words


def test_a_clip_of_sound_alone_has_a_player(tmp_path, video):
    _, page = shown(tmp_path, Embedder(tmp_path, 2)(None, video))
    assert len(sources(page, "audio")) == 1 and sources(page, "video") == [] and "no video" not in page.words


def test_a_file_that_is_gone_is_told_and_no_limit_means_no_media(tmp_path, video):
    video.unlink()
    media = Embedder(tmp_path, 2)(video, "video")
    assert media.notes == (("one.mp4 could not be read (No such file or directory).", None),)
    assert Embedder(tmp_path, 0)(video, "video") is None


def test_every_modality_has_its_own_distribution(tmp_path):
    readings = {"visual": [0.7, 0.2, 0.1], "audio": [0.05, 0.06, 0.89], "text": None}
    distributions = {"zero_shot": [0.31, 0.33, 0.36], "tuned": [0.51, 0.43, 0.06]}
    html, page = shown(tmp_path, None, readings=readings, distributions=distributions)
    table = html[html.index('<table class="evidence">') :].split("</table>")[0]
    heads = re.findall(r'<th scope="col">(.*?)</th>', table)
    assert heads == ["zero-shot", "tuned", "face alone", "voice alone", "text alone"]
    cells = [re.findall(r"<td.*?>(\d+ %|–)", row) for row in table.split("<tr")[2:]]
    columns = [*distributions.values(), readings["visual"], readings["audio"]]
    assert cells == [[*(f"{100 * values[i]:.0f} %" for values in columns), "–"] for i in range(len(LABELS))]
    assert EVIL in page.words


def test_written_answers_are_shown_as_text(tmp_path):
    text = "<think>brows lowered</think>\n<answer>sad</answer><script>alert(1)</script>"
    html, page = shown(tmp_path, None, written={"tuned": text, "zero_shot": "x" * 3000})
    assert "What tuned wrote" in page.words and "&lt;think&gt;brows lowered" in html
    assert "<think>" not in html and "<script" not in html
    assert "x" * 2000 + "..." in html and "x" * 2001 not in html
    (tmp_path / "scored").mkdir()
    assert "wrote" not in shown(tmp_path / "scored", None)[1].words
