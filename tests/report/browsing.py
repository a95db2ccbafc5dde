"""Debian's chromium, without a window and without a network, for tests that look at pages."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


def missing() -> str | None:
    """What there is not, or None where a browser can be driven."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not found: pages are not looked at" if absent else None


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser with a profile of its own, gone afterwards."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    # So that what the page says to its console, and what it loads, can be read.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = Chrome(options, Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def emulate(
    driver: Chrome, width: int, *, height: int = 900, dark: bool = False, printed: bool = False
) -> None:
    """Give the page a width in CSS pixels, a colour scheme and a medium."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    medium = {"media": "print" if printed else "", "features": [scheme]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", medium)


def screenshot(driver: Chrome, *, full: bool = True) -> bytes:
    """The page as PNG, all of it or what the window shows."""
    import base64

    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": full})
    return base64.b64decode(taken["data"])
