"""The whole service as real processes, two of each role, behind proxies that faults can use."""

from contextlib import ExitStack
from pathlib import Path

from devstack.postgresql import PostgreSQL
from devstack.process import Process, find_free_ports
from devstack.rabbitmq import RabbitMQ
from devstack.roles import LISTENER, WORKER
from devstack.seaweedfs import SeaweedFS
from tests.service import Deployment

BAD_WORKER = Path(__file__).with_name("bad_worker.py")
# Short times, so that every deadline of the design passes several times in one run.
UPLOAD_URL_TTL_SECONDS = 15
UPLOAD_GRACE_SECONDS = 6
PROCESSING_TIMEOUT_SECONDS = 10
DECODE_TIMEOUT_SECONDS = 5

# Every change of a row's status or deletion, whoever makes it: the truth that logs are not.
HISTORY_SQL = """
CREATE TABLE media_history (
    media_id uuid, was text, is_now text, was_deleted boolean, is_deleted boolean,
    at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION keep_media_history() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO media_history VALUES
            (NEW.id, NULL, NEW.status, false, NEW.deleted_at IS NOT NULL);
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO media_history VALUES
            (OLD.id, OLD.status, NULL, OLD.deleted_at IS NOT NULL, NULL);
    ELSIF OLD.status <> NEW.status OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at THEN
        INSERT INTO media_history VALUES (OLD.id, OLD.status, NEW.status,
            OLD.deleted_at IS NOT NULL, NEW.deleted_at IS NOT NULL);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER media_history AFTER INSERT OR UPDATE OR DELETE ON media
    FOR EACH ROW EXECUTE FUNCTION keep_media_history();
"""


class Stack(Deployment):
    """PostgreSQL, RabbitMQ, SeaweedFS; two webs, listeners and workers, and one bad worker."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._parts = ExitStack()
        self.postgresql = self._parts.enter_context(PostgreSQL(directory / "postgresql"))
        self.rabbitmq = self._parts.enter_context(RabbitMQ(directory / "rabbitmq"))
        self.seaweedfs = self._parts.enter_context(SeaweedFS(directory / "seaweedfs"))
        super().__init__(
            directory,
            postgresql=self.postgresql,
            database="postgres",
            rabbitmq=self.rabbitmq,
            seaweedfs=self.seaweedfs,
            PYTHONUNBUFFERED="1",
            UPLOAD_URL_TTL_SECONDS=str(UPLOAD_URL_TTL_SECONDS),
            UPLOAD_GRACE_SECONDS=str(UPLOAD_GRACE_SECONDS),
            LATE_UPLOAD_SECONDS="0",
            PROCESSING_TIMEOUT_SECONDS=str(PROCESSING_TIMEOUT_SECONDS),
            DECODE_TIMEOUT_SECONDS=str(DECODE_TIMEOUT_SECONDS),
            MAX_ATTEMPTS="4",
            MAX_PENDING_UPLOADS="100000",
            MAX_PENDING_BYTES=str(2**40),
        )
        self.release()
        with self.postgresql.connect() as connection:
            connection.execute(HISTORY_SQL)
        self.web_ports = [find_free_ports(), find_free_ports()]
        self.poison_file = directory / "poison"
        bad_worker = (str(BAD_WORKER), str(seed), str(self.poison_file))
        self.bad_worker = self.make_role("bad-worker", bad_worker)
        self.roles: list[Process] = [
            *(self.make_web(f"web{n}", port, "healthz") for n, port in enumerate(self.web_ports)),
            *(self.make_role(f"listener{n}", LISTENER) for n in range(2)),
            *(self.make_role(f"worker{n}", WORKER) for n in range(2)),
            self.bad_worker,
        ]
        for process in self.roles:
            self._parts.enter_context(process)

    @property
    def engines(self) -> list[Process]:
        """The servers that hold state."""
        return [self.postgresql, self.rabbitmq, self.seaweedfs]

    def close(self) -> None:
        """Stop everything, in the opposite order."""
        self._parts.close()

    def audit(self) -> list[str]:
        """Return what the service's own audit has to report, besides its totals."""
        done = self.flask("media", "audit", "--min-age=0", "--json", check=False)
        *findings, last = done.stdout.splitlines() or [""]
        if not last.startswith('{"totals"'):  # it broke off
            return [*findings, last, done.stderr]
        return findings
