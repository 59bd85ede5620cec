"""One line for a user's mistake, from what jsonargparse and torch write on many."""

from __future__ import annotations

import re
from contextlib import suppress
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from textwrap import indent

import yaml

# What jsonargparse's messages are made of: where in the tree, what says nothing, and what was expected.
HEADER = re.compile(
    r"""(Type .+ expects a function or a callable class|Parser key "(?P<key>.+?)"|"""
    r"""Problem with given class_path '(?P<owner>.+?)'):\s*"""
)
NOISE = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Expected a path but|Expected a <class 'NoneType'>"
)
EXPECTED = re.compile(r"Expected an? (?P<type>.+?)((\. Got value)?: (?P<value>.*))?")
# jsonargparse 4 says this of a file whose content is wrong; the reason is the error's context
LOOP = re.compile(r"(?P<indent> *)Config file loop detected: (?P<file>\S+) -> (?P=file)$", re.MULTILINE)
MISSING = re.compile(r"not exist|not found|No such file|no shard found|no weights for", re.IGNORECASE)
# torch's list of all keys of a checkpoint that differ
SIZE = re.compile(r"size mismatch for (\S+): .+?Size\((\[.*?\])\).+?Size\((\[.*?\])\)")
ABSENT = re.compile(r'(Missing|Unexpected) key\(s\) in state_dict: "(.+?)"')


def one_line(error: Exception) -> str:
    """Which key is wrong and what was expected; jsonargparse writes a tree of all types that it tried."""
    message, owner, level = _with_hidden_reason(error), "", -1
    keys: list[str] = []
    wrong: list[str] = []
    for line in message.splitlines():
        depth, text = len(line) - len(line.lstrip()), line.strip().removeprefix("- ")
        if text.startswith("Given value") or (wrong and depth <= level):
            break  # the first branch that gets past a key or a class path tells
        text, _, given = text.partition(". Got value: Namespace(class_path='")
        owner = given.partition("'")[0] or owner
        while header := HEADER.match(text):
            keys += filter(None, [header["key"]])
            owner, level, wrong, text = header["owner"] or owner, depth, [], text[header.end() :]
        if text and not NOISE.match(text):
            wrong.append(text)
    expected = [match for match in map(EXPECTED.fullmatch, wrong) if match]
    if file := re.search(r"Expected a path but (\S+\.ya?ml) ", message):
        wrong = [f"file {file[1]} does not exist or cannot be read"]
    elif option := re.fullmatch("Option '(.+)' is not accepted", " ".join(wrong)):
        wrong = [f"{owner} has no option {option[1]!r}{_suggestion(owner, option[1])}"]
    elif expected and len(expected) == len(wrong):
        types = " or ".join(dict.fromkeys(match["type"] for match in expected))
        types = re.sub(r"<class '(.+?)'>|typing\.", r"\1", types).replace(
            "dot import path string", "class path"
        )
        value = re.search(r"(?:Got value|Given value|string): (.*)", message)
        wrong = [
            f"expected {types}, got {value[1].partition('. Got value')[0] if value else 'something else'}"
        ]
    return ": ".join(filter(None, [".".join(keys), " ".join(wrong)])) or type(error).__name__


def _with_hidden_reason(error: BaseException) -> str:
    message, link = str(error), error
    while not LOOP.match(str(link)):
        following = link.__cause__ or link.__context__
        if following is None:
            return message
        link = following
    reason = str(link.__context__)
    return LOOP.sub(lambda loop: indent(reason, loop["indent"]), message)


def refuse_lost_settings(text: str, file: str) -> None:
    """Checks that the lines of a config refine what they stand on, instead of taking its place.

    Raises:
        ValueError: A key stands beside one of its branches, or beside `config` and holds some branches alone.
    """
    with suppress(yaml.YAMLError):  # jsonargparse says what is wrong
        config = yaml.safe_load(text)
        for key, value in config.items() if isinstance(config, dict) else ():
            branch = next((other for other in config if str(other).startswith(f"{key}.")), None)
            if branch is not None:
                raise ValueError(
                    f"{file}: {key!r} and {branch!r} exclude each other; put one of them into a file"
                )
            if "config" in config and str(key).endswith("+"):
                raise ValueError(
                    f"{file}: {key!r} would replace the list of {config['config']}; write it into a file of its own "
                    "and give both with --config"
                )
            at_the_top = "." not in str(key) or str(key).endswith(".init_args")
            if "config" in config and at_the_top and isinstance(value, dict) and "class_path" not in value:
                first = next(iter(value), "...")
                raise ValueError(
                    f"{file}: {key!r} would replace all that {config['config']} says about it; "
                    f"write '{key}.{first}: ...' to change that alone"
                )


def _suggestion(owner: str, option: str) -> str:
    with suppress(ValueError):  # a class without a signature
        for close in get_close_matches(option, signature(resolve_name(owner)).parameters, 1):
            return f", did you mean {close!r}?"
    return ""


def with_working_directory(message: str) -> str:
    """A message about a relative path that is missing, with the folder where such paths begin."""
    for path in re.findall(r"'([^'\s]+)'", message) if "working directory" not in message else ():
        looks = "/" in path or re.search(r"\.[a-z]\w+$", path)
        if looks and "://" not in path and not Path(path).is_absolute() and MISSING.search(message):
            return f"{message} (relative paths begin in the working directory, {Path.cwd()})"
    return message


def first_difference(message: str) -> str:
    """The first key of a checkpoint of another architecture, with both shapes; other messages as they are."""
    if size := SIZE.search(message):
        key, there, here = size.groups()
    elif absent := ABSENT.search(message):
        key, (there, here) = absent[2], ("absent", "present")[:: 1 if absent[1] == "Missing" else -1]
    else:
        return message
    return (
        f"checkpoint of another architecture: {key!r} is {there} there and {here} in the model; "
        "compare the settings in the config"
    )
