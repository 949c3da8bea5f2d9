"""Faults and counts over HTTP, for demonstrations and for tests in another process: paths under /sandbox/.

    POST   /sandbox/compact                     {}                          -> {"resourceVersion": "..."}
    POST   /sandbox/watches/cut                 {"how": "end|drop|mid-line"} -> {"cut": n}
    GET    /sandbox/faults                                                  -> the faults in force
    POST   /sandbox/faults/answer               {"code", "count", "seconds", "prefix", "verbs"}
    POST   /sandbox/faults/slow                 {"delay", "count", "seconds", "prefix", "verbs"}
    POST   /sandbox/faults/partial-lists        {"fraction", "count", "seconds", "prefix"}
    DELETE /sandbox/faults                      behave again
    POST   /sandbox/cluster-uid                 {"uid": "..."} or {}         -> {"uid": "..."}
    GET    /sandbox/executions                                              -> {"total", "pods", "newest"}
    DELETE /sandbox/executions                  count anew
    POST   /sandbox/executions/latency          {"seconds": 0.05}
    GET    /sandbox/requests                    ?verb=&method=&prefix=      -> {"total", "counts"}
    DELETE /sandbox/requests                    count anew

Only `code`, `delay` and `fraction` are required; what the other fields mean, `Faults` says.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sandbox.api import errors
from sandbox.api.watching import Cut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp import web

    from sandbox.api.resources import Object
    from sandbox.api.server import ApiServer

FAULTS = {
    "answer": (("code", int), ("count", int), ("seconds", float), ("prefix", str), ("verbs", tuple)),
    "slow": (("delay", float), ("count", int), ("seconds", float), ("prefix", str), ("verbs", tuple)),
    "partial-lists": (("fraction", float), ("count", int), ("seconds", float), ("prefix", str)),
}


async def administer(server: ApiServer, request: web.Request) -> Object:
    """Do what a request to /sandbox/ asks; the answer.

    Raises:
        StatusError: 400 or 404.
    """
    body = await _body(request)
    action = request.path.removeprefix("/sandbox").rstrip("/")
    try:
        return await _acted(server, request, action, body)
    except (KeyError, ValueError, TypeError) as error:
        raise errors.bad_request(f"{action}: {type(error).__name__}: {error}") from None


async def _acted(server: ApiServer, request: web.Request, action: str, body: Mapping[str, Any]) -> Object:
    match request.method, action:
        case "POST", "/compact":
            return {"resourceVersion": str(await server.compact())}
        case "POST", "/watches/cut":
            return {"cut": await server.cut_watches(Cut(body.get("how", "drop")))}
        case "POST", "/cluster-uid":
            return {"uid": await server.set_cluster_uid(body.get("uid"))}
        case _, path if path.startswith("/faults"):
            return _faults(server, request.method, path.removeprefix("/faults").strip("/"), body)
        case "GET", "/executions":
            newest = [asdict(each) for each in server.executions.newest]
            return {
                "total": server.executions.total,
                "pods": dict(server.executions.per_pod),
                "newest": newest,
            }
        case "DELETE", "/executions":
            server.executions.clear()
            return {}
        case "POST", "/executions/latency":
            server.executions.latency = float(body["seconds"])
            return {}
        case "GET", "/requests":
            return _requests(server, request.query)
        case "DELETE", "/requests":
            server.requests.clear()
            return {}
    raise errors.plain(404, f"nothing at {request.method} {request.path}")


def _faults(server: ApiServer, method: str, kind: str, body: Mapping[str, Any]) -> Object:
    faults = server.faults
    if method == "DELETE" and not kind:
        faults.clear()
    elif method == "POST" and kind in FAULTS:
        values = {name: cast(body[name]) for name, cast in FAULTS[kind] if body.get(name) is not None}
        setters: dict[str, Callable[..., None]] = {
            "answer": faults.answer,
            "slow": faults.slow,
            "partial-lists": faults.partial_lists,
        }
        setters[kind](**values)
    elif method != "GET" or kind:
        raise errors.plain(404, f"no such fault: {kind}")
    in_force: dict[str, Any] = {"answers": faults.answers, "delays": faults.delays, "partials": faults.partials}
    return {
        name: [{**asdict(each), "verbs": sorted(each.verbs)} for each in each_kind if not each.over]
        for name, each_kind in in_force.items()
    }


def _requests(server: ApiServer, query: Mapping[str, str]) -> Object:
    wanted = {name: query.get(name, "") for name in ("verb", "method")}
    prefix = query.get("prefix", "/")
    counts = [
        {"verb": verb, "method": method, "path": path, "count": count}
        for (verb, method, path), count in server.requests.counts.items()
        if wanted["verb"] in ("", verb) and wanted["method"] in ("", method) and path.startswith(prefix)
    ]
    return {"total": sum(each["count"] for each in counts if isinstance(each["count"], int)), "counts": counts}


async def _body(request: web.Request) -> Mapping[str, Any]:
    text = await request.text()
    try:
        body = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise errors.bad_request(str(error)) from None
    if not isinstance(body, dict):
        raise errors.bad_request("an object was expected")
    return body
