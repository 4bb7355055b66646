"""A throw-away PostgreSQL for tests: in a temporary folder, with a Unix socket there that nobody else can reach."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 60
STOP_SECONDS = 60
UNPRIVILEGED = "nobody"


@contextmanager
def postgres() -> Iterator[str]:
    """Runs a PostgreSQL server; gives the SQLAlchemy URL of its one, empty database.

    PostgreSQL refuses to run as root: root runs it as ``nobody``. Raises RuntimeError when it is not installed or does
    not start.
    """
    as_whom: dict[str, Any] = {}
    if os.geteuid() == 0:
        as_whom = {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="laion-people-postgres-") as name:
        folder = Path(name)
        if as_whom:
            shutil.chown(folder, UNPRIVILEGED)
        log = folder / "log"
        data = ["-D", str(folder / "data")]
        options = ["--username=airflow", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [program("initdb"), *data, *options], check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_whom
        )
        with log.open("wb") as output:
            server = subprocess.Popen(
                [program("postgres"), *data, "-k", name, "-c", "listen_addresses=", "-c", "fsync=off"],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
                **as_whom,
            )
        try:
            wait_for(server, folder, log)
            yield f"postgresql+psycopg2://airflow@/postgres?host={name}"
        finally:
            server.send_signal(signal.SIGINT)  # ends it without waiting for its clients
            server.wait(STOP_SECONDS)


def wait_for(server: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    ready = [program("pg_isready"), "--host", str(folder), "--quiet"]
    while subprocess.run(ready).returncode:
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL does not start: {log.read_text()}")
        time.sleep(0.1)


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, which Debian keeps out of PATH."""
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    path = shutil.which(name) or (str(packaged[-1]) if packaged else None)
    if not path:
        raise RuntimeError(f"PostgreSQL's {name} is not installed: apt-get install postgresql")
    return path
