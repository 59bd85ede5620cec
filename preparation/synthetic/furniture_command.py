"""The command of the furniture sources: catalogues and textures of one split -> scenes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from preparation.synthetic import command
from preparation.synthetic.command import SceneMaker, SceneSet
from preparation.synthetic.furniture import furniture_of_split, read_catalogues
from preparation.synthetic.stage import Assets
from preparation.synthetic.surfaces import texture_files


def run(
    source: str, description: str | None, make_scene: SceneMaker, arguments: Sequence[str] | None = None
) -> None:
    """Entry point of a preparation command.

    Args:
        source: Name of the data source.
        description: For --help.
        make_scene: Draws one scene.
        arguments: Default: those of the process.
    """

    def furniture(options: argparse.Namespace) -> SceneSet:
        models = tuple(furniture_of_split(read_catalogues(options.root), options.split))
        textures = tuple(texture_files(options.textures, options.split))
        assets = Assets(models, textures, options.texture_license)
        return SceneSet(source, options.split, options.seed, assets, make_scene)

    command.run(source, description, furniture, arguments)
