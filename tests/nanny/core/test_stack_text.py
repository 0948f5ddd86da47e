"""Faulthandler's text, real and hostile, read into threads; and what names a hang."""

import faulthandler
import os
import tempfile
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanny.core.stack_text import (
    NAME_LIMIT,
    SIGNATURE_FRAMES,
    Dump,
    Frame,
    ThreadStack,
    culprit,
    parse,
    signature,
    stalled_at,
)

TWO_THREADS = """\
Current thread 0x00007f0000000001 (most recent call first):
  File "/srv/app/pool.py", line 88 in acquire
  File "/srv/app/main.py", line 12 in <module>

Thread 0x00007f0000000002 [MainThread] (most recent call first):
  File "/usr/lib/python3.11/selectors.py", line 468 in select
  File "/usr/lib/python3.11/asyncio/base_events.py", line 1884 in _run_once
"""
CRASH = """\
Fatal Python error: Segmentation fault

Thread 0x00007f0000000003 (most recent call first):
  <no Python frame>

Current thread 0x00007f0000000001 (most recent call first):
  File "/srv/app/pool.py", line 90 in crash

Thread 0x00007f0000000002 (most recent call first):
  File "/srv/app/main.py", line 12 in <module>

Current thread's C stack trace (most recent call first):
  Binary file "/lib/libc.so.6", at +0x1 [0x2]

Extension modules: numpy.core (total: 1)
"""


def frames(*calls: tuple[str, int, str]) -> tuple[Frame, ...]:
    return tuple(Frame(*call) for call in calls)


def test_threads_and_frames_are_read_in_order() -> None:
    (dump,) = parse(TWO_THREADS)
    assert dump == Dump(
        (
            ThreadStack(
                "0x00007f0000000001",
                "",
                True,
                frames(("/srv/app/pool.py", 88, "acquire"), ("/srv/app/main.py", 12, "<module>")),
            ),
            ThreadStack(
                "0x00007f0000000002",
                "MainThread",
                False,
                frames(
                    ("/usr/lib/python3.11/selectors.py", 468, "select"),
                    ("/usr/lib/python3.11/asyncio/base_events.py", 1884, "_run_once"),
                ),
            ),
        )
    )


def test_a_thread_that_comes_again_begins_the_next_dump() -> None:
    assert parse(TWO_THREADS * 3) == parse(TWO_THREADS) * 3


def test_a_fatal_error_begins_a_dump_of_its_own() -> None:
    first, second = parse(TWO_THREADS + CRASH)
    assert (first, second.fatal) == (parse(TWO_THREADS)[0], "Segmentation fault")


def test_a_hang_is_the_main_threads_which_is_printed_last() -> None:
    thread = culprit(parse(TWO_THREADS)[0])
    assert thread is not None
    assert stalled_at(thread) == "selectors:select:468"
    assert signature(thread) == "selectors:select < asyncio.base_events:_run_once"


def test_a_crash_is_the_current_threads() -> None:
    thread = culprit(parse(CRASH)[0])
    assert thread is not None
    assert stalled_at(thread) == "app.pool:crash:90"
    assert len(thread.frames) == 1


def test_where_threads_are_left_out_only_the_current_one_is_known() -> None:
    dump = parse(TWO_THREADS + "...\n")[0]
    assert dump.truncated
    thread = culprit(dump)
    assert thread is not None
    assert stalled_at(thread) == "app.pool:acquire:88"


def test_without_frames_there_is_no_place_and_no_signature() -> None:
    thread = parse("Thread 0x1 (most recent call first):\n  <no Python frame>\n")[0].threads[0]
    assert (stalled_at(thread), signature(thread)) == ("", "")


