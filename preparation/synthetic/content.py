"""Finds what the scenes of one split may show, from all folders that the options name."""

from __future__ import annotations

import argparse
import logging

from preparation.synthetic.furniture import furniture_of_split, read_catalogues
from preparation.synthetic.glb_assets import find_glbs, glbs_of_split
from preparation.synthetic.glb_clips import GlbClip
from preparation.synthetic.models import StillAsset
from preparation.synthetic.moving_asset import MovingAsset
from preparation.synthetic.object_clips import assign_groups, find_clips, split_groups

logger = logging.getLogger(__name__)


def moving_assets(options: argparse.Namespace) -> tuple[MovingAsset, ...]:
    """Returns the animations of MegaGlest's units and of GLB files, those of one split.

    Args:
        options: `root`, `glb` and `glb_license` as of `command.run`, and `split`.

    Raises:
        ValueError: There are none.
    """
    clips: list[MovingAsset] = []
    if options.root is not None:
        clips += split_groups(assign_groups(find_clips(options.root)), options.split)
    if options.glb:
        files = glbs_of_split(find_glbs(options.glb, options.glb_license), options.split)
        clips += [GlbClip(asset, animation) for asset in files for animation in asset.animations]
    units, groups = len({clip.unit for clip in clips}), len({clip.group for clip in clips})
    logger.info("%s: %d clips of %d units in %d content groups", options.split, len(clips), units, groups)
    if not clips:
        raise ValueError(f"no animation belongs to split {options.split!r}")
    return tuple(clips)


def still_assets(options: argparse.Namespace) -> tuple[StillAsset, ...]:
    """Returns furniture and GLB files without animation, those of one split; see `moving_assets`."""
    models: list[StillAsset] = []
    if options.root is not None:
        models += furniture_of_split(read_catalogues(options.root), options.split)
    if options.glb:
        files = glbs_of_split(find_glbs(options.glb, options.glb_license), options.split)
        models += [asset for asset in files if not asset.animations]
    logger.info("%s: %d models", options.split, len(models))
    if not models:
        raise ValueError(f"no model belongs to split {options.split!r}")
    return tuple(models)
