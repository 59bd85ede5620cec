"""Reads config files, and refuses those whose settings jsonargparse would drop in silence."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from inspect import isroutine
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from scene4d.messages import refuse_lost_settings
from scene4d.stages import Stage

FILES = (".yaml", ".yml")
TEXTS = (
    "--data.prompt",
    "--data.init_args.prompt",
)  # options whose values are plain words, whatever is in them


class ConfigParser(LightningArgumentParser):
    """The parser of the command line and of `from_config`: a config file may refine another one."""

    def parse_args(  # type: ignore[override]  # argparse's overloads
        self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any
    ) -> Namespace:
        """Parses a command line.

        Raises:
            ValueError: A file that it names is empty, no text or no YAML, or a function is named in place of a class;
                names it.
        """
        args = sys.argv[1:] if args is None else args
        for option, argument in zip(["", *args], args):
            _check_file(Path(str(argument).rpartition("=")[2]))
            _refuse_functions(str(option).lstrip("-"), _table(str(argument)))
        config = super().parse_args(_with_plain_texts(args), *more, **kwargs)
        _refuse_functions("", config.as_dict())
        return config

    def parse_path(self, path: str | os.PathLike, *args: Any, **kwargs: Any) -> Namespace:
        """Parses a config file.

        Raises:
            ValueError: The file or one that it names is empty, no text or no YAML, or a setting of it would take the
                place of others; names the file.
        """
        if Path(path).is_file():  # not an address
            refuse_lost_settings(_check_file(Path(path)), Path(path).name)
        return super().parse_path(path, *args, **kwargs)


def with_config_option(parser: ConfigParser) -> ConfigParser:
    """The parser with its option for config files."""
    parser.add_argument(
        "-c",
        "--config",
        action=ActionConfigFile,
        help="YAML file of options. Of several files the later ones win. A file refines another one that it names in "
        "its first line, as in `config: base.yaml`, by lines such as `trainer.max_steps: 500`.",
    )
    return parser


def add_stages(parser: LightningArgumentParser) -> None:
    """Adds the option `stages`, which reaches the data and the model if they have it.

    A tuple, since jsonargparse fills what an entry of a list leaves out from a list of that length given before.
    """
    parser.add_argument(
        "--stages",
        type=tuple[Stage, ...],
        default=(),
        help="stages of a training whose grids grow, as in [{until: 4000, frames: 29}, {until: 6000, frames: 61}]",
    )
    for part in ("data", "model"):
        parser.link_arguments("stages", f"{part}.init_args.stages", compute_fn=list)


def _with_plain_texts(args: Sequence[str]) -> list[str]:
    """The arguments with texts as JSON configs: of `--data.prompt "a cat: running"` jsonargparse would make a table."""
    changed, rest = list[str](), iter(args)
    for argument in rest:
        name, sign, text = str(argument).partition("=")
        value = None if name not in TEXTS else text if sign else next(rest, None)
        changed += [argument] if value is None else ["--config", json.dumps({"data.init_args.prompt": value})]
    return changed


def _table(argument: str) -> object:
    """What a whole setting on the command line holds; None of another argument, which the parser will judge."""
    try:
        return yaml.safe_load(argument) if argument.startswith(("{", "[")) else None
    except yaml.YAMLError:
        return None


def _check_file(path: Path) -> str:
    """The text of a config file; the files that it names are read, too. Nothing of what is no config file."""
    if path.suffix not in FILES or not path.is_file():
        return ""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no config file: it holds no text") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).replace(' in "<unicode string>",', " in").split())
        raise ValueError(f"config file {str(path)!r} is no YAML: {reason}") from error
    if not content or isinstance(content, str):
        raise ValueError(f"config file {str(path)!r} is empty or holds no settings")
    _refuse_functions("", content)
    for name in _texts(content):
        _check_file(path.parent / name)
    return text


def _refuse_functions(key: str, value: object) -> None:
    """Functions without a type would be called whatever they are, os.system included."""
    if isinstance(value, (dict, list)):
        for name, entry in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_functions(f"{key}.{name}".lstrip("."), entry)
        return
    named = locate(value) if key.endswith(".class_path") and isinstance(value, str) else value
    if isroutine(named) and "return" not in getattr(named, "__annotations__", {}):
        path = f"{named.__module__}.{named.__qualname__}"
        raise ValueError(
            f"{key}: {path} is a function that does not say what it returns; name a class, or annotate it"
        )


def _texts(content: object) -> Iterator[str]:
    """All texts that a config gives as values."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, (dict, list)):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _texts(value)
