"""The page in a real browser: it opens, moves, unfolds, fits a phone, and is dark where asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from inflate.report.writing import write_report

from .browsing import chromium, emulate, missing, screenshot
from .building import REPORTS, document_of

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")
PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The reports as pages, by their names."""
    folder = tmp_path_factory.mktemp("pages")
    urls = {}
    for number, (name, report) in enumerate(REPORTS.items()):
        path = folder / f"{number}.html"
        write_report(document_of(name), path, report.pictures)
        urls[name] = path.as_uri()
    return urls


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """One browser for all tests."""
    with chromium() as driver:
        yield driver


def script(driver: Chrome, code: str) -> Any:
    """What a piece of JavaScript gives."""
    return driver.execute_script(f"return {code}")  # type: ignore[no-untyped-call]


def look_at(driver: Chrome, page: str) -> None:
    """Open a page, and wait for all of it; on a busy machine the driver comes back early."""
    from selenium.webdriver.support.wait import WebDriverWait

    driver.get(page)
    WebDriverWait(driver, 10).until(
        lambda _: script(driver, "[location.href, document.readyState]") == [page, "complete"]
    )


def requests(driver: Chrome, page: str) -> list[str]:
    """What a page asked for since the last question; the browser's own tabs ask as well."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]  # type: ignore[no-untyped-call]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        and message["params"]["documentURL"] == page
    ]


def contrast(first: str, second: str) -> float:
    """The contrast of two colours ``rgb(r, g, b)`` (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", REPORTS)
def test_it_opens_without_a_word_and_without_a_request(
    browser: Chrome, pages: dict[str, str], name: str
) -> None:
    emulate(browser, DESK)
    requests(browser, pages[name])
    look_at(browser, pages[name])
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert {url for url in requests(browser, pages[name]) if not url.startswith("data:")} == {
        pages[name]
    }
    place = script(browser, "document.querySelector('#verdict').getBoundingClientRect().toJSON()")
    assert 0 < place["top"] < place["bottom"] < 300, "the verdict is seen first"


@pytest.mark.parametrize("width", [320, PHONE])
@pytest.mark.parametrize("name", REPORTS)
def test_nothing_is_wider_than_the_screen(
    browser: Chrome, pages: dict[str, str], name: str, width: int
) -> None:
    emulate(browser, width)
    look_at(browser, pages[name])
    script(browser, "document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert script(browser, "document.documentElement.scrollWidth") <= width
    wide = script(
        browser,
        "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)"
        ".every((e) => getComputedStyle(e).overflowX === 'auto' && e.tabIndex === 0)",
    )
    assert wide, "what is wider scrolls in its box, with keys too"


def test_the_slider_changes_the_frame(browser: Chrome, pages: dict[str, str]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    emulate(browser, DESK)
    look_at(browser, pages["failed"])
    shown = "[...document.querySelectorAll('.frame')].map((e) => e.checkVisibility())"
    assert script(browser, shown) == [True, False, False, False, False]
    slider = browser.find_element(By.CSS_SELECTOR, "input[type=range]")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert script(browser, shown) == [False, False, True, False, False]
    assert browser.find_element(By.TAG_NAME, "output").text == "Frame 2 (3 of 5)"
    assert slider.get_attribute("aria-valuetext") == "Frame 2 (3 of 5)"
    drawn = script(
        browser,
        "[...document.querySelectorAll('.frame:not([hidden]) img')].map((e) => e.naturalWidth)",
    )
    assert drawn == [80] * 4, "all four images are read"
    play = browser.find_element(By.CSS_SELECTOR, ".control button")
    play.click()
    assert play.text == "Stop"
    play.click()
    assert play.text == "Play"


def test_without_a_script_all_frames_are_a_list(browser: Chrome, pages: dict[str, str]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        look_at(browser, pages["failed"])
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    frames = "[...document.querySelectorAll('.frame')].map((e) => e.checkVisibility())"
    assert script(browser, frames) == [True] * 5
    assert not script(browser, "document.querySelector('.control').checkVisibility()")


def test_the_tree_opens(browser: Chrome, pages: dict[str, str]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    emulate(browser, PHONE)
    look_at(browser, pages["failed"])
    visible = "[...document.querySelectorAll('.leaf')].filter((e) => e.checkVisibility()).length"
    assert script(browser, visible) == 0
    encoder = browser.find_elements(By.CSS_SELECTOR, ".tree summary")[1]
    before = script(browser, "document.querySelectorAll('.tree details[open]').length")
    encoder.send_keys(Keys.ENTER)
    assert script(browser, "document.querySelectorAll('.tree details[open]').length") == before + 1
    browser.find_element(By.ID, "open-all").send_keys(Keys.ENTER)
    assert script(browser, visible) == len(REPORTS["failed"].plan)


@pytest.mark.parametrize("name", ["equal", "close", "failed"])
def test_dark_and_light_are_two_and_both_can_be_read(
    browser: Chrome, pages: dict[str, str], name: str
) -> None:
    grounds = []
    for dark in (False, True):
        emulate(browser, DESK, dark=dark)
        look_at(browser, pages[name])
        colours = script(
            browser,
            "[...document.querySelectorAll('body, h1, .reason, .quiet, .mark, .todo h2, .todo li, "
            "a, .alarm, .alarm dd, th, td, button, summary, figcaption, dt')].map((e) => {"
            " let ground = e; while (ground && getComputedStyle(ground).backgroundColor"
            " === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;"
            " return [getComputedStyle(e).color, getComputedStyle(ground).backgroundColor,"
            " e.outerHTML.slice(0, 80)]; })",
        )
        assert len(colours) > 100
        for text, ground, where in colours:
            assert contrast(text, ground) >= 4.5, (where, text, ground)
        grounds.append(script(browser, "getComputedStyle(document.body).backgroundColor"))
        assert screenshot(browser, full=False).startswith(b"\x89PNG")
    light, dark_ground = grounds
    assert contrast(light, "rgb(255, 255, 255)") < 1.2
    assert contrast(dark_ground, "rgb(0, 0, 0)") < 1.3
