"""Every metric, once: names begin with `media_`, units are seconds and bytes.

Only definitions: who counts what is decided where it happens. Labels take few values that are known
beforehand; ids, keys and what clients send are never labels. docs/observability.md is for readers.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from config.settings import IMAGE_CONTENT_TYPES
from mediaservice import errors
from mediaservice.messages import MESSAGE_TYPES
from mediaservice.states import Event

_WEB_BUCKETS: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_STORE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PROCESSING_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_READY_BUCKETS: Final = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

# The count of a histogram is the number of requests: one observation tells both.
HTTP_REQUESTS = Histogram(
    "media_http_request_duration_seconds",
    "HTTP requests, by the time from the first hook to the last.",
    ["method", "route", "status"],
    buckets=_WEB_BUCKETS,
)
HTTP_ERRORS = Counter(
    "media_http_errors",
    "Error responses, by their stable code.",
    ["error"],
)

STORE_REQUESTS = Histogram(
    "media_store_request_duration_seconds",
    "Calls to the object store, retries included; outcome: ok, missing, changed or unavailable.",
    ["operation", "outcome"],
    buckets=_STORE_BUCKETS,
)
PRESIGNED_UPLOADS = Counter(
    "media_presigned_uploads",
    "Upload URLs signed; signing is no call to the store.",
)

BROKER_PUBLISHES = Counter(
    "media_broker_publishes",
    "Messages published; outcome: confirmed, refused (unroutable, nacked, not allowed) or lost.",
    ["outcome"],
)
BROKER_DELIVERIES = Counter(
    "media_broker_deliveries",
    "Messages consumed; redelivered: whether it was delivered before.",
    ["routing_key", "redelivered"],
)
BROKER_CONNECTIONS = Counter(
    "media_broker_connections",
    "What became of connections; outcome: opened, refused (could not connect) or lost.",
    ["link", "outcome"],
)
BROKER_CONNECTED = Gauge(
    "media_broker_connected",
    "Whether the connection is open, 1 or 0.",
    ["link"],
)
BROKER_BLOCKED = Counter(
    "media_broker_blocked",
    "Times RabbitMQ, short of memory or disk, has said that it takes no messages.",
    ["link"],
)
BROKER_DEAD_LETTERS = Counter(
    "media_broker_dead_letters",
    "Messages this service has set aside in the dead-letter queue.",
    ["routing_key"],
)
QUEUE_MESSAGES = Gauge(
    "media_queue_messages",
    "Messages waiting in a queue, sampled by every listener: take the max.",
    ["queue"],
)

DUE_MEDIA = Gauge(
    "media_due_media",
    "Media whose time has come, by what is to be done, sampled by every listener: take the max.",
    ["kind"],
)
DUE_OLDEST_AGE = Gauge(
    "media_due_oldest_age_seconds",
    "How long the first of them has been waiting, sampled by every listener: take the max.",
    ["kind"],
)
TRANSITIONS = Counter(
    "media_transitions",
    "Changes of status, by the event of the state machine.",
    ["transition"],
)
DISPATCHES = Counter(
    "media_dispatches",
    "Jobs claimed; attempt: first or further; outcome: published, held or given_back.",
    ["attempt", "outcome"],
)
RESULTS = Counter(
    "media_results",
    "Workers' results; outcome: applied, duplicate, stray, malformed or refused.",
    ["routing_key", "outcome"],
)
PURGES = Counter(
    "media_purges",
    "Purges of a media's objects; outcome: done or postponed.",
    ["outcome"],
)
DATABASE_FAULTS = Counter(
    "media_listener_database_faults",
    "Times the listener found the database out of reach.",
)
TIME_TO_READY = Histogram(
    "media_time_to_ready_seconds",
    "From the acceptance of an upload, or a retry's request, to `ready`.",
    buckets=_READY_BUCKETS,
)

PROCESSING = Histogram(
    "media_processing_duration_seconds",
    "Jobs done by a worker, by the original's content type; outcome: processed or failed.",
    ["format", "outcome"],
    buckets=_PROCESSING_BUCKETS,
)
PROCESSING_FAILURES = Counter(
    "media_processing_failures",
    "Jobs that a worker could not do, by the code in its result.",
    ["code"],
)
PROCESSED_BYTES = Counter(
    "media_processed_bytes",
    "Bytes read and written by a worker; direction: in (originals) or out (renditions).",
    ["direction", "format"],
)

LAST_LOOP = Gauge(
    "media_last_loop_timestamp_seconds",
    "When the process last went round its loop, in seconds since 1970.",
    ["process"],
)

# To Prometheus a series that begins with 1 has never increased. Those of rare faults begin with 0
# here, so that their first one is seen.
for _event in Event:
    TRANSITIONS.labels(_event.value)
for _outcome in ("confirmed", "refused", "lost"):
    BROKER_PUBLISHES.labels(_outcome)
for _outcome in ("done", "postponed"):
    PURGES.labels(_outcome)
for _code in errors.PROCESSING_MESSAGES:
    PROCESSING_FAILURES.labels(_code)


def routing_key_label(routing_key: str) -> str:
    """Return the routing key, or `other`: messages may come with anything."""
    return routing_key if routing_key in MESSAGE_TYPES else "other"


def format_label(content_type: str) -> str:
    """Return a format like `jpeg`, or `other`."""
    return content_type.partition("/")[2] if content_type in IMAGE_CONTENT_TYPES else "other"
