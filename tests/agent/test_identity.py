"""Worker, link and nanny speak for the same node on the same machine."""

import pytest

from agent.identity import find_identity
from nanny.cli import node_id
from nanny.link.identity import machine_id
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import Role, to_wire


def test_ids_are_those_of_nanny_and_link() -> None:
    identity = find_identity("node-7", {}, None)

    assert identity.node_id == node_id("node-7")
    assert identity.machine_id == machine_id()


@pytest.mark.parametrize(("configured", "passed", "name"), [("a", "b", "b"), ("a", "", "a"), ("", "b", "b")])
def test_the_name_that_the_nanny_passed_wins(configured: str, passed: str, name: str) -> None:
    assert find_identity(configured, {"NANNY_NODE_NAME": passed}, None).node_name == name


@pytest.mark.parametrize(
    ("text", "incarnation"),
    [
        ("epoch/7", Incarnation("epoch", 7)),
        ("nonsense", None),
        ("", None),
        (None, None),
        ("e/" + "9" * 40, None),
    ],
)
def test_an_incarnation_that_cannot_be_read_is_none(
    text: str | None, incarnation: Incarnation | None
) -> None:
    assert find_identity("n", {}, text).incarnation == incarnation


def test_hello_fits_the_wire() -> None:
    hello = find_identity("", {}, "epoch/7").hello()

    assert hello.role is Role.WORKER
    assert to_wire(hello)["b"]["incarnation"] == "epoch/7"
