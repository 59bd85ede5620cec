"""The commands of the configs that make caches: they parse, and what they build can be handed to other processes."""

import json
import re
import shlex
from pathlib import Path

import pytest

from preparation import captions, latents
from preparation.writing.rewriting import built, rewriting_parser, shards_of_part, spec_of

ROOT = Path(__file__).parents[2]
FILES = [*sorted(ROOT.glob("configs/latents/*.yaml")), *sorted(ROOT.glob("configs/data/*latents*.yaml"))]


def commands(path):
    text = re.sub(r"\\\n[# ]*", "", path.read_text())
    return [
        (name, shlex.split(rest))
        for name, rest in re.findall(r"python -m preparation\.(latents|captions) (.+)", text)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_commands_of_a_config_parse(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands(path)
    assert found or path.stem == "wan2.1"
    for name, arguments in found:
        part = {"latents": "autoencoder", "captions": "encoder"}[name]
        parser = latents._parser() if name == "latents" else rewriting_parser(captions.__doc__, part, "")
        options = parser.parse_args(arguments)
        spec = spec_of(options, part)
        assert json.loads(spec).keys() <= {"class_path", "init_args"}
        if path.stem.startswith("small") and name == "latents":
            assert built(part, spec, "cpu") is not None
            clips = {
                key: value for key in latents.VARIANTS if (value := latents.plain(options[key])) is not None
            }
            latents._clips(json.dumps(clips))
        if "assets/" in arguments[0]:
            assert shards_of_part(name, options)
