"""What a page shows outside of the place it has, found by a browser."""

from __future__ import annotations

from tests.helpers.browser import Browser

# Every piece of text, against the card it stands in; a graphic's text also against what the graphic shows of itself.
# What can be scrolled to is not lost.
_OUTSIDE = """(() => {
    const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode, parent = text.parentElement;
        if (!text.data.trim() || parent.closest("script, title, style, select, .scroll, details:not([open])")) continue;
        const range = document.createRange();
        range.selectNodeContents(text);
        const svg = parent.closest("svg.matrix, svg.heatmap, svg.chart, svg.bias");
        const frames = [parent.closest(".card") || document.documentElement, ...(svg ? [svg] : [])];
        for (const box of svg ? [parent.getBoundingClientRect()] : range.getClientRects())
            for (const frame of frames.map((element) => element.getBoundingClientRect()))
                if (box.left < frame.left - 0.5 || box.right > frame.right + 0.5 || (svg && box.top < frame.top - 0.5))
                    found.push(text.data.trim().slice(0, 60));
    }
    return found;
})()"""


def text_outside(browser: Browser) -> list[str]:
    """Texts that stick out of their card, or out of their confusion matrix, heat map or chart."""
    return browser.run(_OUTSIDE)


def cut_tables(browser: Browser) -> list[str]:
    """Names of the tables that are wider than their card."""
    return browser.run(
        "[...document.querySelectorAll('.scroll')].filter(card => card.scrollWidth > card.clientWidth + 1)"
        ".map(card => card.getAttribute('aria-labelledby') || card.getAttribute('aria-label'))"
    )
