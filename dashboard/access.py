"""Who may act: whoever knows the password. Looking is free.

Every request that is not known to only show something is an action, also in rq-dashboard's pages, where one of them
answers to GET. Without a password in the settings there are no actions. With one, an action needs a login, which lives
in this process and in a cookie that no script and no other site can use, and a token against forged forms.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from flask import Blueprint, abort, current_app, redirect, render_template, request, session, url_for
from flask.sessions import SecureCookieSessionInterface
from werkzeug.exceptions import MethodNotAllowed

from shared.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from pydantic import SecretStr
    from werkzeug.wrappers import Response

log = get_logger(__name__)

LOGIN_SECONDS = 12 * 3600
"""How long a login lasts."""
FREE_GUESSES = 3
"""Wrong passwords from one place that cost nothing; each further one costs twice the wait of the one before."""
LONGEST_WAIT = 300.0
FORGET_SECONDS = 3600.0
REMEMBERED = 10_000
"""Logins, and places that guessed, that are remembered at most."""

SHOWING = {
    "rq_dashboard": {
        *("static", "favicon", "queues_overview", "workers_overview", "jobs_overview", "job_view"),
        *("list_queues", "list_jobs", "list_workers", "job_info"),
    },
}
"""By blueprint, what only shows, where GET alone does not tell."""

READ_ONLY = (
    "This dashboard only shows: no password is set. To act from here, start it with the variable "
    "EIP_RECLAIMER_DASHBOARD_PASSWORD set to a long random password, and log in with that."
)
NOT_LOGGED_IN = "Nothing was done: log in first. Looking needs no login, acting does."

blueprint = Blueprint("access", __name__)


class SessionInterface(SecureCookieSessionInterface):
    """Cookies that leave the browser over https only, where the dashboard is reached so."""

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002
        """Whether this request came over https."""
        return request.is_secure


class Guesses:
    """Makes whoever guesses wait, longer each time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def begin(self, place: str) -> float:
        """Count a guess as a wrong one until `right` says otherwise; seconds to wait where it may not be made now."""
        with self._lock:
            now = self._clock()
            count, last = self._wrong.get(place, (0, now))
            if now - last > FORGET_SECONDS:
                count = 0
            wait = min(2.0 ** (count - FREE_GUESSES), LONGEST_WAIT) if count >= FREE_GUESSES else 0.0
            if now < last + wait:
                return last + wait - now
            self._wrong[place] = (count + 1, now)
            self._wrong.move_to_end(place)
            if len(self._wrong) > REMEMBERED:
                self._wrong.popitem(last=False)
            return 0.0

    def right(self, place: str) -> None:
        """Forget what was guessed from there."""
        with self._lock:
            self._wrong.pop(place, None)


class Access:
    """Knows the password, and who gave it."""

    def __init__(self, password: SecretStr | None) -> None:
        self.password = password
        self.guesses = Guesses()
        self._lock = threading.Lock()
        self._logins: OrderedDict[str, float] = OrderedDict()

    @property
    def read_only(self) -> bool:
        """Whether nobody may act."""
        return self.password is None

    @property
    def logged_in(self) -> bool:
        """Whether this request comes from somebody who gave the password."""
        if self.read_only:
            return False
        with self._lock:
            return self._logins.get(str(session.get("login")), 0.0) > time.monotonic()

    def login(self, password: str) -> bool:
        """Log this browser in if that is the password; whether it is."""
        if self.password is None:
            return False
        expected = self.password.get_secret_value().encode()
        if not hmac.compare_digest(password.encode(errors="surrogatepass"), expected):
            return False
        token = secrets.token_urlsafe(32)
        session.clear()
        session["login"] = token
        with self._lock:
            self._logins[token] = time.monotonic() + LOGIN_SECONDS
            if len(self._logins) > REMEMBERED:
                self._logins.popitem(last=False)
        return True

    def logout(self) -> None:
        """End this browser's login, also for who may have copied its cookie."""
        with self._lock:
            self._logins.pop(str(session.get("login")), None)
        session.clear()


def access() -> Access:
    """Of the current app."""
    found: Access = current_app.extensions["eip_reclaimer_access"]
    return found


def is_action() -> bool:
    """Whether this request may change anything."""
    if request.endpoint is None or request.blueprint == blueprint.name:
        return False
    name = request.endpoint.rpartition(".")[2]
    shows = SHOWING.get(request.blueprint or "")
    return request.method not in ("GET", "HEAD", "OPTIONS") or (shows is not None and name not in shows)


def guard() -> None:
    """Refuse actions of who may not act, before anything looks at them."""
    if not is_action():
        return
    if access().read_only:
        abort(403, READ_ONLY)
    if request.method != "POST":
        raise MethodNotAllowed(["POST"], "Nothing was done: this acts, and a link must not. Use the button.")
    if not access().logged_in:
        abort(401, NOT_LOGGED_IN)


def note() -> None:
    """Log an action that is not refused."""
    if is_action():
        log.info("action at the dashboard", path=request.path, place=request.remote_addr)


@blueprint.get("/login")
def login_page() -> str:
    """Ask for the password."""
    return render_template("dashboard/login.html", leads_to=_own_path(request.args.get("next")))


@blueprint.post("/login")
def login() -> Response | tuple[str, int] | tuple[str, int, dict[str, str]]:
    """Log in, unless this place guesses too often."""
    if access().read_only:
        abort(403, READ_ONLY)
    leads_to = _own_path(request.form.get("next"))

    def asked_again(told: str) -> str:
        return render_template("dashboard/login.html", leads_to=leads_to, told=told)

    place = _place(request.remote_addr)
    wait = access().guesses.begin(place)
    if wait:
        told = f"Too many wrong passwords came from where you are. Wait {int(wait) + 1} seconds, then try again."
        return asked_again(told), 429, {"Retry-After": str(int(wait) + 1)}
    if not access().login(request.form.get("password", "")):
        log.warning("wrong password at the dashboard", place=place)
        return asked_again("That is not the password in EIP_RECLAIMER_DASHBOARD_PASSWORD."), 401
    access().guesses.right(place)
    log.info("logged in at the dashboard", place=place)
    return redirect(leads_to, 303)


@blueprint.post("/logout")
def logout() -> Response:
    """End the login."""
    access().logout()
    return redirect(url_for("gateways.overview"), 303)


def _place(address: str | None) -> str:
    """Where a guess comes from: an IPv4 address, or the IPv6 network that one host has all to itself."""
    try:
        parsed: Any = ip_address(address or "")
    except ValueError:
        return address or ""
    return str(parsed) if parsed.version == 4 else parsed.exploded[:19]


def _own_path(leads_to: str | None) -> str:
    """A path of this dashboard; where to begin when the text is none."""
    text = leads_to or ""
    other = text[1:2] in ("/", "\\") or any(ord(letter) <= 32 or letter == "\\" for letter in text)
    return text if text.startswith("/") and not other else url_for("gateways.overview")
