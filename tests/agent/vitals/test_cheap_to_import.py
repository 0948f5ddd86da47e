"""The vitals start before the heavy imports: what they import themselves must be light."""

from tests.support.processes import spawn_python

HEAVY = (
    "asyncio ssl logging subprocess multiprocessing concurrent.futures aiohttp uvloop structlog psutil msgpack "
    "hashlib email http.client http.server urllib.request tempfile shutil ctypes socketserver pathlib random"
)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "import agent.vitals.thread, agent.vitals.config, agent.vitals.stall_stack\n"
        f"print(sorted((set(sys.modules) - before) & set('{HEAVY}'.split())))"
    )
    with spawn_python(code) as process:
        assert process.read_line() == "[]"
