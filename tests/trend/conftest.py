"""Databases of trends: a SQLite file, and a PostgreSQL server of the tests' own where one is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Return the URL of a PostgreSQL server without a database, on a socket; skip without `initdb`, `pg_ctl` or psycopg."""
    programs = [shutil.which(name) for name in ("initdb", "pg_ctl")]
    if None in programs or find_spec("psycopg") is None:
        pytest.skip("needs a PostgreSQL server (initdb, pg_ctl) and the extra postgres (psycopg)")
    initdb, pg_ctl = map(str, programs)
    # The server refuses to run as root; the path of a socket has at most 100 characters.
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="permil-") as folder:
        if user:
            shutil.chown(folder, user)
        data = str(Path(folder) / "data")

        def call(*arguments: str) -> None:
            subprocess.run(arguments, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603

        call(initdb, "-D", data, "-A", "trust", "-U", "permil", "-E", "UTF8", "--no-sync")
        call(pg_ctl, "-D", data, "-w", "-o", f"-k {folder} -c listen_addresses= -c fsync=off", "-l", f"{folder}/log", "start")
        try:
            yield f"postgresql://permil@/{{}}?host={folder}"
        finally:
            call(pg_ctl, "-D", data, "-w", "-m", "fast", "stop")


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.full)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a database of trends that does not have tables yet: the path of a file, or the URL of a server."""
    if request.param == "file":
        return str(tmp_path / "trends.sqlite")
    return empty_database(request.getfixturevalue("server"), f"t{abs(hash(request.node.nodeid))}")


def empty_database(server: str, name: str) -> str:
    """Make a database on a server and return its URL."""
    import psycopg

    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.format(name)
