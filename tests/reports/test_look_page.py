"""The page of a look: its weight at the size of a 7B model, its 8-bit values, hostile words, and it in Chromium."""

from __future__ import annotations

import base64
from html import unescape

import numpy as np
import pytest
from crosslens.analyses.look import maps
from crosslens.reports.pages import look as page

from ..helpers import look_content, tiny
from ..helpers.chromium import find_chromium

HOSTILE = [" <img src=x onerror=boom()>", " </script><b>bold</b>", " dog"]
QUESTION = "What <b>is</b> it?</script><script>boom()</script>"


def test_values_come_back_within_half_a_step():
    values = np.random.default_rng(0).random((3, 4, 50)) ** 4
    values[0, 0, 0], values[1, 1] = np.nan, 0
    told = page.eight_bits(values)
    whole = np.frombuffer(base64.b64decode(told["bytes"]), np.uint8).reshape(3, 4, 50)
    scale = np.array(told["scale"]).reshape(3, 4, 1)
    wanted = np.nan_to_num(values)
    limit = np.sqrt(wanted * scale) / 255 + scale / 4 / 255**2
    assert (np.abs(scale * (whole / 255) ** 2 - wanted) <= limit + 1e-12).all()


def test_a_page_of_a_7b_model_weighs_at_most_six_megabytes(tmp_path):
    """32 layers, 576 image tokens, an answer of 20 words, in noise: as many layers as the budget leaves."""
    tokens, layers, cells = 20, 32, 576
    width = -(-8 * tokens * layers * cells // maps.BUDGET)
    names = [f"layers {i}" for i in range(0, layers, width)]
    content = look_content.of_pictures([" word"] * tokens, names, 24, heads=12)
    assert page.save(content, tmp_path / "look.html").stat().st_size < 6e6
    assert sorted(file.name for file in tmp_path.iterdir()) == ["look.html"]
    assert len(page.inline(content)) < 6e6


def test_words_of_a_model_are_only_ever_words():
    text = page.render(look_content.of_pictures(HOSTILE, ["layer 0", "layer 1"], 4, question=QUESTION))
    for bad in ("<img src=x", "<b>bold", "<b>is</b>", "<script>boom"):
        assert bad not in text
    assert text.count("</script>") == text.count("<script")


def framed(html):
    """What stands in the one frame of a view for Jupyter."""
    head, _, rest = html.partition(' srcdoc="')
    assert head.startswith('<iframe sandbox="allow-scripts" ')
    inner, quote, tail = rest.partition('"')
    assert (quote, tail) == ('"', "></iframe>")
    return unescape(inner)


def test_jupyter_shows_the_page_in_a_frame_of_its_own():
    content = look_content.of_pictures(HOSTILE, ["layer 0"], 4, question=QUESTION + '" onload="boom()')
    html = page.inline(content)
    assert framed(html) == page.render(content)
    assert "onload" not in html.split("srcdoc")[0].replace("&quot; onload=&quot;", "")


def test_files_are_named_by_their_question():
    assert page.file_name("What colour is the circle?") == "look-what-colour-is-the-circle.html"
    assert page.file_name("../../etc") == "look-etc.html"
    assert page.file_name("?!") == "look-prompt.html"
    assert len(page.file_name("w " * 500)) < 80


def test_an_unknown_geometry_is_said_in_words():
    text = page.render(look_content.of_pictures([" dog"], ["layer 0"], 4, unknown="nobody knows"))
    assert "No map is drawn over the picture: nobody knows." in text
    assert "<canvas role" not in text


needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no chromium on PATH: apt install chromium")


def opened(browser, path, width=1200):
    browser.open("about:blank")
    browser.open(path.as_uri(), width=width)
    browser.wait("document.body.dataset.ready === 'yes'")


def clean(browser, width):
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "about:", "blob:"))] == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


DRAWN = "document.querySelector('.picture canvas').toDataURL()"


def after(browser, action, pixels=DRAWN):
    """What is drawn once an action has changed it."""
    before = browser.evaluate(pixels)
    browser.evaluate(f"{action}; 0")
    browser.wait(f"{pixels} !== {before!r}")
    return browser.evaluate(pixels)


