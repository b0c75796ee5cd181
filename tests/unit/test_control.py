"""Live control: what is asked, how fast work may go, when a slow server is spared."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import Misused
from connectors.mongo.control import Control
from sync.control.guardian import PAUSES_S, pause_s
from sync.control.judge import Brake, Bucket, changed
from sync.control.pace import Pace
from sync.control.pulse import Every, Pulse


def test_what_is_asked_adds_up() -> None:
    one = changed(Control(), pause=["consumers", "snapshot"], max_ops=50, by="a", at_ms=1)
    two = changed(one, resume=["consumers"], max_lag_s=3, by="b", at_ms=2)
    assert two == Control(frozenset({"snapshot"}), 50, 3, "b", 2)
    assert changed(two, resume=["snapshot"], unlimited=True, by="c", at_ms=3).free


@pytest.mark.parametrize(
    "wrong",
    [
        {"pause": ["consumer"]},
        {"resume": [""]},
        {"max_ops": 0},
        {"max_lag_s": 0.0},
        {"max_lag_s": -1.0},
        {"max_lag_s": float("nan")},
        {"max_lag_s": float("inf")},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Misused):
        changed(Control(), by="a", at_ms=1, **wrong)  # type: ignore[arg-type]


@given(
    st.floats(1, 1_000),
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, 3)), min_size=1, max_size=60),
)
def test_a_bucket_keeps_to_its_rate(rate: float, work: list[tuple[int, float]]) -> None:
    """Whatever is taken when: in no stretch is more begun than its time is worth, one piece and a quarter second."""
    bucket, now, begun = Bucket(rate), 100.0, list[tuple[float, int]]()
    for ops, idle in work:
        now += idle
        now += bucket.take(ops, now)
        begun.append((now, ops))
    for first in range(len(begun)):
        for last in range(first, len(begun)):
            stretch = begun[last][0] - begun[first][0]
            before_the_last = sum(ops for _, ops in begun[first:last])
            assert before_the_last <= rate * (stretch + 0.25) + 0.01


def test_a_brake_has_hysteresis() -> None:
    brake = Brake("MongoDB", 100)
    assert [brake.feel(ms) for ms in (150, 50, 150, 50)] == [False] * 4  # one slow answer is nothing
    assert [brake.feel(ms) for ms in (150, 150)] == [False, True]
    assert "MongoDB answers in 150 ms (limit 100)" in brake.why
    assert [brake.feel(ms) for ms in (90, 90, 90, 90)] == [True] * 4  # below the limit is not yet quick
    assert [brake.feel(ms) for ms in (40, 40, 90, 40, 40)] == [True] * 5
    assert [brake.feel(40)] == [False]
    assert brake.why == ""


def test_a_brake_without_a_limit_never_brakes() -> None:
    brake = Brake("PostgreSQL", 0)
    assert not any(brake.feel(ms) for ms in (1e9, 1e9, 1e9))


def test_restarts_come_ever_later_and_never_stop() -> None:
    pauses = [pause_s(n) for n in range(40)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0
    assert pauses[-1] == PAUSES_S[-1]


def waiting(pace: Pace, ops: int = 1) -> tuple[threading.Thread, threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=pace.wait, args=(ops, stop.is_set), daemon=True)
    thread.start()
    return thread, stop


def test_who_is_paused_waits_until_it_is_resumed_or_stopped() -> None:
    pace = Pace("consumers")
    pace.follow(Control(frozenset({"snapshot"})))
    assert not pace.paused
    pace.wait(1, lambda: False)
    pace.follow(Control(frozenset({"consumers"}), by="me"))
    assert pace.paused
    assert pace.why == "paused by me"
    thread, _ = waiting(pace)
    thread.join(0.3)
    assert thread.is_alive()
    pace.follow(Control())
    thread.join(2)
    assert not thread.is_alive()
    pace.follow(Control(frozenset({"consumers"})))
    thread, stop = waiting(pace)
    stop.set()
    thread.join(2)
    assert not thread.is_alive()


def test_a_pause_that_comes_while_a_piece_waits_for_its_turn_holds_it() -> None:
    pace = Pace("snapshot")
    pace.follow(Control(max_ops=100))
    pace.wait(60, lambda: False)  # into debt for 0.6 s, less what is saved up
    thread, stop = waiting(pace)
    pace.follow(Control(frozenset({"snapshot"}), max_ops=100))
    thread.join(1.5)
    assert thread.is_alive()
    pace.follow(Control(max_ops=100))
    thread.join(2)
    assert not thread.is_alive()
    stop.set()


def test_a_limit_that_is_lifted_ends_the_wait_for_it() -> None:
    pace = Pace("snapshot")
    pace.follow(Control(max_ops=1))
    pace.wait(1_000, lambda: False)  # into debt
    thread, _ = waiting(pace)
    thread.join(0.3)
    assert thread.is_alive()
    pace.follow(Control())
    thread.join(2)
    assert not thread.is_alive()


def test_processes_share_the_rate_and_pieces_are_of_half_a_second() -> None:
    pace = Pace("consumers")
    assert pace.most(500) == 500
    pace.follow(Control(max_ops=100), processes=5)
    assert pace.most(500) == 10
    pace.follow(Control(max_ops=1), processes=5)
    assert pace.most(500) == 1


def test_a_load_that_gives_way_still_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.control.pace._TRICKLE_S", 0.3)
    pace = Pace("snapshot")
    pace.give_way(["MongoDB answers in 5,000 ms"])
    assert "MongoDB" in pace.why
    began = time.monotonic()
    pace.wait(1, lambda: False)
    assert time.monotonic() - began >= 0.3
    pace.give_way([])
    assert pace.why == ""


def test_what_is_done_again_and_again_outlives_every_error_and_tells_each_once() -> None:
    told, done = list[str](), threading.Event()
    troubles = iter(
        [KeyError("tasks"), OSError("no such folder"), KeyError("tasks"), Misused("no", remedy="x")]
    )
    failed = list[int]()

    def act() -> None:
        try:
            raise next(troubles)
        except StopIteration:
            done.set()

    def log(message: str, **_: object) -> None:
        told.append(message)

    with Pulse([Every("looking", 0.001, act, log, lambda: failed.append(1))]):
        assert done.wait(5)
    assert told == ["looking: KeyError: 'tasks'", "looking: OSError: no such folder", "looking: no"]
    assert len(failed) == 4
