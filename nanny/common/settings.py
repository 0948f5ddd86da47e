"""Settings as declared: a frozen dataclass whose fields say what each key means and may hold.

The light half. It gives `setting()` for the declaration, the checks that a value must pass, the errors that
name key, value, remedy and place, and the JSON form in which a checked configuration is handed to another
process.

It knows neither files, environment nor command lines (`settings_loading`), nor how settings are shown to
people (`settings_reference`). The nanny's own process imports this file alone, so it stays free of tomllib,
argparse, shlex and difflib.
"""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import DataclassInstance

T = TypeVar("T")
ConfigT = TypeVar("ConfigT", bound="DataclassInstance")

Kind = Literal["bool", "int", "float", "str", "list", "table"]
OriginKind = Literal["default", "file", "environment", "flag"]

_METADATA_KEY = "nanny.common.settings"
_KINDS: dict[object, Kind] = {bool: "bool", int: "int", float: "float", str: "str"}
_LONGEST_VALUE_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was said: `where` is `/etc/x.toml:12`, `NANNY_STATE_DIR`, `--state-dir` or `default`."""

    kind: OriginKind
    where: str


DEFAULT_ORIGIN = Origin("default", "default")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration, in the words of the operator who must mend it.

    A combination check gives `key`, `expected` and, in `also`, every other key that its rule reads; `load`
    adds values and origins.
    """

    key: str
    value: object
    expected: str
    origin: Origin | None = None
    also: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.origin.where}: " if self.origin else ""
        subject = f"{self.key} = {_shown(self.value)}: " if self.key else ""
        return f"{where}{subject}expected {self.expected}"


class ConfigError(Exception):
    """A configuration that cannot be used, with all that is wrong with it at once."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        what = "line" if len(self.problems) == 1 else f"{len(self.problems)} lines"
        remedy = f"Correct the {what} above; `check-config --origins` shows where each value comes from."
        return "\n".join([*map(str, self.problems), remedy])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declared:
    """What the author of a setting said about it."""

    help: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    reloadable: bool
    secret: bool
    section: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting(_Declared):
    """One key of a configuration class, with all that was declared about it."""

    key: str
    kind: Kind
    optional: bool
    default: Any

    @property
    def unit(self) -> Literal["s", "ms", "bytes", ""]:
        """The unit that the key's suffix promises, empty for plain numbers and for all that is no number."""
        if self.kind in {"int", "float"}:
            for unit in ("bytes", "ms", "s"):
                if self.key.endswith(f"_{unit}"):
                    return unit
        return ""

    def accepts(self, value: object) -> bool:
        """Whether a value, already of its final type, is one that this setting may hold."""
        match self.kind:
            case _ if value is None:
                return self.optional
            case "bool":
                return isinstance(value, bool)
            case "int":
                return type(value) is int and self._in_range(value)
            case "float":
                return (type(value) is int or type(value) is float) and self._in_range(value)
            case "str":
                return isinstance(value, str) and self._is_choice(value)
            case "list":
                return isinstance(value, tuple) and all(
                    isinstance(each, str) and self._is_choice(each) for each in value
                )
            case "table":
                return isinstance(value, dict) and all(
                    isinstance(k, str) and isinstance(v, str) for k, v in value.items()
                )

    @property
    def expected(self) -> str:
        """What would be right, to follow the word "expected"."""
        one_of = f"one of {', '.join(self.choices)}"
        match self.kind:
            case "bool":
                text = "true or false"
            case "int" | "float" if self.unit == "bytes":
                text = f'a size in bytes{self.range_text}, such as 1048576 or "200MiB"'
            case "int" | "float" if self.unit:
                seconds = "seconds" if self.unit == "s" else "milliseconds"
                text = f'a duration in {seconds}{self.range_text}, such as 30, "2m" or "500ms"'
            case "int":
                text = f"a whole number{self.range_text}"
            case "float":
                text = f"a number{self.range_text}"
            case "str":
                text = one_of if self.choices else "text"
            case "list":
                text = f"a list, each {one_of}" if self.choices else 'a list of texts, such as ["a", "b"]'
            case "table":
                text = 'names with texts, such as { a = "b" }'
        return f'{text}, or "none"' if self.optional else text

    @property
    def range_text(self) -> str:
        """The bounds as words with a leading space, empty where there are none."""
        match self.minimum, self.maximum:
            case None, None:
                return ""
            case low, None:
                return f" of at least {low:.12g}"
            case None, high:
                return f" of at most {high:.12g}"
            case low, high:
                return f" from {low:.12g} to {high:.12g}"

    def shown(self, value: object) -> object:
        """The value as it may appear in messages and tables: a secret does not."""
        return "(hidden)" if self.secret and value is not None else value

    def _in_range(self, value: float) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        too_low = self.minimum is not None and value < self.minimum
        too_high = self.maximum is not None and value > self.maximum
        return not too_low and not too_high

    def _is_choice(self, value: str) -> bool:
        return not self.choices or value in self.choices


