"""The emulator misbehaves as it is told, and says what it was asked."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from sandbox.api import operations
from sandbox.api.resources import BY_PATH
from sandbox.api.server import ApiServerThread
from sandbox.api.watching import Cut
from tests.kube.fixtures import SandboxBackend
from tests.kube.surface import EIPS, KubeApi, eip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KUBE_SYSTEM = "/api/v1/namespaces/kube-system"


@pytest.fixture
def api(sandbox_api: ApiServerThread, tmp_path: Path) -> Iterator[KubeApi]:
    api = KubeApi("sandbox", SandboxBackend(sandbox_api), tmp_path / "kubeconfig", "")
    yield api
    api.close()


@pytest.fixture
def eips(api: KubeApi) -> list[str]:
    """The names of ten EIPs that are there."""
    names = [f"eip-{number}" for number in range(10)]
    for name in names:
        assert api.ask("POST", EIPS, eip(name)).code == 201
    return names


class OpenWatch:
    """A watch read in a thread: its whole lines, what was left of one, and the error that ended it."""

    def __init__(self, api: KubeApi, **query: Any) -> None:
        self.lines: list[Any] = []
        self.rest = b""
        self.error: Exception | None = None
        self.began = threading.Event()
        fields = "&".join(f"{name}={value}" for name, value in query.items())
        self._url = f"{api.url}{EIPS}?watch=1&timeoutSeconds=30&{fields}"
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self.began.wait(5)

    def ended(self) -> OpenWatch:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self

    def _read(self) -> None:
        with urllib3.PoolManager() as pool:
            answer = pool.request("GET", self._url, preload_content=False, retries=False)
            self.began.set()
            try:
                for piece in answer.stream(65536):
                    *lines, self.rest = (self.rest + piece).split(b"\n")
                    self.lines += map(json.loads, lines)
            except urllib3.exceptions.ProtocolError as error:
                self.error = error


class TestAnswers:
    def test_the_next_requests_are_refused_and_then_served(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        sandbox_api.server.faults.answer(503, count=2)
        assert [api.ask("GET", EIPS).code for _ in range(3)] == [503, 503, 200]

    def test_refusals_are_status_objects(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        sandbox_api.server.faults.answer(429)
        answer = api.ask("GET", EIPS)
        assert (answer.body["kind"], answer.reason) == ("Status", "TooManyRequests")
        assert answer.headers["Retry-After"] == "1"

    def test_refusals_end_by_themselves(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        sandbox_api.server.faults.answer(500, seconds=0.3)
        assert api.ask("GET", EIPS).code == 500
        time.sleep(0.35)
        assert api.ask("GET", EIPS).code == 200

    def test_refusals_can_concern_a_path_or_a_verb_alone(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        sandbox_api.server.faults.answer(403, prefix="/api/v1/namespaces")
        sandbox_api.server.faults.answer(500, verbs=["create"])
        assert api.ask("GET", KUBE_SYSTEM).code == 403
        assert api.ask("POST", EIPS, eip("one")).code == 500
        assert api.ask("GET", EIPS).code == 200
        sandbox_api.server.faults.clear()
        assert api.ask("GET", KUBE_SYSTEM).code == 200

    def test_a_connection_can_be_closed_without_an_answer(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        sandbox_api.server.faults.answer(0, count=1)
        with pytest.raises(urllib3.exceptions.ProtocolError):
            api.ask("GET", EIPS)
        assert api.ask("GET", EIPS).code == 200

    def test_answers_can_be_slow(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        sandbox_api.server.faults.slow(0.3, count=1)
        began = time.monotonic()
        api.ask("GET", EIPS)
        assert time.monotonic() - began >= 0.3


class TestLists:
    @pytest.mark.parametrize(("fraction", "shown"), [(0, 0), (0.5, 5), (1, 10)])
    def test_lists_show_a_fraction(
        self, api: KubeApi, sandbox_api: ApiServerThread, eips: list[str], fraction: float, shown: int
    ) -> None:
        sandbox_api.server.faults.partial_lists(fraction, prefix=EIPS)
        assert api.ask("GET", EIPS).names == eips[:shown]
        assert len(list(api.watch(resourceVersion="0"))) == shown
        assert api.ask("GET", "/api/v1/namespaces").names
        sandbox_api.server.faults.clear()
        assert api.ask("GET", EIPS).names == eips

    def test_pages_show_a_fraction_of_the_whole(
        self, api: KubeApi, sandbox_api: ApiServerThread, eips: list[str]
    ) -> None:
        sandbox_api.server.faults.partial_lists(0.5)
        first = api.ask("GET", EIPS, limit=3)
        second = api.ask("GET", EIPS, limit=3, **{"continue": first.body["metadata"]["continue"]})
        assert first.names + second.names == eips[:5]
        assert not second.body["metadata"].get("continue")


class TestWatches:
    def test_a_cut_watch_loses_its_connection(
        self, api: KubeApi, sandbox_api: ApiServerThread, eips: list[str]
    ) -> None:
        watch = OpenWatch(api, resourceVersion=0)
        assert sandbox_api.call(sandbox_api.server.cut_watches()) == 1
        watch.ended()
        assert len(watch.lines) == len(eips)
        assert watch.rest == b""
        assert watch.error is not None

    def test_a_watch_can_be_cut_within_a_line(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        watch = OpenWatch(api)
        sandbox_api.call(sandbox_api.server.cut_watches(Cut.MID_LINE))
        watch.ended()
        assert watch.rest.startswith(b'{"type":')
        assert watch.error is not None

    def test_a_watch_can_be_ended_in_good_order(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        watch = OpenWatch(api)
        sandbox_api.call(sandbox_api.server.cut_watches(Cut.END))
        assert watch.ended().error is None

    def test_open_watches_survive_a_compaction(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        watch = OpenWatch(api)
        sandbox_api.call(sandbox_api.server.compact())
        api.ask("POST", EIPS, eip("one"))
        sandbox_api.call(sandbox_api.server.cut_watches(Cut.END))
        assert [each["type"] for each in watch.ended().lines] == ["ADDED"]

    def test_open_watches_that_lag_survive_a_compaction(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        watch = OpenWatch(api)

        async def written_and_forgotten_at_once() -> None:
            for name in ("one", "two"):
                content = {"metadata": {"name": name, "uid": name}, "spec": {}}
                sandbox_api.server.store.write(BY_PATH["kubeovn.io", "iptables-eips"], ("", name), content, None)
            await sandbox_api.server.compact()

        sandbox_api.call(written_and_forgotten_at_once())
        sandbox_api.call(sandbox_api.server.cut_watches(Cut.END))
        assert [each["object"]["metadata"]["name"] for each in watch.ended().lines] == ["one", "two"]

    def test_bookmarks_come_as_often_as_set(self, tmp_path: Path) -> None:
        with ApiServerThread(bookmark_interval=0.1) as server:
            api = KubeApi("sandbox", SandboxBackend(server), tmp_path / "kubeconfig", "")
            watch = OpenWatch(api, resourceVersion=server.server.store.version, allowWatchBookmarks="true")
            newest = server.call(server.server.set_cluster_uid()) and server.server.store.version
            time.sleep(0.55)
            server.call(server.server.cut_watches(Cut.END))
            watch.ended()
            api.close()
        assert 3 <= len(watch.lines) <= 6
        assert {each["type"] for each in watch.lines} == {"BOOKMARK"}
        assert int(watch.lines[-1]["object"]["metadata"]["resourceVersion"]) == newest

    def test_the_history_is_bounded(self, tmp_path: Path) -> None:
        with ApiServerThread(history_size=10) as server:
            api = KubeApi("sandbox", SandboxBackend(server), tmp_path / "kubeconfig", "")
            first = api.ask("POST", EIPS, eip("first")).body["metadata"]["resourceVersion"]
            for number in range(30):
                newest = api.ask("POST", EIPS, eip(f"eip-{number}")).body["metadata"]["resourceVersion"]
            (event,) = api.watch(resourceVersion=first)
            assert event["object"]["code"] == 410
            assert len(list(api.watch(resourceVersion=int(newest) - 9))) == 9
            api.close()


class TestCluster:
    def test_another_cluster_has_another_uid(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        before = api.ask("GET", KUBE_SYSTEM).body["metadata"]["uid"]
        uid = sandbox_api.call(sandbox_api.server.set_cluster_uid())
        assert before != uid == api.ask("GET", KUBE_SYSTEM).body["metadata"]["uid"]

    def test_a_restarted_server_keeps_its_address_and_objects(
        self, api: KubeApi, sandbox_api: ApiServerThread, eips: list[str]
    ) -> None:
        watch = OpenWatch(api)
        sandbox_api.call(sandbox_api.server.stop())
        watch.ended()
        with pytest.raises(urllib3.exceptions.HTTPError):
            api.ask("GET", EIPS)
        sandbox_api.call(sandbox_api.server.start())
        assert api.ask("GET", EIPS).names == eips

    def test_a_taken_port_is_an_error(self, sandbox_api: ApiServerThread) -> None:
        with pytest.raises(OSError, match="address already in use"):
            ApiServerThread(port=sandbox_api.server.port).start()

    def test_requests_are_counted_by_verb_and_path(
        self, api: KubeApi, sandbox_api: ApiServerThread, eips: list[str]
    ) -> None:
        sandbox_api.server.requests.clear()
        token = ""
        for _ in range(2):
            token = api.ask("GET", EIPS, limit=5, **{"continue": token}).body["metadata"]["continue"]
        api.ask("GET", f"{EIPS}/eip-0")
        list(api.watch(resourceVersion="0"))
        requests = sandbox_api.server.requests
        assert requests.count(verb="list", prefix=EIPS) == 2
        assert requests.count(verb="get", prefix=EIPS) == 1
        assert requests.count(verb="watch") == 1
        assert requests.count() == 4
        assert "limit=5" in requests.newest[0].query

    def test_ten_thousand_objects_are_listed_in_pages_at_once(self, api: KubeApi, sandbox_api: ApiServerThread) -> None:
        async def fill() -> None:
            server = sandbox_api.server
            resource = BY_PATH["kubeovn.io", "iptables-eips"]
            for number in range(10_000):
                operations.create(server.store, resource, "", eip(f"eip-{number:05}", spec={"v4ip": "10.1.69.205"}))

        sandbox_api.call(fill())
        began = time.monotonic()
        names: list[str] = []
        token = ""
        while True:
            answer = api.ask("GET", EIPS, limit=500, **{"continue": token})
            names += answer.names
            token = answer.body["metadata"].get("continue", "")
            if not token:
                break
            # A write between two pages must not make the next page start from scratch.
            api.ask("POST", EIPS, eip("", generateName="later-"))
        assert len(names) == 10_000
        assert time.monotonic() - began < 5


class TestAdministrationOverHttp:
    def test_faults_are_set_shown_and_cleared(self, api: KubeApi, eips: list[str]) -> None:
        answer = api.ask("POST", "/sandbox/faults/answer", {"code": 503, "count": 1, "prefix": EIPS})
        assert answer.body["answers"][0]["code"] == 503
        assert [api.ask("GET", EIPS).code for _ in range(2)] == [503, 200]
        api.ask("POST", "/sandbox/faults/partial-lists", {"fraction": 0.1})
        assert api.ask("GET", EIPS).names == eips[:1]
        api.ask("POST", "/sandbox/faults/slow", {"delay": 0.2, "seconds": 60, "verbs": ["get"]})
        assert [len(each) for each in api.ask("GET", "/sandbox/faults").body.values()] == [0, 1, 1]
        assert not any(api.ask("DELETE", "/sandbox/faults").body.values())
        assert api.ask("GET", EIPS).names == eips

    def test_history_watches_and_uid_are_changed(self, api: KubeApi, eips: list[str]) -> None:
        version = api.ask("GET", EIPS).body["metadata"]["resourceVersion"]
        oldest = api.ask("POST", "/sandbox/compact").body["resourceVersion"]
        assert int(oldest) > int(version)
        (event,) = api.watch(resourceVersion=version)
        assert event["object"]["code"] == 410
        watch = OpenWatch(api)
        assert api.ask("POST", "/sandbox/watches/cut", {"how": "mid-line"}).body == {"cut": 1}
        assert watch.ended().rest
        uid = api.ask("POST", "/sandbox/cluster-uid", {"uid": "another"}).body["uid"]
        assert api.ask("GET", KUBE_SYSTEM).body["metadata"]["uid"] == uid == "another"

    def test_requests_and_executions_are_counted(self, api: KubeApi, eips: list[str]) -> None:
        api.ask("DELETE", "/sandbox/requests")
        api.ask("GET", f"{EIPS}/eip-0")
        api.ask("GET", f"{EIPS}/eip-0")
        (count,) = api.ask("GET", "/sandbox/requests", verb="get").body["counts"]
        assert count == {"verb": "get", "method": "GET", "path": f"{EIPS}/eip-0", "count": 2}
        assert api.ask("GET", "/sandbox/requests?method=POST").body["total"] == 0
        assert api.ask("GET", "/sandbox/executions").body == {"total": 0, "pods": {}, "newest": []}
        assert api.ask("POST", "/sandbox/executions/latency", {"seconds": 0.1}).code == 200

    @pytest.mark.parametrize(
        ("method", "path", "body", "code"),
        [
            ("POST", "/sandbox/faults/answer", {}, 400),
            ("POST", "/sandbox/faults/answer", {"code": "x"}, 400),
            ("POST", "/sandbox/faults/nothing", {}, 404),
            ("POST", "/sandbox/watches/cut", {"how": "gently"}, 400),
            ("POST", "/sandbox/compact", "{not json", 400),
            ("GET", "/sandbox/nothing", None, 404),
        ],
    )
    def test_nonsense_is_refused(self, api: KubeApi, method: str, path: str, body: Any, code: int) -> None:
        assert api.ask(method, path, body).code == code
