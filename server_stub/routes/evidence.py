"""Routes for evidence: summaries, hangs grouped by their stack, and bundles on request.

Reading and grouping is `store/evidence.py`'s, files are `Evidence`'s.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, ClassVar, Final

from aiohttp import web

from server_stub.authorisation import Permission
from server_stub.clock import iso
from server_stub.evidence import UploadRefused
from server_stub.problems import Problem
from server_stub.routing import LIMIT, Parameter, Route, Routes, integer_of, limit_of
from server_stub.store import commands as command_store
from server_stub.store import evidence as store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server_stub.store.evidence import EvidenceRecord, Hang

UPLOAD_EVIDENCE: Final = "upload-evidence"
"""An order of link's own: `nanny.link.bundle_upload`."""
UPLOAD_TIME_TO_LIVE_S: Final = 600.0
_DAY_S: Final = 86400
_WITHIN_S: Final = Parameter(
    "within_s",
    {"type": "integer", "minimum": 1, "maximum": 3650 * _DAY_S, "default": 7 * _DAY_S},
    "Only what was seen so recently, in seconds.",
)
_SIGNATURE: Final = Parameter(
    "signature", {"type": "string", "maxLength": 64}, "Only of this kind of hang, a key of /v1/hangs."
)


class EvidenceRoutes(Routes):
    """What one can ask of evidence."""

    ROUTES: ClassVar = (
        Route(
            "GET",
            "/v1/evidence",
            Permission.OBSERVE,
            "summaries of evidence, newest first; `signature`, `limit`",
            "get_evidence",
            query=(_SIGNATURE, LIMIT),
            response="EvidenceList",
        ),
        Route(
            "GET",
            "/v1/hangs",
            Permission.OBSERVE,
            "hangs grouped by the stack that hung, most nodes first; `within_s`, `limit`",
            "get_hangs",
            query=(_WITHIN_S, LIMIT),
            response="HangList",
        ),
        Route(
            "GET",
            "/v1/nodes/{node}/evidence",
            Permission.OBSERVE,
            "a node's evidence, newest first; `limit`",
            "get_node_evidence",
            query=(LIMIT,),
            response="EvidenceList",
        ),
        Route(
            "POST",
            "/v1/nodes/{node}/evidence/{bundle}/request",
            Permission.COMMAND,
            "202 and the command that fetches the bundle",
            "post_request",
            statuses=(202,),
            response="Command",
            query=(),
        ),
        Route(
            "GET",
            "/v1/nodes/{node}/evidence/{bundle}/content",
            Permission.OBSERVE,
            "the bundle as a gzipped tar",
            "get_content",
            content_types=("application/gzip",),
            query=(),
            problems=("not-here",),
        ),
        Route(
            "PUT",
            "/v1/nodes/{node}/evidence/{bundle}/content",
            Permission.BE_NODE,
            "201; a node sends the bundle that it was asked for",
            "put_content",
            statuses=(201,),
            body="Bundle",
            response="BundleStored",
            query=(),
            body_type="application/gzip",
            problems=("not-requested", "too-large", "too-many-uploads"),
        ),
    )

    async def get_evidence(self, request: web.Request) -> web.Response:
        """List the fleet's evidence."""
        return await self._list(request, None)

    async def get_node_evidence(self, request: web.Request) -> web.Response:
        """List a node's evidence."""
        return await self._list(request, (await self.find_node(request)).id)

    async def _list(self, request: web.Request, node_id: str | None) -> web.Response:
        signature = request.query.get("signature") if node_id is None else None
        limit = limit_of(request)
        async with self.services.database.reading() as session:
            found = await store.newest(session, node_id=node_id, signature=signature, limit=limit)
        return web.json_response({"evidence": [_shown(record) for record in found]})

    async def get_hangs(self, request: web.Request) -> web.Response:
        """Group the fleet's evidence by the stack that hung."""
        within_s = integer_of(request, "within_s", 7 * _DAY_S, 1, 3650 * _DAY_S) or _DAY_S
        limit = limit_of(request)
        since_wall_at = self.services.clock.wall() - within_s
        async with self.services.database.reading() as session:
            found = await store.hangs(session, since_wall_at=since_wall_at, limit=limit)
        return web.json_response({"hangs": [_hang_shown(hang) for hang in found]})

    async def post_request(self, request: web.Request) -> web.Response:
        """Ask the node for a bundle."""
        services = self.services
        node = await self.find_node(request)
        bundle_id = request.match_info["bundle"]
        await self._record(node.id, bundle_id)
        async with services.database.writing("evidence") as session:
            await store.want(session, node.id, bundle_id, services.clock.wall())
        actor = f"api@{request.remote or 'unknown'}"
        told = f"{UPLOAD_EVIDENCE} {node.id} {bundle_id} {services.clock.monotonic()}"
        command, _ = await services.commands.submit(
            node_id=node.id,
            kind=UPLOAD_EVIDENCE,
            reason=f"bundle {bundle_id} was asked for",
            actor=actor,
            time_to_live_s=UPLOAD_TIME_TO_LIVE_S,
            target=None,
            parameters={"bundle": bundle_id},
            idempotency_key=None,
            fingerprint=hashlib.sha256(told.encode()).hexdigest(),
        )
        async with services.database.reading() as session:
            now = await command_store.find(session, command.id) or command
        headers = {"Location": f"/v1/commands/{command.id}"}
        return web.json_response(services.views.command(now), status=202, headers=headers)

    async def get_content(self, request: web.Request) -> web.StreamResponse:
        """Give a bundle that has arrived."""
        node = await self.find_node(request)
        record = await self._record(node.id, request.match_info["bundle"])
        path = None if record.file is None else self.services.evidence.directory / record.file
        if path is None or not path.is_file():
            raise Problem("not-here", "the bundle is on its node; ask for it first, by POST …/request")
        headers = {"Content-Type": "application/gzip", "X-Content-Type-Options": "nosniff"}
        return web.FileResponse(path, headers=headers)

    async def put_content(self, request: web.Request) -> web.Response:
        """Take a bundle from its node."""
        bundle_id = request.match_info["bundle"]
        node = await self.find_node(request)
        try:
            await self.services.evidence.take_bundle(
                node.id, bundle_id, _chunks(request), request.remote or "unknown"
            )
        except UploadRefused as refused:
            raise Problem(refused.code, str(refused)) from None
        return web.json_response({"stored": True}, status=201)

    async def _record(self, node_id: str, bundle_id: str) -> EvidenceRecord:
        async with self.services.database.reading() as session:
            record = await store.find(session, node_id, bundle_id)
        if record is None:
            raise Problem("no-such-bundle", f"no evidence is called {bundle_id[:128]!r} there")
        return record


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(64 << 10):
        yield chunk


def _shown(record: EvidenceRecord) -> dict[str, Any]:
    return {
        "bundle": record.bundle_id,
        "node_id": record.node_id,
        "node": record.node_name or record.node_id,
        "time": iso(record.wall_at),
        "incarnation": record.incarnation,
        "reason": record.reason,
        "stalled_at": record.stalled_at or None,
        "signature": record.signature or None,
        "stack": list(record.stack),
        "size_bytes": record.size_bytes,
        "wanted": None if record.wanted_wall_at is None else iso(record.wanted_wall_at),
        "is_here": record.file is not None,
    }


def _hang_shown(hang: Hang) -> dict[str, Any]:
    return {
        "signature": hang.signature,
        "stack": list(hang.stack),
        "stalled_at": hang.stalled_at or None,
        "reasons": list(hang.reasons),
        "nodes": hang.nodes,
        "bundles": hang.bundles,
        "first_seen": iso(hang.first_seen_wall_at),
        "last_seen": iso(hang.last_seen_wall_at),
        "node_names": list(hang.node_names),
    }
