"""Real histories checked: recorded, delivered in many ways, made shorter when one of them fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sync import app
from sync.settings import Settings
from tests.support import real_history
from tests.support.pipeline import pipeline
from tests.support.real_history import Step
from tests.support.real_target import target
from tests.support.recording import Camera, Recorder, Recording
from tests.support.replay import Delivery, deliver, shorter_delivery
from tests.support.shrinking import smallest
from tests.support.simulation import Failed, history
from tests.support.stack import Own


@contextmanager
def recorder(own: Own, folder: Path, sets: int) -> Iterator[Recorder]:
    """A pipeline over so many sets of tables, set up; nothing consumes it but the recorder."""
    made = "".join(real_history.ddl(n) for n in range(sets))
    made += "CREATE TABLE public.marks (id bigint PRIMARY KEY);"
    text = real_history.mapping(range(sets))
    with pipeline(own, folder, made, text, TANDEM_KAFKA__PARTITIONS="2") as on:
        app.setup(on.settings, lambda message, **facts: None)
        recorder = Recorder(on.settings, sets)
        try:
            yield recorder
        finally:
            recorder.close()


def check(recorder: Recorder, recording: Recording, first: int, deliveries: int) -> list[Delivery]:
    """Deliver a recording so many times. Raises Failed with a short history, and how to have it again."""
    done = []
    for seed in range(first, first + deliveries):
        try:
            done.append(deliver(recording, seed))
        except Exception as failed:
            raise Failed(told(recorder, recording, seed, failed)) from failed
    return done


def told(recorder: Recorder, recording: Recording, seed: int, failed: Exception) -> str:
    """A failure: what PostgreSQL's sessions did, as little of it as still fails, and one delivery of that."""
    shorter = shorter_history(recorder, recording, seed)
    world = shorter_delivery(shorter, seed)
    lines = [
        f"{failed}",
        f"history {recording.seed} on set {recording.number} ({real_history.shape_of(recording.number)}),"
        f" delivery {seed}; made shorter:",
        *shorter.told,
        "delivered so:",
        *history(world),
    ]
    return "\n".join(lines)


def shorter_history(recorder: Recorder, recording: Recording, seed: int, within_s: float = 25.0) -> Recording:
    """Steps are left out as long as some delivery fails; each attempt is played and recorded anew."""
    best = [recording]

    def fails(steps: Sequence[Step]) -> bool:
        again = recorder.record([(recording.number, recording.seed, steps, True)])[0]
        for other in range(seed, seed + 6):
            try:
                deliver(again, other)
            except Exception:
                best[0] = again
                return True
        return False

    smallest(recording.steps, fails, within_s)
    return best[0]


def live(recorder: Recorder, number: int, seed: int) -> Recording:
    """Play a history while workers apply it, on a real MongoDB: nothing is at its end when it is applied."""
    settings: Settings = recorder.settings
    steps = real_history.random_history(seed, number)
    recorder.tap.until_marked(recorder.mark())
    recording = recorder.blank(number, seed, steps)
    with target(settings, recording, seed) as to, Camera(settings.source, recording) as camera:
        loaded = bool(camera.any_rows())
        to.prepare(loaded)
        to.start(to.rng.choice((1, 2, 3)))
        loading = threading.Thread(target=to.load, daemon=True)
        begins, ended = to.rng.randrange(4), 0

        def between() -> None:
            nonlocal ended
            if loaded and ended == begins:
                loading.start()
            ended += 1
            to.topics.extend(recorder.tap.poll())
            if to.rng.random() < 0.2:
                to.rebalance()

        driver = recorder.driver(number)
        driver.play(steps, between)
        recording.told = list(driver.told)
        if loaded:
            if not loading.ident:
                loading.start()
            loading.join()
        mark = recorder.mark()
        to.topics.extend(recorder.tap.until_marked(mark))
        to.rebalance()
        to.finish()
        try:
            to.judge(camera.truth())
        except Failed as failed:
            lines = [f"{failed}", f"history {seed} on set {number}, live:", *recording.told]
            raise Failed("\n".join(lines)) from failed
    return recording
