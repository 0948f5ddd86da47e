"""Settings as given: the TOML file, then the environment, then flags; later wins.

Each value knows its origin. All that is wrong anywhere is reported at once, with key, value, what would be
right, and the place. Nothing that was said is passed over: an unknown key, table, variable or flag is an
error that names the nearest known one.

One file may serve all programs of a node. A program reads the keys at the top of the file and those in the
table of its own name (`[nanny]`, `[agent]`, `[link]`, `[server]`); what stands in its own table wins.

Knows no particular program. TOML: https://toml.io/en/v1.0.0
"""

from __future__ import annotations

import difflib
import json
import shlex
import tomllib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Generic

from nanny.common.settings import (
    DEFAULT_ORIGIN,
    ConfigError,
    ConfigT,
    Origin,
    Problem,
    Setting,
    settings_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PROGRAM_TABLES: Final = frozenset({"agent", "link", "nanny", "server"})
"""The tables of a configuration file that belong to one program each."""

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {
    "b": 1,
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
}
_TRUTH: Final = {"true": True, "yes": True, "on": True, "1": True} | dict.fromkeys(
    ("false", "no", "off", "0"), False
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[ConfigT]):
    """A configuration without a fault, and where each of its values was said.

    Attributes:
        config: The value of the class that was asked for.
        origins: Key to origin, one for each setting, in the order of the class.
        passed_over: Variables with our prefix that Kubernetes sets for a service of the same name.
    """

    config: ConfigT
    origins: dict[str, Origin]
    passed_over: tuple[str, ...]


def load(
    cls: type[ConfigT],
    *,
    prefix: str,
    environ: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
    toml_path: str | None = None,
    check: Callable[[ConfigT], Iterable[Problem]] | None = None,
    foreign_variables: frozenset[str] = frozenset(),
    shared_keys: frozenset[str] = frozenset(),
) -> Loaded[ConfigT]:
    """The configuration that file, environment and flags add up to.

    Args:
        cls: The configuration class.
        prefix: The program's prefix in the environment, without the underscore ("NANNY"); in lower case it is
            the name of the program's table in the file.
        environ: The environment variables.
        flags: Key to text, as `settings_reference.flags_from` gives it.
        toml_path: The file; None where there is none.
        check: Gives a Problem for each combination of values that cannot work. It is asked even when single
            values are wrong, with defaults in their place; what it says about those keys is then left out.
        foreign_variables: Names with our prefix that mean something else (NANNY_INCARNATION).
        shared_keys: Keys at the top of the file that other programs on the node read.

    Raises:
        ConfigError: Anything is wrong; it names all of it.
    """
    gathering = _Gathering(settings_of(cls), prefix)
    file_was_read = toml_path is None or gathering.read_file(toml_path, shared_keys)
    passed_over = gathering.read_environment(environ, foreign_variables)
    gathering.read_flags(flags or {})
    config = cls(**gathering.values)
    if check is not None and file_was_read:
        gathering.add_combinations(config, check(config))
    if gathering.problems:
        raise ConfigError(tuple(gathering.problems))
    origins = {key: gathering.origins.get(key, DEFAULT_ORIGIN) for key in gathering.known}
    return Loaded(config=config, origins=origins, passed_over=passed_over)


def variable_of(prefix: str, key: str) -> str:
    """The environment variable of a key: NANNY_HEARTBEAT_TIMEOUT_S."""
    return f"{prefix}_{key.upper()}"


def flag_of(key: str) -> str:
    """The flag of a key: --heartbeat-timeout-s."""
    return f"--{key.replace('_', '-')}"


@dataclass(slots=True)
class _Gathering:
    """What the sources have said so far, and what was wrong with it."""

    settings: tuple[Setting, ...]
    prefix: str
    known: dict[str, Setting] = field(init=False)
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.known = {each.key: each for each in self.settings}

    def read_file(self, path: str, shared_keys: frozenset[str]) -> bool:
        try:
            with open(path, "rb") as file:
                text = file.read().decode()
            document = tomllib.loads(text)
        except OSError as error:
            self._no_file(path, f"a readable file ({error.strerror}); create it or name another")
        except UnicodeDecodeError as error:
            self._no_file(path, f"UTF-8 text, but byte {error.start} is none; save the file as UTF-8")
        except tomllib.TOMLDecodeError as error:
            what, place = _syntax_error(error, text)
            self._no_file(
                f"{path}:{place}", f"valid TOML ({what}); correct that place, texts stand in quotes"
            )
        except (ValueError, RecursionError) as error:
            # Numbers of thousands of digits, hundreds of brackets: TOML all the same, but not for tomllib.
            self._no_file(path, f"TOML of a sane size ({error}); correct the number or the nesting")
        else:
            self._read_document(path, document, key_lines(text), shared_keys)
            return True
        return False

    def read_environment(self, environ: Mapping[str, str], foreign: frozenset[str]) -> tuple[str, ...]:
        keys = {variable_of(self.prefix, key): key for key in self.known}
        passed_over = []
        for name, text in sorted(environ.items()):
            if not name.startswith(f"{self.prefix}_") or name in foreign:
                continue
            link = _is_kubernetes_service_link(name, text)
            if name in keys and not (self.known[keys[name]].kind == "int" and _is_kubernetes_address(text)):
                self._take(keys[name], text, from_text, Origin("environment", name))
            elif link:
                passed_over.append(name)
            else:
                self._unknown(name, text, "variable", keys, Origin("environment", name))
        return tuple(passed_over)

    def read_flags(self, flags: Mapping[str, str]) -> None:
        for key, text in flags.items():
            origin = Origin("flag", flag_of(key))
            if key in self.known:
                self._take(key, text, from_text, origin)
            else:
                self._unknown(
                    flag_of(key), text, "flag", {flag_of(each): each for each in self.known}, origin
                )

    def add_combinations(self, config: object, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if self.wrong.isdisjoint({problem.key, *problem.also}):
                others = [f"{key} = {self._said(config, key)}" for key in problem.also]
                expected = f"{problem.expected} (here {', '.join(others)})" if others else problem.expected
                origin = problem.origin or self.origins.get(problem.key, DEFAULT_ORIGIN)
                value = self.known[problem.key].shown(getattr(config, problem.key))
                self.problems.append(replace(problem, value=value, expected=expected, origin=origin))

    def _said(self, config: object, key: str) -> str:
        where = self.origins.get(key, DEFAULT_ORIGIN).where
        return f"{self.known[key].shown(getattr(config, key))!r} by {where}"

    def _read_document(
        self,
        path: str,
        document: dict[str, Any],
        lines: dict[tuple[str, ...], int],
        shared_keys: frozenset[str],
    ) -> None:
        own_table = self.prefix.lower()
        own = document.get(own_table, {})
        entries: list[tuple[tuple[str, ...], Any]] = [
            ((key,), value) for key, value in document.items() if key != own_table
        ]
        if isinstance(own, dict):
            entries += [((own_table, key), value) for key, value in own.items()]
        else:
            entries.append(((own_table,), own))
        for where, value in entries:
            key = where[-1]
            line = lines.get(where) or lines.get(where[:1])
            origin = Origin("file", f"{path}:{line}" if line else path)
            is_table = len(where) == 1 and isinstance(value, dict)
            if is_table and key in PROGRAM_TABLES and not self._is_own_table(key):
                continue
            if key in self.known:
                self._take(key, value, from_toml, origin)
            elif is_table:
                self._unknown(
                    f"[{key}]", value, "table", {f"[{each}]": "" for each in PROGRAM_TABLES}, origin
                )
            elif len(where) > 1 or key not in shared_keys:
                self._unknown(key, value, "key", {each: each for each in self.known}, origin)

    def _is_own_table(self, key: str) -> bool:
        """A setting may have the name of another program's table: `[nanny]` has a key `link`."""
        return key in self.known and self.known[key].kind == "table"

    def _take(self, key: str, raw: Any, read: Callable[[Setting, Any], Any], origin: Origin) -> None:
        setting = self.known[key]
        try:
            value = read(setting, raw)
        except ValueError:
            right = False
        else:
            right = setting.accepts(value)
        if right:
            self.values[key] = value
            self.origins[key] = origin
            return
        self.wrong.add(key)
        near = _nearest(raw, setting.choices) if isinstance(raw, str) else None
        expected = f"{setting.expected}; did you mean {near}?" if near else setting.expected
        self.problems.append(Problem(key, setting.shown(raw), expected, origin))

    def _unknown(self, name: str, value: object, what: str, names: Mapping[str, str], origin: Origin) -> None:
        near = _nearest(name, names)
        advice = f"did you mean {near}?" if near else "`check-config --origins` lists all"
        # What was meant for a secret may be one.
        meant = self.known.get(names[near]) if near else None
        shown = meant.shown(value) if meant else value
        self.problems.append(Problem(name, shown, f"a known {what}; {advice}", origin))

    def _no_file(self, where: str, expected: str) -> None:
        self.problems.append(Problem("", None, expected, Origin("file", where)))


def from_toml(setting: Setting, value: Any) -> Any:
    """A TOML value as the setting's type; a text stands for a number only where the setting has a unit.

    Raises:
        ValueError: It is a text that cannot be read as such. Other wrong types come back unchanged.
    """
    if setting.optional and value == "none":
        return None
    if isinstance(value, str) and setting.unit:
        return _quantity(setting, value)
    if setting.kind == "list" and isinstance(value, list):
        return tuple(value)
    return value


def from_text(setting: Setting, text: str) -> Any:
    """A text from the environment or the command line as the setting's type.

    Lists are JSON or shell words, tables JSON or `a=b,c=d`; "none" unsets what may be unset.

    Raises:
        ValueError: The text cannot be read so.
    """
    bare = text.strip()
    if setting.optional and bare in {"", "none"}:
        return None
    match setting.kind:
        case "bool" if bare.lower() in _TRUTH:
            return _TRUTH[bare.lower()]
        case "int" | "float":
            return _quantity(setting, bare)
        case "list" if bare.startswith("["):
            return tuple(_json(bare))
        case "list":
            return tuple(shlex.split(bare))
        case "table" if bare.startswith("{"):
            return _json(bare)
        case "table":
            pairs = [each.partition("=") for each in bare.split(",") if each.strip()]
            if not all(equals for _, equals, _ in pairs):
                raise ValueError(text)
            return {key.strip(): value.strip() for key, _, value in pairs}
        case _:
            return text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(text) from None


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Dotted path to line number, for the tables and keys of a TOML text, which `tomllib` doesn't tell.

    A scan, no parser: it serves messages, and its worst is a path without a line.
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    closing = ""
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if closing:
            closing = "" if bare.count(closing) % 2 else closing
            continue
        if bare.startswith("#"):
            continue
        if bare.startswith("["):
            table = _dotted(bare.partition("]")[0].strip("[ "))
            lines.setdefault(table, number)
            continue
        name, equals, value = bare.partition("=")
        if equals:
            path = table + _dotted(name)
            for length in range(len(table) + 1, len(path) + 1):
                lines.setdefault(path[:length], number)
        closing = next((quote for quote in ('"""', "'''") if value.count(quote) % 2), "")
    return lines


def _dotted(name: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in name.split("."))


def _quantity(setting: Setting, text: str) -> float:
    """The number in a text such as "2m" or "200MiB", in the setting's own unit; an int where it is one."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(number) :]
    if not unit:
        try:
            return int(number)
        except ValueError:
            scale = 1.0
    elif setting.unit == "bytes" and unit.lower() in _BYTES:
        scale = _BYTES[unit.lower()]
    elif setting.unit in {"s", "ms"} and unit in _SECONDS:
        scale = _SECONDS[unit] / _SECONDS[setting.unit]
    else:
        raise ValueError(text)
    value = float(number) * scale
    return int(value) if setting.kind == "int" and value.is_integer() else value


def _syntax_error(error: tomllib.TOMLDecodeError, text: str) -> tuple[str, str]:
    """What the parser says, and `line:column` of it; the message is all that older Pythons give."""
    what, _, place = str(error).rstrip(")").rpartition(" (at ")
    words = place.replace(",", " ").split()
    if len(words) == 4 and words[0] == "line":
        return what, f"{words[1]}:{words[3]}"
    lines = text.split("\n")
    return what, f"{len(lines)}:{len(lines[-1]) + 1}"


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def _is_kubernetes_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes set this variable for a service that happens to be called like our program.

    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    linked = _is_kubernetes_address(text) and "_PORT" in name
    part_of_link = any(f"_{protocol}_" in name and "_PORT_" in name for protocol in ("TCP", "UDP", "SCTP"))
    return linked or part_of_link or name.endswith("_SERVICE_HOST") or "_SERVICE_PORT" in name


def _is_kubernetes_address(text: str) -> bool:
    return text.startswith(("tcp://", "udp://", "sctp://"))
