"""Evidence of the fleet: summaries stored as they come, bundles fetched on request into a bounded directory.

A bundle is written beside its place and renamed, so a name is a whole one; the oldest make room. What is
written goes through a thread, since a slow disk must not hold the loop. Knows no HTTP; `routes/evidence.py`
brings the bytes, `Commands` the request to the node.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from server_stub import events
from server_stub.changes import EVENTS
from server_stub.core.hang_signature import hang_signature
from server_stub.store import evidence as store
from server_stub.store.evidence import EvidenceRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from nanny.protocol.messages import EvidenceSummary
    from server_stub.changes import Changes
    from server_stub.clock import Clock
    from server_stub.metrics import Metrics
    from server_stub.store.engine import Database

UPLOAD_LIMIT_BYTES: Final = 64 << 20
UPLOADS_LIMIT: Final = 4
UPLOAD_TIMEOUT_S: Final = 150.0
"""A little more than link gives itself."""
UNFINISHED: Final = ".part"
SUMMARIES_AN_HOUR: Final = 360
"""Of one node: more would only push everybody's events off the log."""
JUST_A_LOOK: Final = "ordered by "
"""So begins the reason of evidence that somebody wanted of a worker that may be well: no hang."""
SUFFIX: Final = ".tar.gz"
TIDY_INTERVAL_S: Final = 3600.0
DROPPED_AT_ONCE: Final = 500


class UploadRefused(Exception):  # noqa: N818 (what it is, not what it does)
    """The bundle is not taken: `code` is the problem's."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Evidence:
    """The fleet's evidence."""

    def __init__(
        self,
        *,
        database: Database,
        changes: Changes,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Metrics,
        directory: Path,
        limit_bytes: int,
        kept_s: float,
    ) -> None:
        self._database = database
        self._changes = changes
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self.directory = directory
        self._limit_bytes = limit_bytes
        self._kept_s = kept_s
        self._uploads = 0

    async def run(self) -> None:
        """Drop what is too old, now and then, until cancelled."""
        while True:
            try:
                await self.tidy()
            except Exception:
                self._log.exception("old evidence not dropped")
            await asyncio.sleep(TIDY_INTERVAL_S)

    async def keep_summary(self, node_id: str, summary: EvidenceSummary) -> None:
        """Store what a node says that it saved; once, however often it says so."""
        kind = hang_signature(summary.signature, summary.stalled_at)
        is_hang = kind is not None and not summary.reason.startswith(JUST_A_LOOK)
        record = EvidenceRecord(
            bundle_id=summary.bundle_id,
            node_id=node_id,
            wall_at=self._clock.wall(),
            incarnation=str(summary.incarnation),
            reason=summary.reason,
            stalled_at=summary.stalled_at or "",
            signature=kind.key if kind is not None and is_hang else "",
            stack=() if kind is None else kind.frames,
            size_bytes=summary.size_bytes,
            wanted_wall_at=None,
            file=None,
        )
        async with self._database.reading() as session:
            told = await store.count_since(session, node_id, record.wall_at - 3600.0)
        if told >= SUMMARIES_AN_HOUR:
            self._metrics.count("evidence_refused_total")
            return
        async with self._database.writing("evidence") as session:
            if await store.keep(session, record):
                events.append(
                    session,
                    record.wall_at,
                    "node.evidence",
                    node_id,
                    bundle=record.bundle_id,
                    incarnation=record.incarnation,
                    reason=record.reason,
                    size_bytes=record.size_bytes,
                    stalled_at=summary.stalled_at,
                    signature=record.signature,
                )
        self._changes.mark([EVENTS])

    async def take_bundle(
        self, node_id: str, bundle_id: str, chunks: AsyncIterator[bytes], remote: str
    ) -> None:
        """Write a bundle that was asked for.

        Raises:
            UploadRefused: nobody asked for it, it is too large, or too many come at once.
        """
        async with self._database.reading() as session:
            record = await store.find(session, node_id, bundle_id)
        if record is None or record.wanted_wall_at is None:
            raise UploadRefused("not-requested", f"nobody has asked for bundle {bundle_id[:128]!r}")
        if self._uploads >= UPLOADS_LIMIT:
            raise UploadRefused("too-many-uploads", f"{UPLOADS_LIMIT} bundles are coming already")
        self._uploads += 1
        # A hash: ids of nodes are theirs to choose, and no two must be one file.
        name = hashlib.sha256(f"{node_id}\0{bundle_id}".encode()).hexdigest() + SUFFIX
        unfinished = self.directory / f".{os.urandom(8).hex()}{UNFINISHED}"
        try:
            try:
                async with asyncio.timeout(UPLOAD_TIMEOUT_S):
                    size_bytes = await self._write(unfinished, chunks)
            except TimeoutError:
                why = f"the bundle did not come within {UPLOAD_TIMEOUT_S:g} s"
                raise UploadRefused("malformed", why) from None
            await asyncio.to_thread(unfinished.replace, self.directory / name)
        finally:
            self._uploads -= 1
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
        async with self._database.writing("evidence") as session:
            await store.arrived(session, node_id, bundle_id, name)
        self._changes.mark([node_id])
        self._log.info(
            "evidence bundle arrived", node=node_id, bundle=bundle_id, size_bytes=size_bytes, remote=remote
        )
        await self._make_room(keep=name)

    async def _write(self, path: Path, chunks: AsyncIterator[bytes]) -> int:
        await asyncio.to_thread(self.directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        size_bytes = 0
        file = await asyncio.to_thread(path.open, "xb")
        try:
            async for chunk in chunks:
                size_bytes += len(chunk)
                if size_bytes > min(UPLOAD_LIMIT_BYTES, self._limit_bytes):
                    raise UploadRefused("too-large", f"a bundle has at most {UPLOAD_LIMIT_BYTES} bytes")
                await asyncio.to_thread(file.write, chunk)
        finally:
            await asyncio.to_thread(file.close)
        return size_bytes

    async def _make_room(self, keep: str) -> None:
        """Remove the oldest bundles until the rest fits; the newest always stays."""
        gone = await asyncio.to_thread(_remove_oldest, self.directory, self._limit_bytes, keep)
        if gone:
            async with self._database.writing("evidence") as session:
                await store.forget_files(session, gone)
            self._log.info("evidence bundles dropped", count=len(gone), why="evidence_limit_mib")

    async def tidy(self) -> None:
        """Drop summaries that are older than events are kept, and what a server that was killed left half written."""
        await asyncio.to_thread(_remove_unfinished, self.directory, self._clock.wall() - TIDY_INTERVAL_S)
        before_wall_at = self._clock.wall() - self._kept_s
        while True:
            async with self._database.writing("evidence") as session:
                dropped = await store.drop_older(session, before_wall_at, DROPPED_AT_ONCE)
            if dropped < DROPPED_AT_ONCE:
                return


def _remove_unfinished(directory: Path, before_wall_at: float) -> None:
    for path in directory.glob(f".*{UNFINISHED}"):
        with suppress(OSError):
            if path.stat().st_mtime < before_wall_at:
                path.unlink()


def _remove_oldest(directory: Path, limit_bytes: int, keep: str) -> list[str]:
    found = []
    for path in directory.glob(f"*{SUFFIX}"):
        with suppress(OSError):
            shown = path.stat()
            found.append((shown.st_mtime, shown.st_size, path))
    found.sort()
    total, gone = sum(size for _, size, _ in found), []
    for _, size, path in found:
        if total <= limit_bytes:
            break
        if path.name == keep:
            continue
        with suppress(OSError):
            path.unlink()
            total -= size
            gone.append(path.name)
    return gone
