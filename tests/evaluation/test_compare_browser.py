"""The comparison in a real browser, from a file:// address: keys, filters, hostile text, colours, narrow screens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mosear.evaluation.compare import compare
from tests.helpers.browser import CHROMIUM, Browser
from tests.helpers.comparison_runs import EVIL, write_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (not on the PATH)")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two systems on two benchmarks, hostile text wherever text can come from, and one playable video."""
    folder = tmp_path_factory.mktemp("comparison")
    for number, model in enumerate(("zero_shot", "tuned")):
        write_run(folder / "runs" / str(number), model=model, experiment=EVIL, seed=number, media=folder / "media")
        write_run(
            folder / "runs" / f"other{number}", model=model, benchmark=f"other {EVIL}", experiment=EVIL, seed=number
        )
    compare([folder / "runs"], folder / "comparison.html", clips=1000, n_boot=200)
    return folder / "comparison.html"


CHOSEN = "document.querySelector('#list [aria-selected=true]')"
INDEX = f"[...document.querySelectorAll('#list li')].indexOf({CHOSEN})"
SHOWN = "document.querySelectorAll('#list [role=option]').length"


def test_hostile_text_is_text(page: Path, browser: Browser) -> None:
    browser.open(page)
    assert browser.run("window.hacked") is None
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert browser.run("document.querySelectorAll('#browser img, #browser b:not(.facts b)').length") == 0
    assert EVIL in browser.run("document.getElementById('detail').textContent")
    assert EVIL in browser.run("document.getElementById('list').textContent")
    assert browser.complaints() == []


def test_nothing_comes_from_elsewhere(page: Path, browser: Browser) -> None:
    browser.open(page)
    outside = [url for url in browser.asked_for() if not url.startswith((page.parent.as_uri(), "data:"))]
    assert outside == []


def test_keys_reach_everything(page: Path, browser: Browser) -> None:
    browser.open(page)
    assert browser.run(INDEX) == 0
    browser.run("document.getElementById('list').focus()")
    browser.press("ArrowDown", "ArrowDown", "ArrowUp", "ArrowDown")
    assert browser.run(INDEX) == 2
    assert browser.run(f"document.getElementById('list').getAttribute('aria-activedescendant') === {CHOSEN}.id")
    chosen = browser.run(f"{CHOSEN}.querySelector('code').textContent")
    assert browser.run("document.querySelector('#detail h3').textContent") == chosen
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "detail"
    browser.press("Escape", "End")
    assert browser.run(f"{INDEX} === {SHOWN} - 1")
    browser.press("ArrowDown")  # at the end it stays there
    assert browser.run(f"{INDEX} === {SHOWN} - 1")
    browser.press("Home", "/")
    assert browser.run("document.activeElement.id") == "find"
    browser.write("clip 3")
    shown = browser.run("[...document.querySelectorAll('#list code')].map(node => node.textContent)")
    assert shown and all("clip 3" in name for name in shown)
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "list"


def test_focus_is_seen(page: Path, browser: Browser) -> None:
    browser.open(page)
    browser.press("/")
    assert browser.run("getComputedStyle(document.getElementById('find')).outlineStyle") == "solid"


def chosen_option(browser: Browser, select_id: str, text: str) -> list[list[str]]:
    """Choose an option by its words; the marks of every clip that is then shown."""
    browser.run(
        f"""(() => {{
            const field = document.getElementById({json.dumps(select_id)});
            field.value = [...field.options].find(option => option.textContent === {json.dumps(text)}).value;
            field.dispatchEvent(new Event("change"));
        }})()"""
    )
    return browser.run(
        "[...document.querySelectorAll('#list [role=option]')]"
        ".map(row => [...row.querySelectorAll('.marks span')].map(mark => mark.className))"
    )


def test_filters_show_what_they_say(page: Path, browser: Browser) -> None:
    browser.open(page)
    everything = browser.run(SHOWN)
    other = EVIL.replace("_", " ")
    found = {
        name: chosen_option(browser, "pattern", name)
        for name in (
            "all systems wrong",
            "all systems right",
            "systems disagree",
            f"only {other} wrong",
            f"{other} wrong",
        )
    }
    assert all(marks == ["", ""] for marks in found["all systems wrong"])
    assert all(marks == ["right", "right"] for marks in found["all systems right"])
    assert all(sorted(marks) == ["", "right"] for marks in found["systems disagree"])
    assert all(marks == ["right", ""] for marks in found[f"only {other} wrong"])
    assert all(marks[1] == "" for marks in found[f"{other} wrong"])
    assert all(found.values())
    parts = [len(found[name]) for name in ("all systems wrong", "all systems right", "systems disagree")]
    assert sum(parts) == everything
    chosen_option(browser, "pattern", "all answers")
    chosen_option(browser, "subset", "synthetic: video aligned")
    count = browser.run("document.getElementById('count').textContent")
    assert count == f"{browser.run(SHOWN)} of {everything} clips" and 0 < browser.run(SHOWN) < everything
    labels = browser.run("[...document.querySelectorAll('#list li')].map(row => row.getAttribute('aria-label'))")
    assert all("video aligned" in label for label in labels)


def test_the_video_is_found_and_its_sound_is_as_the_model_had_it(page: Path, browser: Browser) -> None:
    browser.open(page)
    ready = """new Promise((resolve) => {
        const player = document.querySelector("#detail video");
        if (player.readyState) resolve(player.videoWidth);
        else { player.onloadedmetadata = () => resolve(player.videoWidth); player.onerror = () => resolve(0); }
    })"""
    assert browser.run(ready) > 0
    assert browser.run("document.querySelector('#detail video').muted")
    assert "was not given the sound" in browser.run("document.getElementById('detail').textContent")


@pytest.mark.parametrize("width", [420, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen_in_both_colours(
    width: int, dark: bool, page: Path, browser: Browser, tmp_path: Path
) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    shades = [int(number) for number in background.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (max(shades) < 64) if dark else (min(shades) > 192)
    browser.picture(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.width == width and len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20