def choose(selector, value):
    return f"box = document.querySelector('{selector}'); box.value = {value!r}; box.onchange({{ target: box }})"


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_words_ways_layers_heads_and_controls_change_the_map(browser, tmp_path, width):
    content = look_content.of_pictures(HOSTILE, ["layer 0", "layer 1"], 4, question=QUESTION)
    opened(browser, page.save(content, tmp_path / "look.html"), width)
    clean(browser, width)
    seen = [browser.evaluate(DRAWN)]
    seen.append(after(browser, "document.querySelectorAll('#words button')[2].click()"))
    assert browser.evaluate("document.querySelector('#words [aria-pressed=true]').textContent") == HOSTILE[1][1:]
    assert HOSTILE[1][1:] in browser.evaluate("document.getElementById('word-says').textContent")
    seen.append(after(browser, "document.querySelector('#side [value=\"−blank\"]').click()"))
    seen.append(after(browser, "document.querySelector('#layers button').click()"))
    seen.append(after(browser, "document.querySelector('#heads button').click()"))
    for way in ("1", "2", "3", "4"):
        seen.append(after(browser, choose("#way", way)))
    assert len(set(seen)) == len(seen)
    assert browser.evaluate("document.querySelectorAll('main img').length") == 1
    assert browser.evaluate("document.querySelectorAll('main script').length") == 0
    clean(browser, width)


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("kind", ["pictures", "text"])
def test_the_view_for_jupyter_works_alone(browser, tmp_path, kind):
    """What the frame holds, opened by itself: it asks for nothing, not even the file beside a saved page of a text."""
    from crosslens import look

    of_text = look(tiny.subject(), "w1 w2 w3").content if kind == "text" else None
    content = of_text or look_content.of_pictures(HOSTILE, ["layer 0"], 4, question=QUESTION)
    path = tmp_path / "frame.html"
    path.write_text(framed(page.inline(content)), "utf-8")
    opened(browser, path)
    clean(browser, 1200)
    path.write_text(f"<!doctype html><title>notebook</title><main>{page.inline(content)}</main>", "utf-8")
    browser.open(path.as_uri())
    browser.wait("document.readyState === 'complete'")
    clean(browser, 1200)


@needs_chromium
@pytest.mark.browser
def test_what_lies_under_the_mouse_is_told(browser, tmp_path):
    content = look_content.of_pictures([" dog"], ["layer 0"], 4)
    opened(browser, page.save(content, tmp_path / "look.html"))
    browser.evaluate("canvas = document.querySelector('.picture canvas'); canvas.scrollIntoView(); 0")
    corner = browser.evaluate("(({ left, top }) => [left, top])(canvas.getBoundingClientRect())")
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=corner[0] + 5, y=corner[1] + 5)
    told = browser.evaluate("document.getElementById('cell-says').textContent")
    value = content["maps"][0]["values"]["asked"][0, 0, 0]
    assert told.startswith("row 1, column 1: this question 0.")
    assert float(told.split("question ")[1].split(",")[0]) == pytest.approx(value, abs=0.01)
    assert "A sink token" in told


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_a_word_of_a_text_is_kept_by_a_click(browser, tmp_path, width):
    from crosslens import look

    found = look(tiny.subject(), "w1 w2 w3 w4 w5")
    path = found.save(tmp_path / "text.html")
    opened(browser, path, width)
    clean(browser, width)
    words = "document.querySelectorAll('#text button')"
    browser.evaluate(f"{words}[2].click(); {words}[4].onpointerenter(); 0")
    assert browser.evaluate("document.querySelector('#text [aria-current]').textContent") == "w2"
    row = found.content["patterns"][0][3:6]  # of the third token
    told = browser.evaluate("document.getElementById('says').textContent")
    assert float(told.split("” ")[2].split(" %")[0]) == pytest.approx(100 * row.max(), abs=1)
    pixels = "document.getElementById('matrix').toDataURL()"
    after(browser, choose("#map", "mean 1"), pixels)
    assert "layer 1" in browser.evaluate("document.getElementById('says').textContent")
    clean(browser, width)
