"""The dashboard: rq-dashboard's pages and ours in one Flask app.

A request is taken in this order: may it act at all (`access`), is its form ours (Flask-WTF), does Redis answer
(`store`); then its page is made. What goes wrong on the way is a page, or JSON for scripts, that says what to do.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, jsonify, make_response, redirect, render_template, request, url_for
from flask_wtf import CSRFProtect
from redis.exceptions import RedisError, ResponseError
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.version import VERSION as RQ_VERSION
from rq_dashboard.version import VERSION as RQ_DASHBOARD_VERSION
from werkzeug.exceptions import HTTPException

from dashboard import access, brake, gateways, lives, outcomes, rq_pages
from dashboard.store import Store, store
from dashboard.times import ago, clock, duration
from shared.errors import ReclaimerError
from shared.log import get_logger

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as AnyResponse

    from shared.settings import Settings

log = get_logger(__name__)

POLL_MILLISECONDS = 2500
"""How often rq-dashboard's pages ask for news."""
LARGEST_REQUEST = 64 * 1024
"""No form of ours has more bytes."""


def make_app(settings: Settings) -> Flask:
    """The app, which opens Redis with its first page."""
    app = Flask("dashboard")
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),
        SESSION_COOKIE_NAME="eip_reclaimer_dashboard",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        MAX_CONTENT_LENGTH=LARGEST_REQUEST,
        WTF_CSRF_TIME_LIMIT=None,  # a token is as good as the login it belongs to
        RQ_DASHBOARD_POLL_INTERVAL=POLL_MILLISECONDS,
    )
    app.session_interface = access.SessionInterface()
    app.extensions["eip_reclaimer_access"] = access.Access(settings.dashboard_password)
    Store(settings).register(app)
    # The order matters: who may not act at all is told so, whatever else is wrong with the request.
    app.before_request(access.guard)
    CSRFProtect(app)
    app.before_request(access.note)
    app.before_request(_open_store)
    rq_pages.adopt(app)
    for blueprint in (access.blueprint, gateways.blueprint, outcomes.blueprint, lives.blueprint, brake.blueprint):
        app.register_blueprint(blueprint)
    app.add_url_rule("/", "start", lambda: redirect(url_for("gateways.overview")))
    app.context_processor(_around)
    app.add_template_filter(ago)
    app.add_template_filter(clock)
    app.add_template_filter(duration)
    app.after_request(_secure)
    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(ReclaimerError, _redis_away)
    app.register_error_handler(RedisError, _redis_away)
    app.register_error_handler(ResponseError, _redis_refuses)
    app.register_error_handler(NoSuchJobError, _no_job)
    app.register_error_handler(InvalidJobOperation, _not_failed)
    app.register_error_handler(Exception, _broken)
    return app


def _open_store() -> None:
    """See that Redis answers, before a page is begun that needs it."""
    needs_none = request.endpoint is None or request.endpoint.endswith("static") or request.blueprint == "access"
    if not needs_none:
        store().open()
        # Asked before every page, so that a server that has died since is told of in one way.
        g.brake = brake.state_or_none()


def _around() -> dict[str, Any]:
    """What every page has around it."""
    return {
        "rq_url_prefix": url_for("rq_dashboard.queues_overview"),
        "rq_version": RQ_VERSION,
        "rq_dashboard_version": RQ_DASHBOARD_VERSION,
        "current_instance": 0,
        "instance_list": (),
        "poll_interval": POLL_MILLISECONDS,
        "csp_nonce": _nonce,
        "access": access.access(),
        "brake_engaged": g.get("brake") is not None,
        "our_queue": store().settings.queue,
    }


def _nonce() -> str:
    """What this answer's inline scripts are told by."""
    if "nonce" not in g:
        g.nonce = secrets.token_urlsafe(16)
    nonce: str = g.nonce
    return nonce


def _secure(response: Response) -> Response:
    """Let the browser run nothing that is not ours."""
    # rq-dashboard makes its rows with Underscore's templates, which are compiled in the browser.
    compiled = " 'unsafe-eval'" if request.blueprint == "rq_dashboard" else ""
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' 'nonce-{_nonce()}'{compiled}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    if not (request.endpoint or "").endswith("static"):
        response.headers["Cache-Control"] = "no-store"
    return response


def _told(status: int, title: str, message: str) -> Response:
    """An answer that says what is wrong: JSON where a script asked, else a page."""
    if request.headers.get("X-Requested-With") == "XMLHttpRequest":
        return make_response(jsonify(error=message), status)
    return make_response(render_template("dashboard/told.html", title=title, message=message, status=status), status)


def _refused(error: HTTPException) -> AnyResponse:
    status = error.code or 500
    if status < 400:
        return error.get_response()
    titles = {401: "Log in first", 403: "Read-only", 404: "Not found"}
    response = _told(status, titles.get(status, error.name), error.description or error.name)
    for name, value in error.get_headers():
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def _no_job(error: NoSuchJobError) -> Response:
    return _told(404, "No such job", rq_pages.why_no_job(error))


def _not_failed(_error: InvalidJobOperation) -> Response:
    message = "Nothing was done: this job has not failed, or somebody else has requeued it already."
    return _told(409, "Not a failed job", message)


def _redis_away(error: Exception) -> Response:
    log.error("page cannot be made", reason=str(error), page=request.path)
    return _told(
        503,
        "Redis does not answer",
        f"{error}. Jobs and what is known of EIPs are in Redis: workers and producers wait for it too and go on by "
        "themselves. See that the server runs and can be reached from here; this page then works again.",
    )


def _redis_refuses(error: ResponseError) -> Response:
    log.error("redis refused what a page asked for", reason=str(error), page=request.path)
    return _told(
        503,
        "Redis refuses",
        f"{error}. The server answers, and does not do what is asked of it. docs/redis.md says what its user must be "
        "allowed, and how the server is to be set up.",
    )


def _broken(error: Exception) -> Response:
    log.error("page cannot be made", reason=str(error), page=request.path, exc_info=error)
    kind = type(error).__name__
    return _told(500, "This cannot be shown", f"What is stored cannot be read as it should ({kind}); the log has more.")
