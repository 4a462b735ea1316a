"""Who holds what: signs of life, processes that died, and locks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from feature_repo.contract.artifacts import read_json, write_json
from trainer.tuning.lease import Lease, LeaseLost, exclusively, file_time, silence_s


def test_a_held_thing_is_quiet_since_the_last_beat(tmp_path: Path) -> None:
    lease = Lease.take(tmp_path / "lease.json")
    long_ago = file_time(tmp_path) - 100.0
    os.utime(lease.path, (long_ago, long_ago))
    assert silence_s(lease.path) == pytest.approx(100.0, abs=5.0)

    lease.beat()

    assert silence_s(lease.path) < 5.0


def test_a_thing_that_was_let_go_is_nobodys(tmp_path: Path) -> None:
    lease = Lease.take(tmp_path / "lease.json")
    lease.release()

    assert silence_s(lease.path) == float("inf")


def test_a_dead_process_of_this_machine_is_known_at_once(tmp_path: Path) -> None:
    lease = Lease.take(tmp_path / "lease.json")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_json(lease.path, {**lease.owner, "pid": ended.pid})

    assert silence_s(lease.path) == float("inf")


def test_a_process_of_another_machine_is_judged_by_its_beats(tmp_path: Path) -> None:
    lease = Lease.take(tmp_path / "lease.json")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_json(lease.path, {**lease.owner, "machine": "elsewhere", "pid": ended.pid})

    assert silence_s(lease.path) < 5.0


def test_the_one_who_was_taken_over_finds_out_and_leaves_the_other_alone(tmp_path: Path) -> None:
    first = Lease.take(tmp_path / "lease.json")
    second = Lease.take(tmp_path / "lease.json")

    with pytest.raises(LeaseLost, match="another process's"):
        first.beat()
    first.release()

    assert read_json(second.path) == second.owner
    second.beat()


def test_a_lock_keeps_others_out(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")

    def add() -> None:
        for _ in range(20):
            with exclusively(tmp_path / "count"):
                count.write_text(str(int(count.read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert int(count.read_text()) == 4 * 20
