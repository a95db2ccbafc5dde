"""Make docs/report.png of the demo's report.

    PYTHONPATH=. python scripts/screenshot.py inflate-demo/report.html

It needs the environment of scripts/test.sh, and Debian's chromium.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.report.browsing import chromium, emulate, screenshot

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "report.png"


def main(page: str) -> None:
    """Photograph the top of a page, as wide as a desk's screen."""
    with chromium() as driver:
        emulate(driver, 1180, height=1180)
        driver.get(Path(page).resolve().as_uri())
        PICTURE.write_bytes(screenshot(driver, full=False))
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
