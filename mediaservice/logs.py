"""How every process logs: one JSON object a line, or readable lines in development.

Event names are static snake_case; facts are fields. Secrets, tokens and presigned URLs are never
given to a logger.
"""

import logging
import sys
from typing import Any

import msgspec
import structlog

from config.settings import BaseSettings

_PROCESSORS: list[structlog.types.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure_logging(settings: BaseSettings) -> None:
    """Set up structlog, and the standard library's logging, for this process."""
    rendering: list[structlog.types.Processor] = (
        [
            # A plain traceback: the prettier ones show local variables, tokens among them.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if settings.development
        else [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(_to_json),
        ]
    )
    level = logging.getLevelNamesMapping()[settings.log_level]
    structlog.configure(
        processors=[*_PROCESSORS, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_PROCESSORS,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    logging.getLogger("alembic.runtime.migration").setLevel(level)
    # We log what these report ourselves, once, in our words, and without signed URLs.
    for name in ("pika", "botocore", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _to_json(event: dict[str, Any], **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
