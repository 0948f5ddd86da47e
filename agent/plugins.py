"""Services of others: entry points of the group ``nodenanny.services``, started only when named in the settings.

An entry point is a function ``(PluginContext) -> Service | Iterable[Service]``. A plugin that cannot be loaded is
logged and counted, and the agent goes on without it. Loading runs other people's imports: it is announced to the
vitals by the caller, before the event loop turns. See the entry points specification of packaging.python.org.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

import structlog

from agent.services import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.vitals.progress import Expectation
    from nanny.protocol.incarnation import Incarnation

GROUP: Final = "nodenanny.services"


@dataclass(frozen=True, slots=True)
class PluginContext:
    """What a plugin gets of the agent."""

    node_id: str
    node_name: str
    incarnation: Incarnation | None
    expect: Callable[[float, str], Expectation]
    """Announces long work: ``with context.expect(120, "loading the model"):``."""


@dataclass(frozen=True, slots=True)
class LoadedPlugins:
    """The services that were found, and the plugins that failed, by name with the reason."""

    services: tuple[Service, ...]
    failed: dict[str, str]


def load_plugins(names: Iterable[str], taken: Iterable[str], context: PluginContext) -> LoadedPlugins:
    """Load the named plugins.

    Args:
        names: of entry points.
        taken: names of services that exist already.
        context: given to each plugin.
    """
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return LoadedPlugins((), {})
    log = structlog.get_logger()
    found = {point.name: point for point in entry_points(group=GROUP)}
    services: list[Service] = []
    used, failed = set(taken), {}
    for name in wanted:
        try:
            if name not in found:
                raise LookupError(f"no entry point {name!r} in the group {GROUP!r}")
            made = found[name].load()(context)
            for service in [made] if isinstance(made, Service) else list(made):
                if not isinstance(service, Service):
                    raise TypeError(f"expected a Service, got {type(service).__name__}")
                if service.name in used:
                    raise ValueError(f"there is a service {service.name!r} already")
                used.add(service.name)
                services.append(service)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"[:512]
            log.exception("plugin cannot be used", plugin=name)
    return LoadedPlugins(tuple(services), failed)
