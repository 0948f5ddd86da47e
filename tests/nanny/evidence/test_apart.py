"""A step in a process of its own: its words are kept whatever becomes of it; and the line that tells the nanny."""

import os
import select
import signal
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanny import fork_gate
from nanny.evidence.answer import LINE_LIMIT_BYTES, Answer, parse, render
from nanny.evidence.apart import OUTPUT_LIMIT_BYTES, Apart, Stuck

Tell = Callable[[bytes], None]

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


def soon() -> float:
    return time.monotonic() + 20.0


def test_what_a_step_tells_is_taken_to_its_end() -> None:
    result = Apart(lambda tell: tell(b"one\0two" * 50_000)).join(soon())
    assert (len(result.content), result.problem, result.stuck) == (350_000, "", None)


def test_what_a_step_raises_is_its_problem_and_its_words_are_kept() -> None:
    def work(tell: Tell) -> None:
        tell(b"so far")
        raise OSError(28, "No space left")

    result = Apart(work).join(soon())
    assert (result.content, result.problem) == (b"so far", "[Errno 28] No space left")


def test_a_step_that_hangs_is_ended_and_its_words_are_kept() -> None:
    def work(tell: Tell) -> None:
        tell(b"so far")
        time.sleep(600)

    apart = Apart(work)
    result = apart.join(time.monotonic() + 0.3)
    assert (result.content, result.problem, result.stuck) == (b"so far", "not done in time", None)


def test_a_step_that_dies_is_told_from_one_that_ends() -> None:
    def work(tell: Tell) -> None:
        tell(b"so far")
        os.kill(os.getpid(), signal.SIGKILL)

    result = Apart(work).join(soon())
    assert (result.content, result.problem) == (b"so far", "the step died or told too much")


def test_a_step_that_tells_too_much_is_cut_and_ended() -> None:
    def work(tell: Tell) -> None:
        while True:
            tell(b"more" * 1000)

    result = Apart(work).join(soon())
    assert (len(result.content), result.problem) == (OUTPUT_LIMIT_BYTES, "the step died or told too much")


def test_steps_run_side_by_side_and_are_joined_late() -> None:
    first, second = (Apart(lambda tell: tell(b"done")) for _ in range(2))
    assert (second.join(soon()).content, first.join(soon()).content) == (b"done", b"done")


def test_a_step_ends_with_its_collector() -> None:
    read_fd, write_fd = os.pipe()

    def collector() -> None:
        def step(tell: Tell) -> None:
            os.write(write_fd, b"%d\n" % os.getpid())
            time.sleep(600)

        Apart(step, (write_fd,)).join(soon())

    helper = fork_gate.fork_helper(collector, (write_fd,))
    os.close(write_fd)
    step_pid = int(os.read(read_fd, 64))
    signal.pidfd_send_signal(helper.pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, helper.pidfd, os.WEXITED)
    # End of file: the step was the last to hold the other end.
    assert select.select([read_fd], [], [], 10.0)[0], f"the step {step_pid} lives on"
    assert os.read(read_fd, 64) == b""
    os.close(helper.pidfd)
    os.close(read_fd)


TEXT = st.text(max_size=1000) | st.text(st.characters(), min_size=1, max_size=3).map(lambda text: text * 1000)
NUMBERS = st.integers(0, 2**53)


@given(
    st.builds(
        Answer,
        st.just("bundle"),
        TEXT,
        NUMBERS,
        TEXT,
        TEXT,
        st.lists(st.builds(Stuck, NUMBERS, NUMBERS, st.booleans())).map(tuple),
    )
)
def test_an_answer_is_one_bounded_line_and_is_read_back(answer: Answer) -> None:
    line = render(answer)
    assert len(line) <= LINE_LIMIT_BYTES
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    read = parse(line)
    assert read is not None
    assert (read.bundle, read.size_bytes, read.stuck) == (answer.bundle, answer.size_bytes, answer.stuck[:4])
    assert read.message[:10] == "".join(c if c.isprintable() else "?" for c in answer.message[:10])


@given(st.binary(max_size=200) | st.sampled_from([b"[]", b"{}", b'{"bundle":1}', b"null", b"[" * 5000]))
def test_a_strange_line_is_no_answer(line: bytes) -> None:
    assert parse(line) is None


@pytest.mark.parametrize("stuck", ["[[1]]", "[1]", '[["1", 2]]', "[[true, 2, true]]", "[[1, 2, 3]]", "7"])
def test_an_answer_of_another_shape_is_none(stuck: str) -> None:
    line = f'{{"bundle":"","message":"","size_bytes":0,"stalled_at":"","signature":"","stuck":{stuck}}}'
    assert parse(line.encode()) is None
