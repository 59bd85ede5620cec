"""Both sources of still models share this command: models and textures of one split -> scenes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from preparation.synthetic import command
from preparation.synthetic.command import SceneMaker, SceneSet
from preparation.synthetic.content import still_assets
from preparation.synthetic.stage import Assets
from preparation.synthetic.surfaces import texture_files


def run(
    source: str,
    description: str | None,
    make_scene: SceneMaker[Assets],
    arguments: Sequence[str] | None = None,
) -> None:
    """Runs the command of a furniture source.

    Args:
        source: Name of the data source.
        description: Text of `--help`.
        make_scene: Draws one scene.
        arguments: Command line; None takes that of the process.
    """

    def furniture(options: argparse.Namespace) -> SceneSet[Assets]:
        models = still_assets(options)
        textures = tuple(texture_files(options.textures, options.split))
        assets = Assets(models, textures, options.texture_license, options.size)
        return SceneSet(source, options.split, options.seed, assets, make_scene)

    command.run(source, description, furniture, arguments)
