"""When a run counts as hung, what is said of it, and what is left alone."""

import os
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest

from callbacks import HangWatch
from callbacks.hang_watch import with_hang_watch
from callbacks.rank_signs import Sign, place_of, sign_table
from callbacks.rank_watcher import Watcher
from scene4d.atomic import plain


class Ended(Exception):
    """Where a process would end."""


class Board:
    """Signs of ranks in this process."""

    def __init__(self, ranks):
        self.ranks, self.signs, self.ended, self.broken = ranks, {}, False, False

    def put(self, rank, sign):
        if self.broken:
            raise RuntimeError("connection refused")
        self.signs[rank] = Sign(**vars(sign))

    def get(self, rank):
        return self.signs.get(rank)

    def end(self):
        self.ended = True


def watcher(monkeypatch, board, rank=0, limit=10.0):
    """A watcher that looks when it is told to, and the function that lets seconds pass in steps of one."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("callbacks.rank_watcher.time.monotonic", lambda: clock.now)
    watched = Watcher(board, rank, limit)

    def end(why):
        raise Ended(why)

    monkeypatch.setattr(watched, "_end", end)

    def wait(seconds, step=1.0):
        def waited(interval):
            nonlocal seconds
            clock.now += step
            seconds -= step
            return seconds < 0

        watched.done = SimpleNamespace(wait=waited)
        watched.run()

    return watched, wait


def shown(board, rank, **values):
    board.signs[rank] = Sign(**values)


def test_nothing_ends_while_any_rank_gives_signs(monkeypatch):
    board = Board(2)
    watched, wait = watcher(monkeypatch, board)
    watched.alive(3, "backward", True)
    for number in range(10):  # rank 0 waits for rank 1, which works
        shown(board, 1, number=number, begun=True)
        wait(8)
    with pytest.raises(Ended, match="no rank has given a sign of life for 10 s"):
        wait(12)
    assert board.ended


def test_the_first_batch_may_take_longer(monkeypatch):
    board = Board(2)
    watched, wait = watcher(monkeypatch, board)
    wait(28)  # rank 1 has not even begun
    shown(board, 1, number=1)
    wait(29)
    with pytest.raises(Ended) as end:
        wait(5)
    assert "has not begun" not in str(end.value) and "starting" in str(end.value)


def test_the_time_of_a_suspended_run_does_not_count(monkeypatch):
    board = Board(1)
    watched, wait = watcher(monkeypatch, board)
    watched.alive(3, "forward", True)
    wait(2)
    wait(5000, step=5000)  # one look after a long night
    wait(4)
    with pytest.raises(Ended):
        wait(6)


def test_other_ranks_end_when_they_are_told_or_when_rank_0_is_gone(monkeypatch):
    board = Board(2)
    watched, wait = watcher(monkeypatch, board, rank=1)
    for looks in range(5):
        shown(board, 0, looks=looks)  # its main thread may be stuck: that is for rank 0 to judge
        wait(8)
    with pytest.raises(Ended, match="rank 0 has not answered for 10 s"):
        wait(12)
    watched, wait = watcher(monkeypatch, board, rank=1)
    board.broken = True
    with pytest.raises(Ended, match="rank 0 cannot be reached for 10 s: connection refused"):
        wait(12)
    board.broken, board.ended = False, True
    watched, wait = watcher(monkeypatch, board, rank=1)
    with pytest.raises(Ended) as end:
        wait(2)
    assert str(end.value) == ""


class BusyBoard(Board):
    """Writing takes a while, as over a network."""

    busy, writes = False, 0

    def put(self, rank, sign):
        self.busy, self.writes = True, self.writes + 1
        time.sleep(0.01)
        super().put(rank, sign)
        self.busy = False


def test_no_process_is_forked_while_the_watch_is_at_work():
    """It would inherit the locks that the other thread holds."""
    board = BusyBoard(1)
    watched = Watcher(board, 0, 1000.0)
    watched.interval = 1e-4
    watched.start()
    try:
        for _ in range(20):
            if (pid := os.fork()) == 0:
                os._exit(board.busy)
            assert os.waitpid(pid, 0)[1] == 0
        assert board.writes > 10
    finally:
        watched.done.set()
        watched.join()


def test_the_table_says_who_does_what_where():
    signs = [Sign(7, 120, "backward", True, 61.4, "torch/autograd.py:1 run", "n1"), None]
    assert sign_table(signs).splitlines() == [
        "  rank  host  step  doing          seconds ago  where",
        "  0     n1    120   backward       61           torch/autograd.py:1 run",
        "  1     ?     ?     has not begun  ?",
    ]


def place_of_main_thread():
    """As the thread of a watch sees it."""
    seen = []
    thread = threading.Thread(target=lambda main: seen.append(place_of(main)), args=[threading.get_ident()])
    thread.start()
    thread.join()
    return seen[0]


def test_the_place_is_ours_where_it_can_be():
    assert "threading.py:" in place_of_main_thread()  # nothing of the project is on the way
    seen = []

    class Looks(dict):
        def items(self):  # called within the project
            seen.append(place_of_main_thread())
            return ()

    plain(Looks())
    assert seen[0].startswith("scene4d/atomic.py:") and seen[0].endswith(" plain")
    assert place_of(-1) == ""


def test_one_watch_for_every_run_and_none_for_one_process():
    own = HangWatch(timedelta(seconds=30))
    assert with_hang_watch([own]) == [own]
    assert [type(x) for x in with_hang_watch([])] == [HangWatch]
    own.setup(SimpleNamespace(world_size=1), None, "fit")
    assert own.watcher is None
    with pytest.raises(ValueError, match="limit must be positive, got 0:00:00"):
        HangWatch(timedelta(0))
