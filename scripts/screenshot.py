"""Make docs/report.png of the demo's report.

    PYTHONPATH=. python scripts/screenshot.py inflate-demo/report.html

It needs the environment of scripts/test.sh, and Debian's chromium.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.report.browsing import chromium, emulate, screenshot

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "report.png"


def main(page: Path) -> None:
    """Photograph the top of a page, as wide as a desk's screen."""
    with chromium() as driver:
        emulate(driver, 1180, height=1180)
        driver.get(page.resolve().as_uri())
        PICTURE.write_bytes(screenshot(driver, full=False))
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", type=Path, help="a report, such as inflate-demo/report.html")
    args = parser.parse_args()
    if not args.page.is_file():
        parser.error(f"{args.page} does not exist; expected a page")
    main(args.page)
