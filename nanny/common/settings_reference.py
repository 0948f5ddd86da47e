"""Settings as shown to people: flags with their help, the table of origins, the reference in the docs.

All of it is made from the declarations, so that `--help`, `check-config --origins` and the documentation
cannot differ from what `load` does. Knows no file and no environment.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, Final

from nanny.common.settings import Setting, settings_of
from nanny.common.settings_loading import flag_of, variable_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import DataclassInstance

    from nanny.common.settings_loading import Loaded

_DESTINATION: Final = "setting:"
"""Keeps our names in the namespace apart from a program's own, such as `command`."""

_METAVARS: Final = {"int": "N", "float": "N", "str": "TEXT", "list": "WORDS", "table": "NAME=TEXT,..."}
_FORMS: Final = {"bool": "true, false", "int": "whole number", "float": "number", "str": "text"} | {
    "list": "list of texts",
    "table": "names with texts",
}


def add_flags(parser: argparse.ArgumentParser, cls: type[DataclassInstance]) -> None:
    """Give the parser one flag for each setting, grouped by section; a bool has a `--no-` form, too.

    Values stay text, and what was not given leaves no trace in the namespace: `load` reads and checks them.
    Create the parser with `allow_abbrev=False`: an abbreviation breaks when a later version adds a setting.
    """
    for section, settings in _by_section(cls).items():
        group = parser.add_argument_group(section)
        for each in settings:
            text = f"{each.help} (default: {_default_text(each)})".replace("%", "%%")
            given: dict[str, Any] = {"dest": _DESTINATION + each.key, "default": argparse.SUPPRESS}
            if each.kind == "bool":
                group.add_argument(flag_of(each.key), action="store_const", const="true", help=text, **given)
                opposite = flag_of(f"no_{each.key}")
                group.add_argument(
                    opposite, action="store_const", const="false", help="the opposite", **given
                )
            else:
                group.add_argument(flag_of(each.key), metavar=_metavar(each), help=text, **given)


def flags_from(namespace: argparse.Namespace, cls: type[DataclassInstance]) -> dict[str, str]:
    """Key to text, for the settings whose flag was given."""
    given = vars(namespace)
    keys = [each.key for each in settings_of(cls)]
    return {key: given[_DESTINATION + key] for key in keys if _DESTINATION + key in given}


def unknown_flags(words: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, str]:
    """Key to text of flags that no setting has, for `load` to refuse with the nearest known one.

    Args:
        words: what `parse_known_args` left over.
        parser: ends the program where a word isn't a flag at all.
    """
    flags = {}
    for position, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            following = words[position + 1 : position + 2]
            flags[name.replace("-", "_")] = value if equals or not following else following[0]
        elif position == 0 or not words[position - 1].startswith("--"):
            parser.error(f"unrecognized argument: {word}")
    return flags


def origins_table(loaded: Loaded[Any]) -> list[tuple[str, str, str]]:
    """One row for each setting: key, value as JSON with secrets hidden, where it was said."""
    cls: type[DataclassInstance] = type(loaded.config)
    rows = []
    for each in settings_of(cls):
        value = each.shown(getattr(loaded.config, each.key))
        rows.append((each.key, json.dumps(value, ensure_ascii=False), loaded.origins[each.key].where))
    return rows


def reference_markdown(cls: type[DataclassInstance], prefix: str, heading: str = "###") -> str:
    """The reference of a configuration class: one table for each section, in the order of the class."""
    parts = []
    for section, settings in _by_section(cls).items():
        rows = [
            "| key | default | allowed | variable | flag | reload | what it does |",
            "|---|---|---|---|---|---|---|",
        ]
        for each in settings:
            cells = (
                f"`{each.key}`",
                f"`{_default_text(each)}`",
                _allowed(each),
                f"`{variable_of(prefix, each.key)}`",
                f"`{flag_of(each.key)}`",
                "yes" if each.reloadable else "restart",
                each.help,
            )
            rows.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
        parts.append("\n".join([f"{heading} {section}", "", *rows, ""]))
    return "\n".join(parts)


def _by_section(cls: type[DataclassInstance]) -> dict[str, list[Setting]]:
    sections: dict[str, list[Setting]] = {}
    for each in settings_of(cls):
        sections.setdefault(each.section, []).append(each)
    return sections


def _default_text(each: Setting) -> str:
    """The default as an operator would write it."""
    match each.default:
        case None:
            return "none"
        case bool() | str() | tuple() | dict():
            return json.dumps(each.default, ensure_ascii=False)
        case int() if each.unit == "bytes":
            return _size_text(each.default)
        case number:
            return f"{number:.12g}"


def _size_text(size: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size and size % scale == 0:
            return f"{size // scale}{unit}"
    return str(size)


def _allowed(each: Setting) -> str:
    if each.choices:
        words = ", ".join(f"`{choice}`" for choice in each.choices)
        text = f"any of {words}" if each.kind == "list" else words
    else:
        text = (each.unit or _FORMS[each.kind]) + each.range_text.replace(" of at", ", at").replace(
            " from", ","
        )
    return f"{text}; `none`" if each.optional else text


def _metavar(each: Setting) -> str:
    if each.choices and each.kind == "str":
        return "|".join(each.choices)
    return {"s": "SECONDS", "ms": "MILLISECONDS", "bytes": "SIZE", "": _METAVARS.get(each.kind, "")}[
        each.unit
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
