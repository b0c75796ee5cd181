"""Processes are known again by pid and time of birth, and only those are ended."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.errors import StackFailed
from sync.dev import postgres, processes, trouble
from sync.dev.processes import Record


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Record]:
    record = processes.spawn(["sleep", "60"], log=tmp_path / "log", environ={"PATH": os.environ["PATH"]})
    yield record
    processes.kill(record)


def test_a_process_is_alive_until_it_is_killed(sleeper: Record) -> None:
    assert sleeper.alive
    processes.kill(sleeper)
    assert not sleeper.alive


def test_a_process_with_the_same_pid_but_another_birth_is_left_alone(sleeper: Record) -> None:
    other = Record(sleeper.pid, "another birth")
    assert not other.alive
    processes.kill(other)
    assert processes.end(other, gently=signal.SIGTERM)
    assert sleeper.alive


def test_ending_gently_is_enough_where_it_is_heard(sleeper: Record) -> None:
    assert processes.end(sleeper, gently=signal.SIGTERM)
    assert not sleeper.alive


def test_one_that_does_not_hear_is_killed(tmp_path: Path) -> None:
    deaf = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
    record = processes.spawn(["sh", "-c", deaf], log=tmp_path / "log", environ={"PATH": os.environ["PATH"]})
    assert processes.wait_until(lambda: "deaf" in processes.last_lines(tmp_path / "log"), 5)
    assert not processes.end(record, gently=signal.SIGTERM, within_s=0.3)
    assert not record.alive


def test_it_runs_in_a_session_of_its_own(sleeper: Record) -> None:
    assert os.getsid(sleeper.pid) == sleeper.pid


def test_a_running_process_is_found_by_its_whole_command_line(sleeper: Record) -> None:
    assert processes.find(["sleep", "60"]) is not None
    assert processes.find(["sleep", "60", str(sleeper.pid)]) is None


def test_a_record_is_read_back_and_a_damaged_one_is_none(sleeper: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert Record.load(path) is None
    sleeper.save(path)
    assert Record.load(path) == sleeper
    path.write_text(path.read_text()[:9])
    assert Record.load(path) is None


def test_the_last_lines_of_a_log_that_is_not_there_are_none(tmp_path: Path) -> None:
    assert processes.last_lines(tmp_path / "log") == ""


def test_a_long_log_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_LOG_BYTES", 3)
    (tmp_path / "log").write_text("before")
    processes.kill(
        processes.spawn(["sleep", "9"], log=tmp_path / "log", environ={"PATH": os.environ["PATH"]})
    )
    assert (tmp_path / "log.1").read_text() == "before"


def test_a_full_disk_is_named_whoever_met_it(tmp_path: Path) -> None:
    said = f"ERROR: could not write: {os.strerror(errno.ENOSPC)}"
    for met in (
        OSError(errno.ENOSPC, "no space", str(tmp_path)),
        StackFailed("x", remedy="y", last_lines=said),
    ):
        with pytest.raises(StackFailed, match=r"disk of .* is full") as raised, trouble.explained([tmp_path]):
            raise met
        assert "tandem dev up" in raised.value.remedy


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StackFailed, match="cannot use its folders") as raised, trouble.explained([tmp_path]):
        (tmp_path / "nothing" / "file").write_text("")
    assert "--home" in raised.value.remedy


def test_a_lock_file_of_a_postmaster_that_ended_is_removed(tmp_path: Path, sleeper: Record) -> None:
    lock = tmp_path / "postmaster.pid"
    lock.write_text(f"{sleeper.pid}\n{tmp_path}\n")
    postgres.end_leftovers(tmp_path)
    assert lock.exists()
    postgres.end_leftovers(tmp_path, ended=sleeper.pid)  # the pid is another process's by now
    assert not lock.exists()
    lock.write_text(f"{sleeper.pid}\n{tmp_path}\n")
    processes.kill(sleeper)
    postgres.end_leftovers(tmp_path)
    assert not lock.exists()


def test_a_data_folder_that_was_never_finished_is_made_again(tmp_path: Path) -> None:
    def programs(initdb: str) -> Path:
        for name, script in {"initdb": initdb, "postgres": "cat >/dev/null"}.items():
            (tmp_path / name).write_text(f"#!/bin/sh\nD=$2\n{script}\n")
            (tmp_path / name).chmod(0o755)
        return tmp_path

    pgdata, log = tmp_path / "pg", tmp_path / "log"
    environ = {"PATH": os.environ["PATH"]}
    with pytest.raises(StackFailed, match="data folder could not be made") as raised:
        postgres.make_data(programs('touch "$D/half"; echo no room; exit 1'), pgdata, None, environ, log)
    assert raised.value.facts["last_lines"] == "no room"
    assert not pgdata.exists()
    postgres.make_data(programs('touch "$D/whole"'), pgdata, None, environ, log)
    assert sorted(p.name for p in pgdata.iterdir()) == ["postgresql.conf", "whole"]
    postgres.make_data(programs("exit 1"), pgdata, None, environ, log)
