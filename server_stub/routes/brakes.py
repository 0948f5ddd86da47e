"""Routes for the brakes: how they are, and taking one off for a while.

When a brake is on, and what lifting one does, is `Brakes`' to know.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from aiohttp import web

from server_stub.authorisation import Permission
from server_stub.brakes import LONGEST_LIFT_S
from server_stub.command_request import MAX_ACTOR, MAX_REASON, text_of
from server_stub.core.brakes import BrakeName
from server_stub.problems import Problem
from server_stub.routing import Route, Routes, json_body

DEFAULT_LIFT_S: Final = 3600.0
_FIELDS: Final = frozenset({"reason", "actor", "for_s"})


class BrakeRoutes(Routes):
    """What one can see of the brakes and do about them."""

    ROUTES: ClassVar = (
        Route(
            "GET",
            "/v1/brakes",
            Permission.OBSERVE,
            "both brakes: whether they are on, since when and why, who lifted them until when",
            "get_brakes",
            response="BrakeList",
            query=(),
        ),
        Route(
            "POST",
            "/v1/brakes/{brake}/lift",
            Permission.COMMAND,
            "takes the brake `demotions` or `commands` off for `for_s`, with `reason` and `actor`; both brakes",
            "post_lift",
            body="BrakeLift",
            response="BrakeList",
            query=(),
        ),
    )

    async def get_brakes(self, _request: web.Request) -> web.Response:
        """Show both brakes."""
        return web.json_response({"brakes": self.services.brakes.view()})

    async def post_lift(self, request: web.Request) -> web.Response:
        """Lift a brake, durably, and show both."""
        name = request.match_info["brake"]
        if name not in list(BrakeName):
            raise Problem(
                "no-such-brake", f"there is no brake {name[:64]!r}; there are {', '.join(BrakeName)}"
            )
        body = await json_body(request)
        if not isinstance(body, dict):
            raise Problem("malformed", "expected a JSON object")
        unknown = sorted(body.keys() - _FIELDS)
        if unknown:
            field = str(unknown[0])[:64]
            raise _invalid(field, f"no such field; there are {', '.join(sorted(_FIELDS))}")
        await self.services.brakes.lift(
            BrakeName(name),
            reason=text_of(body, "reason", MAX_REASON, None),
            actor=text_of(body, "actor", MAX_ACTOR, f"api@{request.remote or 'unknown'}"),
            for_s=_for_s(body.get("for_s", DEFAULT_LIFT_S)),
        )
        return web.json_response({"brakes": self.services.brakes.view()})


def _invalid(field: str, expected: str) -> Problem:
    return Problem("invalid", f"{field}: {expected}", field=field)


def _for_s(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_LIFT_S:
        raise _invalid("for_s", f"expected seconds, more than 0, at most {LONGEST_LIFT_S:g}")
    return float(value)
