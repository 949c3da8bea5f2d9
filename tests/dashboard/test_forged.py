"""Whoever can write to Redis can neither run anything in the dashboard nor in the browser of who looks at it."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from rq_dashboard import web

from dashboard.rq_pages import CORRECTIONS, corrected
from shared.brake import Brake
from shared.queue import WorkQueue
from shared.reports import Kind
from shared.settings import Settings
from tests.dashboard import scene
from tests.dashboard.conftest import Visitor

pytestmark = pytest.mark.server

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
TEMPLATES = Path(str(web.blueprint.root_path)) / "templates" / "rq_dashboard"


class Bomb:
    """What somebody unpickles who should not."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.fixture
def forged(work_queue: WorkQueue, settings: Settings) -> WorkQueue:
    """Everything that pages show, with markup in it wherever Redis holds text."""
    redis, keys = work_queue.redis, work_queue.keys
    gateway = f"gw{SCRIPT}"
    eip = scene.eip(1, gateway, SCRIPT)
    scene.remember(work_queue, eip)
    found = scene.finding(Kind.LEAKED, gateway, SCRIPT, SCRIPT, eip=SCRIPT, mendable=True)
    carried = scene.carried(gateway, SCRIPT, SCRIPT)
    work_queue.reports.keep(
        [scene.report(gateway, found, carried=(carried,), by=SCRIPT, hindrance=SCRIPT, pods=(SCRIPT,))]
    )
    redis.set(keys.lock(gateway), f"{SCRIPT}/1")
    redis.hset(keys.pending(gateway), SCRIPT, "{}")
    Brake(work_queue, settings).engage(SCRIPT, [eip.uid], 1)
    redis.hset(
        keys.record(SCRIPT), mapping={"published_at": "1", "payload": json.dumps({SCRIPT: SCRIPT}), "outcome": SCRIPT}
    )
    redis.rpush(keys.trace(SCRIPT), json.dumps({"at": 1, "event": SCRIPT, SCRIPT: [{SCRIPT: SCRIPT}]}))
    redis.hset(keys.outcomes(int(time.time() // 3600)), SCRIPT, 3)
    work = scene.release(1)
    scene.fail(work_queue, work, SCRIPT)
    redis.hset(f"rq:job:{work.id}", mapping={"description": SCRIPT, "meta": json.dumps({SCRIPT: SCRIPT})})
    redis.zadd("rq:failed:eip-reclaimer", {SCRIPT: 2e9})
    redis.hset(f"rq:job:{SCRIPT}", mapping={"created_at": SCRIPT, "origin": "eip-reclaimer"})
    redis.sadd("rq:queues", f"rq:queue:{SCRIPT}")
    redis.sadd("rq:workers", f"rq:worker:{SCRIPT}")
    redis.hset(f"rq:worker:{SCRIPT}", mapping={"queues": SCRIPT, "state": "idle"})
    return work_queue


def test_markup_in_redis_is_text_on_every_page_of_ours(operator: Visitor, forged: WorkQueue) -> None:
    for path in (
        "/gateways",
        "/brake",
        "/outcomes",
        f"/trace?term={quote(SCRIPT)}",
        "/login",
        "/rq/",
        "/rq/0/view/jobs",
    ):
        page = operator.text(path)
        assert "<script>alert" not in page, path
        assert "<img" not in page, path
        assert SCRIPT not in page
    assert "&lt;script&gt;alert" in operator.text("/gateways")
    assert "&lt;script&gt;alert" in operator.text(f"/trace?term={quote(SCRIPT)}")
    assert "&lt;script&gt;alert" in operator.text("/brake")


def test_markup_in_an_address_of_a_page_is_text(operator: Visitor, forged: WorkQueue) -> None:
    for text in ("'+alert(1)+'", '"><img src=x onerror=alert(1)>', "\\", "'-alert(1)-'"):
        page = operator.text(f"/rq/0/view/jobs/{quote(text, safe='')}/queued/8/asc/1")
        assert "'+alert" not in page
        assert "'-alert" not in page
        assert "<img" not in page
    assert "<img" not in operator.text(f"/rq/0/view/job/{quote('<img src=x>', safe='')}", 404)


def test_rows_that_the_browser_makes_are_escaped_there() -> None:
    templates = sorted(TEMPLATES.rglob("*.html"))
    assert sum(path.read_text().count("<%=") for path in templates) > 20
    for path in templates:
        text = corrected(path.read_text())
        assert "<%=" not in text, path
        assert "$('<div/>')" not in text, path
    script = (TEMPLATES / "scripts" / "jobs.js").read_text()
    assert "'{{" in script
    assert "'{{" not in corrected(script)


def test_every_correction_has_something_to_correct() -> None:
    everything = "".join(path.read_text() for path in TEMPLATES.rglob("*.*"))
    for pattern, _ in CORRECTIONS:
        assert re.search(pattern, everything), pattern


def test_rq_dashboard_loads_nothing_from_elsewhere(operator: Visitor, forged: WorkQueue) -> None:
    for path in ("/rq/", "/rq/0/view/jobs", "/rq/0/view/workers", "/gateways", "/outcomes"):
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]+)"', operator.text(path))
        assert loaded
        assert [url for url in loaded if not url.startswith("/")] == []


def test_nothing_is_unpickled_whatever_page_or_button(operator: Visitor, work_queue: WorkQueue, tmp_path: Path) -> None:
    target = tmp_path / "went-off"
    bomb = pickle.dumps(Bomb(target))
    pickle.loads(bomb)
    target.rmdir()
    work = scene.release(1)
    scene.fail(work_queue, work, "no pod runs")
    redis = work_queue.redis
    redis.hset(f"rq:job:{work.id}", mapping={"meta": bomb, "data": bomb, "result": bomb})
    packed = base64.b64encode(bomb)
    redis.xadd(f"rq:results:{work.id}", {"type": "1", "return_value": packed, "created_at": "1", "exc_string": packed})
    redis.sadd("rq:workers", "rq:worker:w1")
    redis.hset("rq:worker:w1", mapping={"queues": "eip-reclaimer", "state": "busy", "current_job": work.id})
    redis.zadd("rq:executions:w1", {f"{work.id}:e1": 2e9})
    for path in (
        *("/rq/", "/rq/0/data/queues.json", "/rq/0/data/workers.json", "/rq/0/view/workers"),
        *(f"/rq/0/view/job/{work.id}", f"/rq/0/data/job/{work.id}.json", f"/trace?term={work.id}", "/gateways"),
        *(f"/rq/0/data/jobs/eip-reclaimer/{registry}/8/asc/1.json" for registry in ("failed", "queued", "started")),
    ):
        operator.get(path)
        assert not target.exists(), path
    for action in (
        f"/rq/job/{work.id}/requeue",
        *("/rq/requeue/eip-reclaimer", "/rq/queue/eip-reclaimer/compact", "/rq/queue/eip-reclaimer/failed/empty"),
        f"/rq/job/{work.id}/delete",
    ):
        operator.act(action)
        assert not target.exists(), action
    assert redis.exists(f"rq:job:{work.id}") == 0


def test_a_job_that_cannot_be_read_is_shown_as_that_and_hides_no_other(operator: Visitor, forged: WorkQueue) -> None:
    forged.redis.xadd(f"rq:results:{scene.release(1).id}", {"type": "2", "exc_string": "not what RQ writes"})
    answer = operator.get("/rq/0/data/jobs/eip-reclaimer/failed/8/asc/1.json").json
    readable, unreadable = answer["jobs"]  # type: ignore[index]
    assert readable["id"] == scene.release(1).id
    assert unreadable["id"] == SCRIPT
    assert unreadable["description"].startswith("a job that cannot be read (")
    assert "cannot be read" in operator.text(f"/rq/0/view/job/{quote('a b')}", 404)
    assert operator.act("/rq/requeue/eip-reclaimer").json == {"status": "OK", "count": 1, "left": 1}
    assert operator.act("/rq/queue/eip-reclaimer/failed/empty").json == {"status": "OK"}
    assert forged.queue.failed_job_registry.get_job_ids(cleanup=False) == []


@pytest.mark.parametrize(
    "line", ["no json", "[]", '{"event": "x"}', '{"at": "soon"}', '"x"', '{"at": 1e999, "event": 1}']
)
def test_a_life_that_cannot_be_read_is_said_to_be_so(operator: Visitor, work_queue: WorkQueue, line: str) -> None:
    work_queue.redis.hset(work_queue.keys.record("x"), "published_at", "1")
    work_queue.redis.rpush(work_queue.keys.trace("x"), line)
    page = operator.text("/trace?term=x")
    assert "unreadable" in page or "at an unknown time" in page


def test_what_is_of_another_type_than_it_must_be_is_told(operator: Visitor, work_queue: WorkQueue) -> None:
    work_queue.redis.set(work_queue.keys.reports, "no hash")
    page = operator.text("/gateways", 503)
    assert "Redis refuses" in page
    assert "WRONGTYPE" in page
    work_queue.redis.set(work_queue.keys.brake, "no json")
    page = operator.text("/brake", 500)
    assert "Traceback" not in page
    assert "JSONDecodeError" in page
