"""The part of docs/nannyctl.md that follows from the code: verbs, options, exit codes, as Markdown.

``python -m nanny.ctl.reference docs/nannyctl.md`` writes it anew between its marks; a test fails when it is stale.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from nanny.ctl.arguments import COMMON, VERBS
from nanny.ctl.exit_codes import MEANINGS

if TYPE_CHECKING:
    from nanny.ctl.arguments import Option, Verb

BEGIN: Final = "<!-- generated from nanny/ctl/arguments.py and exit_codes.py: begin -->"
END: Final = "<!-- generated: end -->"


def reference() -> str:
    """The generated part, without its marks."""
    lines = ["| verb | what it does | its own options |", "|---|---|---|"]
    shared = _shared()
    for verb in VERBS:
        own = [_name(one) for one in _own(verb, shared)]
        if verb.is_order:
            own.append("those of orders")
        lines.append(f"| `{verb.name}` | {_cell(verb.help)} | {'<br>'.join(own)} |")
    for title, options in (
        ("Options of every verb, before or after it", COMMON),
        ("Options of orders", tuple(shared.values())),
    ):
        lines += ["", f"**{title}**", "", "| option | what it does |", "|---|---|"]
        lines += [f"| {_name(one)} | {_cell(one.help)} |" for one in options]
    for verb in VERBS:
        own_options = _own(verb, shared)
        if own_options:
            lines += ["", f"**`nannyctl {verb.name}`**", "", "| option | what it does |", "|---|---|"]
            lines += [f"| {_name(one)} | {_cell(one.help)} |" for one in own_options]
    lines += ["", "**Exit codes**", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code} | {_cell(meaning)} |" for code, meaning in MEANINGS.items()]
    return "\n".join(lines)


def renewed(text: str) -> str:
    """A document with its generated part as it should be.

    Raises:
        ValueError: the marks are missing.
    """
    head, found, rest = text.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"no {BEGIN!r} … {END!r}")
    return f"{head}{BEGIN}\n\n{reference()}\n\n{END}{tail}"


def _shared() -> dict[tuple[str, ...], Option]:
    """The options that all orders have."""
    orders = [{one.names: one for one in verb.options} for verb in VERBS if verb.is_order]
    return {names: one for names, one in orders[0].items() if all(names in order for order in orders)}


def _own(verb: Verb, shared: dict[tuple[str, ...], Option]) -> list[Option]:
    return [one for one in verb.options if not verb.is_order or one.names not in shared]


def _name(option: Option) -> str:
    metavar = option.settings.get("metavar")
    names = ", ".join(option.names)
    if not option.names[0].startswith("-"):
        names = str(metavar or "|".join(option.settings.get("choices", option.names)))
        metavar = None
    return f"`{_cell(names + (f' {metavar}' if metavar else ''))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Renew the document named on the command line."""
    path = sys.argv[1]
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(renewed(text))


if __name__ == "__main__":
    main()
