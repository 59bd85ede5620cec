"""The machinery of commands that read shards and write them again with something added.

A shard keeps its name; samples in front of any damage are kept, and what is left out is named in the reports.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

from jsonargparse import ArgumentParser, Namespace
from torch import nn

from datamodules.archives import Members, is_remote
from datamodules.shards import expand_urls, read_shard
from preparation.writing.jobs import finish, parse_part
from preparation.writing.reports import Job, Report, skip
from scene4d.messages import one_line


class RewriteJob(Job, Protocol):
    """One shard to read and to write again."""

    @property
    def url(self) -> str:
        """Shard to read."""


JobT = TypeVar("JobT", bound=RewriteJob)


def rewriting_parser(description: str | None, part: str = "", does: str = "") -> ArgumentParser:
    """The options that all these commands share.

    Args:
        description: The help of the command.
        part: Option that takes the class path and the arguments of the network; empty where there is none.
        does: What its device does, for the help.
    """
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", action="config", help="YAML with any of these options")
    add("urls", type=str, nargs="+", help="shards: paths, globs, brace patterns, addresses")
    add("--output", type=Path, required=True, help="folder of the new shards and of reports/")
    add("--part", type=str, default="0/1", help="i/n: make only every n-th shard, starting with shard i")
    add("--workers", type=int, default=1, help="number of processes; each writes one shard at a time")
    if part:
        add("--device", type=str, default="cpu", help=f"device that {does}, for example cuda:0")
        parser.add_subclass_arguments(nn.Module, part, required=True)
    return parser


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Ends the command with one line for what its user can get wrong.

    Raises:
        SystemExit: A ValueError was raised, or a package is missing.
    """
    try:
        yield
    except (ValueError, ImportError, argparse.ArgumentTypeError) as error:
        raise SystemExit(f"{command}: {error}") from error


def shards_of_part(command: str, options: Namespace) -> list[tuple[str, Path]]:
    """Returns which shards the part reads, each with the path of the shard that it writes.

    Raises:
        ValueError: No shard is found, two would have one name, or one would replace the shard that is read.
    """
    urls = expand_urls(command, options.urls)
    paths = [options.output / _name(url) for url in urls]
    for url, path in zip(urls, paths):
        if paths.count(path) > 1:
            raise ValueError(f"two shards are named {path.name}; choose an --output for each")
        if not is_remote(url) and path.resolve() == Path(url).resolve():
            raise ValueError(f"{path} would replace the shard that is read; choose another --output")
    index, count = parse_part(options.part)
    return list(zip(urls, paths))[index::count]


def finish_part(
    command: str, options: Namespace, jobs: Sequence[JobT], make: Callable[[JobT], Report]
) -> None:
    """Writes the shards of one part that do not exist yet, and the report of the part.

    Raises:
        ValueError: A remote shard cannot be read, or finished ones were made with other options.
    """
    index, count = parse_part(options.part)
    report = options.output / "reports" / f"{command}-part-{index}-of-{count}.json"
    finish(jobs, make, options.workers, report, None)


def rewritten(
    job: RewriteJob, change: Callable[[Members], Members], skipped: dict[str, str]
) -> Iterator[Members]:
    """Yields all samples that can be read, changed; the others are named in `skipped`."""
    for members in _readable(job, skipped):
        try:
            changed = change(members)
        except (RuntimeError, MemoryError):  # no fault of the sample
            raise
        except Exception as error:  # whatever is wrong with one sample, the others go on
            skip(skipped, f"{job.path.name}: {members['__key__']!s}", error)
            continue
        yield changed


def _readable(job: RewriteJob, skipped: dict[str, str]) -> Iterator[Members]:
    """Yields the samples in front of any damage; a remote shard that fails raises, and the next start tries again."""
    try:
        yield from read_shard(job.url)
    except ValueError as error:
        if is_remote(job.url):
            raise
        skip(skipped, job.path.name, error)


def spec_of(options: Namespace, part: str) -> str:
    """Class path and arguments of a network as JSON, for other processes."""
    return json.dumps(plain(options[part]), sort_keys=True)


def plain(value: object) -> object:
    """An option as JSON has it, without the names of the files that it comes from."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        return {name: plain(branch) for name, branch in value.items() if name != "__path__"}
    return value


@lru_cache(1)
def built(part: str, spec: str, device: str) -> nn.Module:
    """Builds a network once per process, from what `spec_of` gave.

    Raises:
        ValueError: An argument is wrong, or weights are missing.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, part, required=True)
    network = instance(parser, part, spec)
    assert isinstance(network, nn.Module)  # what the parser was told
    return network.eval().to(device)


def instance(parser: ArgumentParser, part: str, spec: str) -> object:
    """What a parser makes of JSON.

    Raises:
        ValueError: An argument is wrong; in one line, where jsonargparse writes many.
    """
    try:
        return parser.instantiate(parser.parse_object({part: json.loads(spec)}))[part]
    except (ValueError, TypeError, argparse.ArgumentError) as error:
        raise ValueError(one_line(error)) from error


def _name(url: str) -> str:
    names = re.findall(r"[\w.-]+\.tar", url)
    if not names:
        raise ValueError(f"shard {url!r} names no .tar file, which the new one could be called after")
    return names[-1]