def test_recursion_counts_once_and_long_stacks_are_bounded() -> None:
    recursive = "Thread 0x1 (most recent call first):\n" + "".join(
        f'  File "/srv/app/m.py", line {n} in recurse\n' for n in range(90)
    )
    assert signature(parse(recursive)[0].threads[0]) == "app.m:recurse"
    varied = "Thread 0x1 (most recent call first):\n" + "".join(
        f'  File "/srv/app/m.py", line 1 in f{n}\n' for n in range(90)
    )
    assert signature(parse(varied)[0].threads[0]).count(" < ") == SIGNATURE_FRAMES - 1


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("/opt/venv/lib/python3.12/site-packages/aiohttp/web.py", "aiohttp.web"),
        ("/opt/venv/lib/python3.12/site-packages/aiohttp/__init__.py", "aiohttp"),
        ("/usr/lib/python3/dist-packages/yaml/reader.py", "yaml.reader"),
        ("/usr/lib/python3.13t/json/decoder.py", "json.decoder"),
        ("/opt/one/agent/vitals/thread.py", "vitals.thread"),
        ("main.py", "main"),
        ("/__init__.py", "__init__"),
        ("<string>", "<string>"),
        ("<ipython-input-12-3f>", "<ipython-input-#-#f>"),
        ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap>"),
        ("???", "???"),
        ("", "?"),
    ],
)
def test_modules_are_named_the_same_on_every_node(file: str, module: str) -> None:
    assert Frame(file, 1, "f").module == module


def test_a_file_may_be_called_anything() -> None:
    text = 'Thread 0x1 (most recent call first):\n  File "/a", line 3 in x/b.py", line 7 in f in g\n'
    assert parse(text)[0].threads[0].frames == (Frame('/a", line 3 in x/b.py', 7, "f in g"),)


def test_this_pythons_own_dump_is_understood() -> None:
    release, started = threading.Event(), threading.Event()

    def waits_here() -> None:
        started.set()
        release.wait()

    thread = threading.Thread(target=waits_here)
    thread.start()
    started.wait()
    with tempfile.TemporaryFile() as dump_file:
        faulthandler.dump_traceback(dump_file, all_threads=True)
        release.set()
        thread.join()
        text = os.pread(dump_file.fileno(), 1 << 20, 0).decode()
    (dump,) = parse(text)
    main = culprit(dump)
    assert main is not None
    assert main.is_current
    assert main.frames[0].function == "test_this_pythons_own_dump_is_understood"
    assert "waits_here" in {frame.function for stack in dump.threads for frame in stack.frames}


LINES = st.sampled_from(
    [*TWO_THREADS.split("\n"), *CRASH.split("\n"), "...", '  File "x', '  File "a", line 9']
)


@given(st.lists(st.one_of(LINES, st.text(max_size=60))).map("\n".join))
def test_no_text_is_too_strange(text: str) -> None:
    for dump in parse(text):
        assert dump.threads
        assert len({thread.ident for thread in dump.threads}) == len(dump.threads)
        thread = culprit(dump)
        if thread is not None:
            assert len(signature(thread).split(" < ")) <= SIGNATURE_FRAMES
            assert bool(stalled_at(thread)) == bool(thread.frames)


NAMES = st.text(
    st.characters(codec="ascii", exclude_characters="\n", min_codepoint=33), min_size=1, max_size=30
)
FRAMES = st.lists(st.builds(Frame, NAMES, st.integers(0, 10**8), NAMES), max_size=5).map(tuple)
THREADS = st.lists(
    st.builds(
        ThreadStack, st.integers(1, 2**63).map(lambda n: f"0x{n:016x}"), st.just(""), st.booleans(), FRAMES
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda thread: thread.ident,
)


@given(THREADS)
def test_what_faulthandler_prints_is_read_back(threads: list[ThreadStack]) -> None:
    text = "\n".join(
        f"{'Current thread' if thread.is_current else 'Thread'} {thread.ident} (most recent call first):\n"
        + "".join(f'  File "{f.file}", line {f.line} in {f.function}\n' for f in thread.frames)
        for thread in threads
    )
    assert parse(text) == (Dump(tuple(threads)),)


def test_names_are_bounded() -> None:
    long = "f" * 10_000
    (dump,) = parse(
        f'Thread 0x1 [{long}] (most recent call first):\n  File "/a/{long}.py", line 1 in {long}\n'
    )
    (thread,) = dump.threads
    assert len(thread.name) == len(thread.frames[0].function) == NAME_LIMIT
    assert len(stalled_at(thread)) < 4 * NAME_LIMIT
