"""rq-dashboard's pages inside ours: on our connection, with our jobs, and trusting nothing that is in Redis.

As it comes, rq-dashboard opens Redis by URL with every request, unpickles jobs on some of its pages (whoever can write
to Redis could run anything here), and puts what it reads into pages unescaped. What it takes from RQ and from its
templates is exchanged here, so that its own code goes on unchanged.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import rq_dashboard
from flask import abort, current_app, jsonify, request
from jinja2 import BaseLoader, ChoiceLoader, FileSystemLoader
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq_dashboard import web

from dashboard.store import store

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask, Response
    from jinja2 import Environment

PREFIX = "/rq"

CORRECTIONS: tuple[tuple[str, str], ...] = (
    # Underscore: <%= writes as it is, <%- escapes.
    (r"<%= \$\('<div/>'\)\.text\((.*?)\)\.html\(\) %>", r"<%- \1 %>"),
    (r"<%=", r"<%-"),
    # A queue's name, out of the URL, in the middle of a script.
    (r"'\{\{ queue\.name \}\}'", r"{{ queue.name|tojson }}"),
    # Only scripts that have this answer's nonce are run.
    (r'<script type="text/javascript">', r'<script type="text/javascript" nonce="{{ csp_nonce() }}">'),
    (r"all the queued jobs on", r"all the {{ registry_name }} jobs on"),
    # The way from a job to its life.
    (r"(?=<button id=.requeue-job-btn)", '{% include "dashboard/way_to_trace.html" %}'),
    (r"<title>RQ dashboard</title>", r"<title>{% block title %}Jobs{% endblock %} - eip-reclaimer</title>"),
    (r"</head>", r'{% include "dashboard/head.html" %}</head>'),
)
"""What is exchanged in rq-dashboard's templates: a pattern, and what stands in its place."""


class UnreadableJobError(NoSuchJobError):
    """There is a job, but what is stored of it cannot be read."""


class JsonJob(Job):
    """A job that is never unpickled, whatever its serializer was to be."""

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None) -> None:  # noqa: A002, ARG002
        super().__init__(id, connection, JSONSerializer)

    @classmethod
    def fetch(cls, id: str, connection: Any = None, serializer: Any = None) -> Job:  # noqa: A002, ARG003
        """The job of that id.

        Raises:
            NoSuchJobError: there is none.
            UnreadableJobError: RQ cannot read what is stored.
        """
        try:
            return super().fetch(id, connection)
        except (RedisError, NoSuchJobError):
            raise
        except Exception as error:  # whatever a forged hash makes RQ raise
            raise UnreadableJobError(f"{type(error).__name__}: {error}") from None

    def latest_result(self, timeout: int = 0) -> Any:
        """The last result; None where it cannot be read."""
        try:
            return super().latest_result(timeout)
        except RedisError:
            raise
        except Exception:  # whatever a forged result makes RQ raise
            return None


class JsonQueue(Queue):
    """A queue that shows also the jobs that cannot be read."""

    job_class = JsonJob

    def fetch_job(self, job_id: str) -> Job | None:
        """The job, or one that stands in for it and says why it cannot be read; None when there is none here.

        Unlike RQ's, it changes nothing: a page that is only looked at takes no job off a queue.
        """
        try:
            job = JsonJob.fetch(job_id, self.connection)
        except UnreadableJobError as error:
            return self._stand_in(job_id, str(error))
        except NoSuchJobError:
            return None
        return job if job.origin == self.name else None

    def _stand_in(self, job_id: str, why: str) -> Job:
        job = JsonJob(connection=self.connection)
        job._id = job_id  # RQ takes no id that it would not have made
        job.origin = self.name
        job.description = f"a job that cannot be read ({why})"
        return job


class JsonWorker(Worker):
    """A worker, looked at: its current job is never unpickled."""

    job_class = JsonJob
    queue_class = JsonQueue


class CorrectedLoader(BaseLoader):
    """rq-dashboard's templates with `CORRECTIONS`."""

    def __init__(self, original: BaseLoader) -> None:
        self._original = original

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Callable[[], bool] | None]:
        """The template's text, the file it is from, and whether that is still so."""
        source, filename, is_current = self._original.get_source(environment, template)
        return corrected(source), filename, is_current


def corrected(source: str) -> str:
    """A template of rq-dashboard as we use it."""
    for pattern, replacement in CORRECTIONS:
        source = re.sub(pattern, replacement, source)
    return source


def adopt(app: Flask) -> None:
    """Register rq-dashboard's pages, on the app's store."""
    web.config.serializer = JSONSerializer
    web.Job, web.Queue, web.Worker = JsonJob, JsonQueue, JsonWorker
    web.requeue_job = _requeue
    web.from_url = _our_connection
    # It is shown nowhere; rq-dashboard takes the number of instances from it.
    app.config["RQ_DASHBOARD_REDIS_URL"] = ("redis",)
    # It is looked at with every request, also with those for styles and scripts that need no Redis.
    app.redis_conn = None  # type: ignore[attr-defined]
    original = CorrectedLoader(web.blueprint.jinja_loader)
    # Ours first: its navbar is ours too.
    app.jinja_loader = ChoiceLoader([FileSystemLoader(f"{app.root_path}/templates"), original])
    # Flask escapes by the file's name, and rq-dashboard's scripts are templates too.
    app.jinja_options = {"autoescape": True}
    app.before_request(_lend_connection)
    app.register_blueprint(rq_dashboard.blueprint, url_prefix=PREFIX)
    app.view_functions["rq_dashboard.requeue_all"] = _requeue_all


def _lend_connection() -> None:
    if request.blueprint != "rq_dashboard" or not store().is_open:
        return
    if (request.view_args or {}).get("instance_number", 0) != 0:
        abort(404, "There is one Redis behind this dashboard.")
    # rq-dashboard keeps its connection as an attribute of the app.
    app: Any = current_app
    app.redis_conn = store().redis


def _our_connection(*_arguments: Any, **_options: Any) -> tuple[str, Any]:
    """Stand in for what opens a URL, as rq-dashboard does with every request that names an instance."""
    return "redis", store().redis


def _requeue(job_id: str, connection: Any) -> Job:
    return JsonJob.fetch(job_id, connection).requeue()


def _requeue_all(queue_name: str) -> Response:
    """Requeue every failed job of a queue; one that cannot be does not keep the others."""
    registry = JsonQueue(queue_name, connection=store().redis, serializer=JSONSerializer).failed_job_registry
    job_ids = registry.get_job_ids(cleanup=False)
    left = 0
    for job_id in job_ids:
        try:
            _requeue(job_id, store().redis)
        except (NoSuchJobError, InvalidJobOperation):
            left += 1
    return jsonify(status="OK", count=len(job_ids) - left, left=left)


def why_no_job(error: NoSuchJobError) -> str:
    """In words, with what to do."""
    if isinstance(error, UnreadableJobError):
        return f"What is stored of this job cannot be read ({error}). Nothing was done; empty its registry to drop it."
    return "There is no such job: its time to be kept is over, or somebody deleted it. Its life may still be known."
