"""A hundred thousand forged jobs: each is read as it stands or rejected, and none makes the worker do anything.

What a worker does on the way is not guessed at but told by the interpreter itself, through its audit events.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from rq.exceptions import DeserializationError
from rq.serializers import JSONSerializer

from shared.errors import InvalidPayloadError
from shared.models import parse_work, work_to_dict
from shared.queue import JOB_FUNCTION
from tests.payloads import RELEASE
from workers.jobs import ReclaimJob

FORGED = 100_000
COMMON = {name: RELEASE[name] for name in ("id", "cluster", "gateway", "eip", "uid", "namespace", "seen_at")}
PAYLOADS = (
    RELEASE,
    {**COMMON, "kind": "confirmation", "addresses": ["10.1.69.205", "fd00::5"], "subnet": "external"},
    {**COMMON, "kind": "audit", "reason": "missing"},
)
FUNCTIONS = (
    "os.system",
    "builtins.eval",
    "subprocess.run",
    "workers.worker._readable_meta",
    "workers.jobs.ReclaimJob.work",
    "workers.jobs.run.__globals__",
    "antigravity",
    "this",
)
NASTY: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1e308,
    float("inf"),
    "",
    "x" * 5000,
    "\0",
    "; reboot",
    "$(reboot)",
    "../../etc/passwd",
    "10.1.69.0/24",
    "0.0.0.0/0",
    "::ffff:10.1.69.205",
    "fe80::1%net1",
    "\u0661\u0660.1.69.205",
    "010.1.69.205",
    [],
    {},
    [[[[]]]],
    {"__class__": "os"},
    "__import__('os').system('reboot')",
)
_WATCHED = (
    "import",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "open",
    "socket.",
    "exec",
)
_told: list[str] | None = None
_listener = 0
"""The thread that is listened to; others may have work of their own."""


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _told is not None and event.startswith(_WATCHED) and threading.get_ident() == _listener:
        _told.append(f"{event} {arguments!r}"[:200])


sys.addaudithook(_listen)


@contextmanager
def audited() -> Iterator[list[str]]:
    """What the interpreter does meanwhile of all that reaches outside."""
    global _told, _listener  # noqa: PLW0603 - an audit hook stays for ever
    _told, _listener = [], threading.get_ident()
    try:
        yield _told
    finally:
        _told = None


def forge(luck: random.Random) -> bytes:
    """A job's data, made from that of a valid one by one to four mutations."""
    payload = json.loads(json.dumps(luck.choice(PAYLOADS)))
    call: list[Any] = [JOB_FUNCTION, None, [], {"payload": payload}]
    edits = luck.randrange(4)
    for _ in range(edits):
        match luck.randrange(6):
            case 0:
                payload[luck.choice(list(payload) or ["id"])] = luck.choice(NASTY)
            case 1:
                payload.pop(luck.choice(list(payload) or ["id"]), None)
            case 2:
                payload[luck.choice(["extra", "__proto__", "addresses", "kind", "cluster"])] = luck.choice(NASTY)
            case 3:
                payload["addresses"] = luck.choices([*NASTY, "10.1.69.206", "fd00::6"], k=luck.randrange(12))
            case 4:
                call[luck.randrange(4)] = luck.choice([*NASTY, *FUNCTIONS])
            case _:
                call[0] = luck.choice(FUNCTIONS)
    data = bytearray(json.dumps(call).encode())
    for _ in range(luck.randrange(1, 4) if edits == 0 else luck.randrange(2)):
        place = luck.randrange(len(data))
        match luck.randrange(4):
            case 0:
                data[place] ^= 1 << luck.randrange(8)
            case 1:
                del data[place : place + luck.randrange(1, 30)]
            case 2:
                data[place:place] = luck.randbytes(luck.randrange(1, 6))
            case _:
                data[place:place] = data[luck.randrange(len(data)) :][: luck.randrange(1, 60)]
        if not data:
            return b""
    return bytes(data)


def test_the_listener_hears_what_it_is_there_for() -> None:
    with audited() as told:
        Path(__file__).read_bytes()
        subprocess.run(["true"], check=True)
    assert [event.split()[0] for event in told if event.startswith(("open", "subprocess"))][:2] == [
        "open",
        "subprocess.Popen",
    ]


def test_a_hundred_thousand_forged_jobs_do_nothing() -> None:
    luck = random.Random("forged jobs")
    forged = [forge(luck) for _ in range(FORGED)]
    connection = Redis()
    reasons: set[str] = set()
    accepted = rejected = 0
    before = set(sys.modules)
    with audited() as told:
        for data in forged:
            job = ReclaimJob(RELEASE["id"], connection=connection, serializer=JSONSerializer)
            job.data = data
            try:
                work = job.work()
            except (InvalidPayloadError, DeserializationError) as error:
                rejected += 1
                reasons.add(re.sub(r"[^a-zA-Z ]+", "", str(error))[:40])
            else:
                accepted += 1
                assert parse_work(work_to_dict(work)) == work
                assert re.fullmatch(r"[a-z0-9.-]+", work.gateway)
    assert told == []
    assert set(sys.modules) == before
    assert accepted + rejected == FORGED
    # The forger reaches every check, and some mutations leave a payload valid.
    assert rejected > FORGED * 0.9
    assert accepted > 100
    assert len(reasons) > 100
