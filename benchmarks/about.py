"""What a run was made on: the machine, its load, the versions. Nothing that names a person."""

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.options import Options
from benchmarks.photos import load_photos


def describe_run(options: Options) -> dict[str, Any]:
    """Return the facts that figures are to be read with, as they are before the run."""
    cpus = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "processor": cpus[0] if cpus else platform.machine(),
        "memory_gb": round(memory / 1e9),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": {
            name: version(name)
            for name in ("boto3", "fastapi", "flask", "pika", "psycopg", "pyvips-binary")
        },
        "rounds": options.rounds,
        "rows": options.rows,
        "photos": len(load_photos(options.photos)) if options.photos else 0,
    }
