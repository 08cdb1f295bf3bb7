"""Work shared out: every item once, errors as they were raised, a killed process told, nobody left behind."""

import multiprocessing
import os
import signal
import time

import pytest

from mlcore import pool
from mlcore.errors import DataError, ModelError


def note(folder, item):
    (folder / str(item)).write_text(str(os.getpid()))


def fail_at_two(folder, item):
    if item == 2:
        raise DataError("Item 2 is no good: leave it out.")


def die_at_two(folder, item):
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)


def test_every_item_is_done_once_by_so_many_processes(tmp_path):
    assert sorted(pool.each(note, tmp_path, list(range(6)), 2)) == list(range(6))
    by = {(tmp_path / str(item)).read_text() for item in range(6)}
    assert str(os.getpid()) not in by
    assert len(by) <= 2


@pytest.mark.parametrize(
    ("function", "error", "sentence"),
    [(fail_at_two, DataError, "Item 2 is no good"), (die_at_two, ModelError, "goes on where it stopped")],
)
def test_what_goes_wrong_is_told_and_no_process_is_left(tmp_path, function, error, sentence):
    before = set(multiprocessing.active_children())
    with pytest.raises(error, match=sentence):
        list(pool.each(function, tmp_path, [1, 2, 3], 2))
    assert not set(multiprocessing.active_children()) - before


def test_whoever_stops_asking_leaves_no_process_behind(tmp_path):
    before = set(multiprocessing.active_children())
    asked = pool.each(note, tmp_path, list(range(4)), 1)
    next(asked)
    asked.close()
    assert not set(multiprocessing.active_children()) - before
