"""The pages in a real browser: they open, fit, print, are dark on request, and react to keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from inflate.batch.reports import to_html
from inflate.report.writing import write_report

from .browsing import chromium, emulate, missing
from .building import REPORTS, document_of
from .test_html import batch_document_of

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")
PHONE, TABLET, DESK = 390, 768, 1280
NAMES = ("equal", "close", "failed", "hostile", "bare", "batch")
GROUNDS = (
    "[...document.querySelectorAll('body, h1, .reason, .quiet, .mark, .todo h2, .todo li, a, dt,"
    " th, td, button, summary, figcaption, label, .alarm dd')].map((e) => { let ground = e;"
    " while (ground && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)')"
    " ground = ground.parentElement; return [getComputedStyle(e).color, ground ?"
    " getComputedStyle(ground).backgroundColor : 'rgb(255, 255, 255)', e.outerHTML]; })"
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages, by the names of their reports."""
    folder = tmp_path_factory.mktemp("pages")
    for name in set(NAMES) - {"batch"}:
        write_report(document_of(name), folder / f"{name}.html", REPORTS[name].pictures)
    batch = batch_document_of("held", "held", "failed", "unequal", "held", "not-run")
    (folder / "batch.html").write_text(to_html(batch), encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in NAMES}


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """One browser for all tests."""
    with chromium() as driver:
        yield driver


def script(driver: Chrome, code: str) -> Any:
    """The value of a piece of JavaScript."""
    return driver.execute_script(f"return {code}")  # type: ignore[no-untyped-call]


def element(driver: Chrome, selector: str) -> WebElement:
    """The first element that a CSS selector finds."""
    return driver.find_element("css selector", selector)


def look_at(driver: Chrome, page: str) -> None:
    """Open a page, and wait for all of it; on a busy machine the driver comes back early."""
    from selenium.webdriver.support.wait import WebDriverWait

    driver.get(page)
    WebDriverWait(driver, 10).until(
        lambda _: script(driver, "[location.href, document.readyState]") == [page, "complete"]
    )


def requests(driver: Chrome, page: str) -> set[str]:
    """What a page requested since the last call; the browser's own tabs send requests as well."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]  # type: ignore[no-untyped-call]
    return {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        and message["params"]["documentURL"] == page
    }


def contrast(first: str, second: str) -> float:
    """The contrast of two colours ``rgb(r, g, b)`` (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", ["failed", "hostile", "batch"])
def test_it_opens_without_a_message_and_without_a_request(
    browser: Chrome, pages: dict[str, str], name: str
) -> None:
    emulate(browser, DESK)
    requests(browser, pages[name])
    look_at(browser, pages[name])
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert {url for url in requests(browser, pages[name]) if not url.startswith("data:")} == {
        pages[name]
    }
    bottom = script(browser, "document.querySelector('h1').getBoundingClientRect().bottom")
    assert 0 < bottom < 300, "the verdict is seen first"


@pytest.mark.parametrize(
    ("name", "width"),
    [
        *(("failed", width) for width in (320, DESK)),
        *(("hostile", width) for width in (320, DESK)),
        ("batch", 320),
        *(pytest.param(n, w, marks=pytest.mark.slow) for n in NAMES for w in (PHONE, TABLET)),
    ],
)
def test_nothing_is_cut(browser: Chrome, pages: dict[str, str], name: str, width: int) -> None:
    emulate(browser, width)
    look_at(browser, pages[name])
    script(browser, "document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    browser.execute_async_script("requestAnimationFrame(arguments[0])")  # type: ignore[no-untyped-call]
    assert script(browser, "document.documentElement.scrollWidth") <= width
    boxes = script(
        browser,
        "[...document.querySelectorAll('.scroll')].map((e) => [e.scrollWidth > e.clientWidth,"
        " e.classList.contains('wide'), e.tabIndex, getComputedStyle(e).overflowX, e.ariaLabel])",
    )
    for wide, hinted, tab, overflow, label in boxes:
        assert (hinted, tab, overflow) == (wide, 0, "auto"), "a wide table scrolls, with a hint"
        assert not (wide and width == DESK and name != "hostile"), label


@pytest.mark.parametrize("medium", ["light", "dark", "print"])
@pytest.mark.parametrize("name", ["close", "failed", "batch"])
def test_it_can_be_read_and_printed(
    browser: Chrome, pages: dict[str, str], name: str, medium: str
) -> None:
    emulate(browser, 700, dark=medium != "light", printed=medium == "print")
    look_at(browser, pages[name])
    assert script(browser, "document.documentElement.scrollWidth") <= 700
    for text, ground, where in script(browser, GROUNDS):
        assert contrast(text, ground) >= 4.5, (where, text, ground)
    body = script(browser, "getComputedStyle(document.body).color")
    assert contrast(body, "rgb(255,255,255)" if medium == "dark" else "rgb(0,0,0)") < 1.5
    buttons = "[...document.querySelectorAll('input, .jump, .control')]"
    frames = "[...document.querySelectorAll('.frame')]"
    if medium == "print":
        assert not script(browser, f"{buttons}.some((e) => e.checkVisibility())")
        assert script(browser, f"{frames}.every((e) => e.checkVisibility())")


def test_keys_move_the_slider(browser: Chrome, pages: dict[str, str]) -> None:
    from selenium.webdriver.common.keys import Keys

    emulate(browser, DESK)
    look_at(browser, pages["failed"])
    shown = "[...document.querySelectorAll('.frame')].map((e) => e.checkVisibility())"
    assert script(browser, shown) == [True, False, False, False, False]
    slider = element(browser, "input[type=range]")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert script(browser, shown) == [False, False, True, False, False]
    assert slider.get_attribute("aria-valuetext") == element(browser, ".control output").text
    images = "[...document.querySelectorAll('.frame:not([hidden]) img')].map((e) => e.naturalWidth)"
    assert script(browser, images) == [80] * 4
    slider.send_keys(Keys.END)
    assert script(browser, shown) == [False, False, False, False, True]
    play = element(browser, ".control button")
    labels = []
    for _ in range(3):
        labels.append(play.text)
        play.send_keys(Keys.ENTER)
    assert labels == ["Play", "Stop", "Play"]


def test_a_batch_is_filtered_and_sorted_with_keys(browser: Chrome, pages: dict[str, str]) -> None:
    from selenium.webdriver.common.keys import Keys

    emulate(browser, DESK)
    look_at(browser, pages["batch"])
    rows = "[...document.querySelectorAll('#jobs tbody tr')].filter((e) => e.checkVisibility())"
    sources = f"{rows}.map((e) => e.cells[1].querySelector('code').textContent[0])"
    assert script(browser, sources) == list("235014"), "failures first"
    element(browser, "input[value=held]").send_keys(Keys.SPACE)
    assert script(browser, sources) == list("235")
    words = element(browser, "input[type=search]")
    words.send_keys("BROKE it")
    assert script(browser, sources) == list("2")
    assert element(browser, ".filters output").text.startswith("1 of 6")
    words.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    element(browser, "input[value=held]").send_keys(Keys.SPACE)
    seconds = element(browser, "th:last-child button")
    seconds.send_keys(Keys.ENTER)
    assert script(browser, sources) == list("543210")
    seconds.send_keys(Keys.ENTER)
    assert script(browser, sources) == list("012345")
    assert element(browser, "th:last-child").get_attribute("aria-sort") == "descending"
