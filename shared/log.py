"""Logs are events with fields: readable on a terminal, JSON lines elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from shared.models import Work
    from shared.settings import Settings


def configure(settings: Settings) -> None:
    """Send everything that is logged, by us and by libraries, to stderr in one form."""
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        # Its other forms show local variables, and with them secrets.
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # RQ tells of every step of every job; its warnings are what an operator needs beside our own events.
    for noisy in ("rq.worker", "rq.job", "rq.queue", "rq.scheduler", "urllib3"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def named(work: Work) -> dict[str, str]:
    """The fields by which every line about a piece of work can be found: `work`, its id, is in all of them."""
    fields = {"work": work.id, "gateway": work.gateway, "eip": work.eip, "uid": work.uid}
    return {field: value for field, value in fields.items() if value is not None}


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose events carry the module's name."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
