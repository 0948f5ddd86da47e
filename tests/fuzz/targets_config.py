"""Settings under attack: files, variables and flags of all four programs give a configuration or a ConfigError.

Whatever an operator, a template or a disk full of zeros made of nanny.toml, the answer is a list of what is wrong,
never a traceback: the nanny's reload asks a child, which must be able to say so.
"""

from typing import Any

from tests.fuzz.target import Run, Scratch, Target

_PROGRAMS = ("NANNY", "AGENT", "LINK", "SERVER")


def _file(scratch: Scratch) -> Run:
    from nanny.common.settings import ConfigError, as_json, from_json
    from nanny.common.settings_loading import load

    programs = _programs()
    path = scratch.folder / "nanny.toml"

    def run(given: bytes) -> None:
        path.write_bytes(given)
        # One program an input: a file of another length is another's.
        prefix = _PROGRAMS[len(given) % 4]
        cls, check = programs[prefix]
        try:
            loaded = load(cls, prefix=prefix, environ={}, toml_path=str(path), check=check)
        except ConfigError as error:
            _shown(error)
            return
        assert from_json(cls, as_json(loaded.config)) == loaded.config

    return run


def _variables(_scratch: Scratch) -> Run:
    """`KEY=value` lines; the first byte chooses the program, and whether they are variables or flags."""
    from nanny.common.settings import ConfigError, as_json, from_json
    from nanny.common.settings_loading import load

    programs = _programs()

    def run(given: bytes) -> None:
        chosen, text = (given[0], given[1:]) if given else (0, b"")
        prefix = _PROGRAMS[chosen % 4]
        cls, check = programs[prefix]
        pairs = [line.partition("=")[::2] for line in text.decode("utf-8", "surrogateescape").split("\n")]
        environ = {f"{prefix}_{name}": value for name, value in pairs} if chosen & 4 else {}
        flags = {} if environ else dict(pairs)
        try:
            loaded = load(cls, prefix=prefix, environ=environ, flags=flags, check=check)
        except ConfigError as error:
            _shown(error)
            return
        assert from_json(cls, as_json(loaded.config)) == loaded.config

    return run


def _shown(refusal: Exception) -> None:
    """A refusal must be tellable, whatever was refused."""
    assert str(refusal)


def _programs() -> dict[str, tuple[Any, Any]]:
    """The class and the check of each program's settings."""
    import agent.config
    import nanny.config
    import nanny.link.config
    import server_stub.config

    return {
        "NANNY": (nanny.config.NannyConfig, nanny.config.check),
        "AGENT": (agent.config.AgentConfig, agent.config.check),
        "LINK": (nanny.link.config.LinkConfig, nanny.link.config.check),
        "SERVER": (server_stub.config.ServerConfig, server_stub.config.check),
    }


TARGETS = (
    Target("config-file", _file),
    Target("config-variables", _variables),
)
