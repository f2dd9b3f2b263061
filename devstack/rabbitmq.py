"""RabbitMQ for tests and benchmarks, from Debian's `rabbitmq-server`, as a node of our own.

Debian's wrapper scripts change the user and read the system's configuration, so the server's own
script is called, with everything it reads or writes below one directory.
"""

import os
import secrets
import subprocess
from pathlib import Path
from typing import Final

import pika
from pika.exceptions import AMQPError

from devstack.process import Process, ServiceError, find_free_ports, is_listening

# AMQP, Erlang distribution, epmd.
PORT_OFFSETS: Final = (0, 1, 2)
_SERVER: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_ERLANG: Final = Path("/usr/lib/erlang")


class RabbitMQ(Process):
    """One node on loopback; its data in `directory` survives `stop` and `kill`."""

    def __init__(self, directory: Path, port: int | None = None) -> None:
        if not _SERVER.exists():
            raise ServiceError("RabbitMQ is not installed: apt-get install rabbitmq-server")
        self._directory = directory.resolve()
        self.port = port or find_free_ports(PORT_OFFSETS)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        for name in ("home", "log", "mnesia"):
            (self._directory / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        environ = self._environment()
        # Started by the node itself, epmd would outlive it.
        self._epmd = Process(
            "epmd",
            [
                _find_epmd(),
                *("-address", "127.0.0.1", "-port", str(self.port + 2)),
                "-relaxed_command_check",
            ],
            log_path=self._directory / "log" / "epmd.log",
            environ=environ,
            cwd=self._directory,
            is_ready=lambda: is_listening(self.port + 2),
        )
        super().__init__(
            "RabbitMQ",
            [_SERVER],
            log_path=self._directory / "log" / "console.log",
            environ=environ,
            cwd=self._directory,
            is_ready=self._answers,
        )

    def start(self, *, wait: bool = True) -> None:
        """Write the configuration and start the node."""
        self._configure()
        if not self._epmd.is_running:
            self._epmd.start()
        super().start(wait=wait)

    def stop(self) -> int | None:
        """Stop the node, then epmd."""
        code = super().stop()
        self._epmd.stop()
        return code

    def kill(self) -> int | None:
        """End the node at once, and epmd."""
        code = super().kill()
        self._epmd.kill()
        return code

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl on this node and return its output. Raises CalledProcessError."""
        return subprocess.run(
            [_SERVER.with_name("rabbitmqctl"), "--quiet", *arguments],
            env=self._environment(),
            cwd=self._directory,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def _configure(self) -> None:
        cookie = self._directory / "home" / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)
        (self._directory / "enabled_plugins").write_text("[].")
        (self._directory / "advanced.config").write_text("[].")
        (self._directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "loopback_users.guest = true\n"
            "log.console = false\n"
            "log.file.level = warning\n"
            "vm_memory_high_watermark.absolute = 512MiB\n"
            "disk_free_limit.absolute = 200MB\n"
        )

    def _environment(self) -> dict[str, str]:
        directory, port = self._directory, self.port
        return {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(directory / "home"),
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(port + 2),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": f"media{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(port + 1),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
            "RABBITMQ_PID_FILE": str(directory / "rabbit.pid"),
            # Else a shell stays between us and the node, which would outlive us if we were killed.
            "RUNNING_UNDER_SYSTEMD": "true",
            # Two schedulers that do not spin, and nothing listening but on loopback.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
            " -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _answers(self) -> bool:
        if not is_listening(self.port):
            return False
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except (AMQPError, OSError):
            return False
        return True


def _find_epmd() -> Path:
    found = sorted(_ERLANG.glob("erts-*/bin/epmd"))
    if not found:
        raise ServiceError("Erlang is not installed: apt-get install rabbitmq-server")
    return found[-1]
