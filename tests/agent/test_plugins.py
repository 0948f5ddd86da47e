"""Services of others, found by their entry point in a real installed distribution, in a real worker."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.plugins import PluginContext, load_plugins
from agent.vitals.config import VitalsConfig
from agent.vitals.thread import start_vitals
from tests.support.agent_process import running_agent
from tests.support.processes import wait_until

_MODULE = """
import asyncio, pathlib, sys
from agent.services import Service

async def work(progress):
    while True:
        progress.touch()
        await asyncio.sleep(0.05)

async def fail(progress):
    raise RuntimeError("the plugin's own fault")

def good(context):
    return Service(name=f"good-{context.node_name}", run=work, deadline_s=5.0)

def several(context):
    return [Service(name="one", run=work, deadline_s=5.0), Service(name="two", run=fail, deadline_s=5.0)]

def broken(context):
    raise RuntimeError("for a test")

def no_service(context):
    return ["nothing"]

def taken(context):
    return Service(name="telemetry", run=work, deadline_s=5.0)
"""
_ENTRY_POINTS = "[nodenanny.services]\n" + "".join(
    f"{name} = strangers_plugin:{name}\n"
    for name in ("good", "several", "broken", "no_service", "taken", "gone")
)

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory of installed packages."""
    installed = tmp_path / "strangers_plugin-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers-plugin\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(_ENTRY_POINTS)
    (tmp_path / "strangers_plugin.py").write_text(_MODULE)
    return tmp_path


@pytest.fixture
def context(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginContext]:
    monkeypatch.syspath_prepend(str(site))
    vitals = start_vitals(VitalsConfig())
    yield PluginContext("id", "node-7", None, vitals.expect)
    vitals.stop()
    sys.modules.pop("strangers_plugin", None)


def test_only_the_named_are_loaded_and_a_failure_costs_only_itself(context: PluginContext) -> None:
    names = ("good", "broken", "several", "no_service", "taken", "gone", "nowhere", "good")
    loaded = load_plugins(names, ("telemetry",), context)

    assert [service.name for service in loaded.services] == ["good-node-7", "one", "two"]
    assert {name: reason.partition(":")[0] for name, reason in loaded.failed.items()} == {
        "broken": "RuntimeError",
        "no_service": "TypeError",
        "taken": "ValueError",
        "gone": "AttributeError",
        "nowhere": "LookupError",
    }
    assert load_plugins((), (), context).services == ()


@pytest.mark.slow
def test_a_plugins_service_runs_in_the_worker_and_its_failures_stay_its_own(site: Path) -> None:
    path = os.pathsep.join([str(site), *(each for each in sys.path if each)])
    with running_agent(environ={"PYTHONPATH": path}, plugins="good several", node_name="n") as agent:
        agent.answers("/readyz", 200)
        agent.logged("service failed", times=2)

        progress = agent.get("/healthz").json["progress"]
        assert {"good-n", "one", "two"} <= set(progress)
        wait_until(
            lambda: 'nodenanny_service_failures_total{service="two"} 2' in agent.get("/metrics").body,
            20.0,
            "the failures to be counted",
        )
        assert 'nodenanny_service_failures_total{service="one"} 0' in agent.get("/metrics").body
