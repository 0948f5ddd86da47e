"""A private PostgreSQL for tests: its own cluster in a directory of its own, gone without a trace afterwards.

One cluster a test session, started when the first test asks for it; each test gets a database that is empty. It runs as an unprivileged user (as root PostgreSQL refuses to start), listens
on a Unix socket alone, and dies with this process even if that is killed. Durability is off (`fsync`, `synchronous_commit`,
`full_page_writes`): no test here is about a power cut, and the numbers of benchmarks don't come from it. Where PostgreSQL
isn't installed the tests are skipped with that reason; `make system-deps` brings it. initdb(1), postgres(1).
"""

from __future__ import annotations

import ctypes
import glob
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST = 15
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
PR_SET_PDEATHSIG = 1

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0777",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "logging_collector": "off",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
}


def installed() -> str | None:
    """Give the directory of the newest usable PostgreSQL's programs, None if there is none."""
    found = glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/pgsql-*/bin")
    on_path = shutil.which("postgres")
    if on_path is not None:
        found.append(os.path.dirname(os.path.realpath(on_path)))
    usable = {path: _version(path) for path in found if os.access(f"{path}/initdb", os.X_OK)}
    best = max(usable, key=usable.__getitem__, default=None)
    return best if best is not None and usable[best] >= OLDEST else None


def _version(path: str) -> int:
    told = subprocess.run(
        [f"{path}/postgres", "--version"], capture_output=True, text=True, check=False
    ).stdout
    numbers = [word.partition(".")[0] for word in told.split() if word[0].isdigit()]
    return int(numbers[0]) if numbers and numbers[0].isdigit() else 0


SERVED = "served"
BARE = "bare"

_ALONE = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_EMPTY = """
    DO $$
    DECLARE one text;
    BEGIN
        SET LOCAL session_replication_role = replica; -- no foreign keys meanwhile, so no order either
        FOR one IN SELECT tablename FROM pg_tables
            WHERE schemaname = 'public' AND tablename <> 'alembic_version'
        LOOP EXECUTE format('DELETE FROM %I', one); END LOOP;
        FOR one IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'
        LOOP PERFORM setval(one, 1, false); END LOOP;
    END $$
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running PostgreSQL; `pid` is its postmaster's."""

    directory: str
    user: str
    pid: int

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@/{database}?host={self.directory}"

    async def emptied(self, name: str) -> str:
        """Give the URL of a database whose tables are empty and whose numbers begin anew; nobody else is in it.

        Rows are deleted rather than the database made anew: that costs a twentieth, for tests leave few.
        """
        await self.execute(_ALONE, name)
        await self.execute(_EMPTY, name)
        return self.url(name)

    async def stripped(self, name: str) -> str:
        """Give the URL of a database without any table; nobody else is in it."""
        await self.execute(_ALONE, name)
        await self.execute("DROP SCHEMA public CASCADE", name)
        await self.execute("CREATE SCHEMA public", name)
        return self.url(name)

    async def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run one statement as the superuser, outside any transaction."""
        import asyncpg  # type: ignore[import-untyped]

        connection = await asyncpg.connect(host=self.directory, user=self.user, database=database, timeout=30)
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close(timeout=10)


@contextmanager
def running_cluster(directory: str | None = None, **settings: str) -> Iterator[Cluster]:
    """Make and run a cluster for the length of the block.

    Raises:
        RuntimeError: it did not start; the message holds its log.
    """
    programs = installed()
    assert programs is not None, "PostgreSQL is not installed"
    own = directory is None
    directory = directory or tempfile.mkdtemp(prefix="nn-pg-", dir="/tmp")  # socket paths must stay short
    user = _unprivileged()
    os.chown(directory, user.pw_uid, user.pw_gid)
    try:
        if not os.path.exists(f"{directory}/data"):
            _make(programs, directory, user)
        with _running(programs, directory, user, SETTINGS | settings) as pid:
            yield Cluster(directory, user.pw_name, pid)
    finally:
        if own:
            shutil.rmtree(directory)


def _unprivileged() -> pwd.struct_passwd:
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("no unprivileged user to run PostgreSQL as")


def _as(user: pwd.struct_passwd) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _make(programs: str, directory: str, user: pwd.struct_passwd) -> None:
    made = subprocess.run(
        [
            *(f"{programs}/initdb", "--pgdata", f"{directory}/data", "--username", user.pw_name),
            *("--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=_environment(),
        **_as(user),
    )
    if made.returncode != 0:
        raise RuntimeError(f"initdb failed: {made.stderr}")


_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)  # after the change of user, which would clear it


@contextmanager
def _running(
    programs: str, directory: str, user: pwd.struct_passwd, settings: dict[str, str]
) -> Iterator[int]:
    flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
    with open(f"{directory}/log", "ab") as log:
        postmaster = subprocess.Popen(
            [f"{programs}/postgres", "-D", f"{directory}/data", "-k", directory, *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C is for the tests, which then stop it in order
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (one system call, of a library loaded before)
            **_as(user),
        )
    pidfd = os.pidfd_open(postmaster.pid)
    try:
        _wait_until_ready(pidfd, directory)
        yield postmaster.pid
    finally:
        # Fast, then immediate: either way the postmaster takes its children and its shared memory along.
        for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if postmaster.poll() is None:
                signal.pidfd_send_signal(pidfd, signum)
                select.select([pidfd], [], [], STOP_TIMEOUT_S)
        postmaster.wait(timeout=STOP_TIMEOUT_S)
        os.close(pidfd)


def _wait_until_ready(pidfd: int, directory: str) -> None:
    """The last line of postmaster.pid says when it takes connections, as pg_ctl(1) reads it."""
    deadline = time.monotonic() + START_TIMEOUT_S
    status = ""
    while status != "ready":
        if select.select([pidfd], [], [], 0.01)[0] or time.monotonic() > deadline:
            with open(f"{directory}/log", encoding="utf-8", errors="replace") as log:
                raise RuntimeError(f"PostgreSQL did not start (status {status!r}): {log.read()[-2000:]}")
        try:
            with open(f"{directory}/data/postmaster.pid", encoding="utf-8") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            continue
        status = lines[7].strip() if len(lines) > 7 else ""


def main() -> None:
    """`python -m tests.support.postgres` runs a cluster until its stdin ends; prints the URL of its database."""
    with running_cluster() as cluster:
        print(cluster.url("postgres"), flush=True)
        sys.stdin.read()


async def make_databases(cluster: Cluster) -> None:
    """Make the two that tests share by turns: one with the server's schema, one for tests of the schema itself."""
    from server_stub.store.engine import Database

    for name in (SERVED, BARE):
        await cluster.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await (await Database.open(cluster.url(SERVED))).close()


if __name__ == "__main__":
    main()
