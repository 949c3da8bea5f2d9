"""Debian's Chromium, and the dashboard as the command starts it."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from sandbox.processes import Process
from sandbox.redis_server import free_port
from tests.conftest import variables
from tests.waiting import eventually

PASSWORD = "correct horse battery staple"
PHONE = (390, 844)
DESK = (1280, 900)


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(log: Path, **settings: Any) -> Iterator[str]:
    """The command `eip-reclaimer dashboard` on a free port; its URL."""
    port = free_port()
    environment = variables(**settings)
    with Process("dashboard", log, "cli", "dashboard", "--port", str(port), env=environment) as process:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            process.expect_running()
            try:
                urllib.request.urlopen(f"{url}/static/dashboard.css", timeout=5).close()
            except urllib.error.URLError:
                return False
            return True

        eventually(answers, "the dashboard to answer", 60)
        yield url


def log_in(page: Page, url: str, password: str = PASSWORD) -> None:
    page.goto(f"{url}/login")
    page.fill("#password", password)
    page.click(".login button")


def is_settled(page: Page) -> None:
    """Wait until rq-dashboard has filled its table."""
    page.wait_for_load_state("networkidle")
