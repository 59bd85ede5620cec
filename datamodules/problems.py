"""Counts unreadable shards and samples, and names each once."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """One shard or sample that cannot be used, and why."""

    source: str
    name: str
    message: str


class Problems:
    """Gathers the problems of one source in one worker.

    Attributes:
        source: Name of the source.
        count: Number of shards and samples skipped, also before a resume.
        last: The last problem as one line.
    """

    def __init__(self, source: str, count: int = 0) -> None:
        self.source, self.count, self.last = source, count, ""
        self._named: set[str] = set()
        self._news: list[Problem] = []

    def record(self, name: str, message: str) -> None:
        """Counts a problem of a shard or sample; it is news the first time."""
        message = " ".join(message.split())
        self.count, self.last = self.count + 1, f"{name}: {message}"
        if name not in self._named:
            self._named.add(name)
            self._news.append(Problem(self.source, name, message))

    def take_news(self) -> list[Problem]:
        """Returns the problems that were not handed out before."""
        news, self._news = self._news, []
        return news


class ProblemLog:
    """Warns of every unreadable shard or sample once, whichever worker met it."""

    def __init__(self) -> None:
        self._named: set[tuple[str, str]] = set()

    def warn(self, problems: Iterable[Problem]) -> None:
        """Warns of the problems whose shard or sample was not named before."""
        for problem in problems:
            if (problem.source, problem.name) not in self._named:
                self._named.add((problem.source, problem.name))
                log.warning("source %r: skipped %s: %s", *problem)
