"""Open commands: what comes up when, and that nothing stays of what is over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server_stub.core.open_commands import OpenCommands

NODES = st.sampled_from(["n1", "n2", "n3"])
COMMANDS = st.sampled_from(["a", "b", "c", "d"])
INSTANTS = st.integers(0, 20).map(float)


def test_an_unsent_command_comes_up_when_its_time_is_over_and_a_sent_one_does_not() -> None:
    commands = OpenCommands()
    commands.keep("n1", "a", 10.0, is_unsent=True)
    commands.keep("n2", "b", 10.0, is_unsent=True)
    commands.marked_sent("b")

    assert commands.next_at() == 10.0
    assert commands.come_up(9.9) == set()
    assert commands.come_up(10.0) == {"n1"}
    assert commands.next_at() is None
    assert commands.unsent_of("n1") == ["a"]


def test_the_earliest_look_counts_and_comes_up_once() -> None:
    commands = OpenCommands()
    commands.keep("n1", "a", 100.0, is_unsent=False)
    for at in (5.0, 3.0, 8.0):
        commands.look_again("n1", at)

    assert [commands.come_up(at) for at in (2.0, 3.0, 5.0, 8.0)] == [set(), {"n1"}, set(), set()]
    commands.look_again("n1", 9.0)
    assert commands.come_up(9.0) == {"n1"}


def test_a_command_is_under_way_on_the_session_that_carries_it_and_for_a_while() -> None:
    commands = OpenCommands()
    commands.keep("n1", "a", 100.0, is_unsent=False)
    commands.carried_by("a", "s1", 10.0)

    assert commands.is_under_way("a", "s1", 24.9, 15.0)
    assert not commands.is_under_way("a", "s1", 25.0, 15.0)
    assert not commands.is_under_way("a", "s2", 11.0, 15.0)
    commands.drop("n1", "a")
    assert not commands.is_under_way("a", "s1", 11.0, 15.0)


STEPS = st.one_of(
    st.tuples(st.just("keep"), NODES, COMMANDS, INSTANTS),
    st.tuples(st.just("sent"), NODES, COMMANDS, INSTANTS),
    st.tuples(st.just("drop"), NODES, COMMANDS, INSTANTS),
    st.tuples(st.just("look"), NODES, COMMANDS, INSTANTS),
    st.tuples(st.just("up"), NODES, COMMANDS, INSTANTS),
)


@given(st.lists(STEPS, max_size=40))
def test_it_agrees_with_a_plain_list_and_comes_up_empty_at_the_end(
    steps: list[tuple[str, str, str, float]],
) -> None:
    commands = OpenCommands()
    plain: dict[tuple[str, str], bool] = {}
    for step, node, name, at in steps:
        command = f"{node}-{name}"  # an id belongs to one node
        match step:
            case "keep":
                commands.keep(node, command, at, is_unsent=True)
                plain[node, command] = True
            case "sent" if (node, command) in plain:
                commands.marked_sent(command)
                plain[node, command] = False
            case "drop":
                commands.drop(node, command)
                plain.pop((node, command), None)
            case "look":
                commands.look_again(node, at)
            case "up":
                assert commands.come_up(at) <= {open_node for open_node, _ in plain}
        for one in ("n1", "n2", "n3"):
            mine = [open_command for open_node, open_command in plain if open_node == one]
            assert sorted(commands.of(one)) == sorted(mine)
            assert commands.count(one) == len(mine)
            assert (one in commands) is bool(mine)
            unsent = [known for known in mine if plain[one, known]]
            assert sorted(commands.unsent_of(one)) == sorted(unsent)
    commands.come_up(100.0)
    assert commands.next_at() is None