def setting(
    default: T,
    *,
    help: str,  # noqa: A002 (the word that argparse and the reference use for it)
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    reloadable: bool = False,
    secret: bool = False,
    section: str = "general",
) -> T:
    """Declare one field of a configuration dataclass.

    The annotation is bool, int, float, str, `tuple[str, ...]` or `dict[str, str]`, or one of these `| None`.
    A name in `_s`, `_ms` or `_bytes` takes texts with units, too ("2m", "200MiB").

    Args:
        default: The value where nobody says anything.
        help: What the setting does, in one sentence, for `--help` and the reference.
        minimum: The least number allowed, in the unit of the name.
        maximum: The greatest number allowed, likewise.
        choices: The only texts allowed (of a list: for each element).
        reloadable: Whether a running program takes a new value on SIGHUP.
        secret: Whether the value is kept out of messages and tables.
        section: The heading under which the reference lists it.
    """
    declared = _Declared(
        help=help,
        minimum=minimum,
        maximum=maximum,
        choices=choices,
        reloadable=reloadable,
        secret=secret,
        section=section,
    )
    metadata = {_METADATA_KEY: declared}
    if isinstance(default, dict):
        copy_of_default: Callable[[], Any] = default.copy
        of_the_same_type: T = field(default_factory=copy_of_default, metadata=metadata)
        return of_the_same_type
    return field(default=default, metadata=metadata)


def settings_of(cls: type[DataclassInstance]) -> tuple[Setting, ...]:
    """The settings that a configuration class declares, in its order.

    Raises:
        TypeError: A field of it is no setting, has a type that no source can give, or a default that breaks
            its own rule: mistakes of the class's author.
    """
    hints = get_type_hints(cls)
    found = []
    for each in fields(cls):
        declared = each.metadata.get(_METADATA_KEY)
        if not isinstance(declared, _Declared):
            raise TypeError(f"{cls.__name__}.{each.name} is not declared with setting()")
        kind, optional = _kind_of(hints[each.name], f"{cls.__name__}.{each.name}")
        default = each.default if each.default_factory is MISSING else each.default_factory()
        found.append(
            Setting(
                key=each.name,
                kind=kind,
                optional=optional,
                default=default,
                help=declared.help,
                minimum=declared.minimum,
                maximum=declared.maximum,
                choices=declared.choices,
                reloadable=declared.reloadable,
                secret=declared.secret,
                section=declared.section,
            )
        )
        if not found[-1].accepts(default):
            raise TypeError(f"{cls.__name__}.{each.name}: default {default!r}, expected {found[-1].expected}")
    return tuple(found)


def as_json(config: DataclassInstance) -> dict[str, Any]:
    """The configuration as a mapping of JSON values, secrets included, for `from_json` in another process."""
    values = {each.name: getattr(config, each.name) for each in fields(config)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def from_json(cls: type[ConfigT], mapping: Mapping[str, Any]) -> ConfigT:
    """The configuration that `as_json` described.

    Keys that are missing take their default and keys that are unknown are passed over: the two processes may
    be of neighbouring versions, in the middle of an upgrade, and an operator's slips were caught by `load`.

    Raises:
        ConfigError: A value has the wrong type or lies out of its range; all such values are named.
    """
    values: dict[str, Any] = {}
    problems = []
    for each in settings_of(cls):
        if each.key not in mapping:
            continue
        value = mapping[each.key]
        values[each.key] = tuple(value) if each.kind == "list" and isinstance(value, list) else value
        if not each.accepts(values[each.key]):
            problems.append(Problem(each.key, each.shown(value), each.expected))
    if problems:
        raise ConfigError(tuple(problems))
    return cls(**values)


def diff_for_reload(cls: type[ConfigT], old: ConfigT, new: ConfigT) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a reload changes: (values to apply now, values that wait for a restart), each as key to new value.

    `dataclasses.replace(old, **applicable)` is the configuration to go on with.
    """
    applicable: dict[str, Any] = {}
    needs_restart: dict[str, Any] = {}
    for each in settings_of(cls):
        value = getattr(new, each.key)
        if value != getattr(old, each.key):
            (applicable if each.reloadable else needs_restart)[each.key] = value
    return applicable, needs_restart


def _kind_of(hint: object, name: str) -> tuple[Kind, bool]:
    """The kind of an annotation, and whether None is allowed beside it."""
    if get_origin(hint) in {Union, types.UnionType}:
        others = [each for each in get_args(hint) if each is not type(None)]
        if len(others) == 1:
            return _kind_of(others[0], name)[0], True
    if hint in _KINDS:
        return _KINDS[hint], False
    if get_origin(hint) is tuple and get_args(hint) == (str, ...):
        return "list", False
    if get_origin(hint) is dict and get_args(hint) == (str, str):
        return "table", False
    raise TypeError(f"{name}: a setting cannot be of type {hint}")


def _shown(value: object) -> str:
    """The value on one line of bounded length."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} nested too deep"
    return text if len(text) <= _LONGEST_VALUE_SHOWN else f"{text[:_LONGEST_VALUE_SHOWN]}…"
