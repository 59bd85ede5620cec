"""Frames and latent frames, and that no other file knows how they correspond."""

import ast
from pathlib import Path

import pytest
import torch

from scene4d.latent_grid import latent_frames, latent_reference_mask, video_frames, whole_frames

ROOT = Path(__file__).parents[2]
PACKAGES = ("scene4d", "datamodules", "preparation", "lightning_modules", "callbacks", "benchmarks")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("frames, count", [(1, 1), (5, 2), (17, 5), (29, 8), (61, 16), (81, 21)])
def test_frames_to_latents_and_back(frames, count):
    assert latent_frames(frames) == count
    assert video_frames(count) == frames


@pytest.mark.parametrize("frames", [-3, 0, 2, 30, 32])
def test_other_lengths_are_refused(frames):
    with pytest.raises(ValueError, match=rf"{frames} frames, expected 4k \+ 1"):
        latent_frames(frames)


@pytest.mark.parametrize("frames, whole", [(1, 1), (4, 1), (5, 5), (8, 5), (30, 29), (33, 33)])
def test_the_longest_video_that_fits(frames, whole):
    assert whole_frames(frames) == whole


def test_frame_mask_to_latent_mask():
    reference = torch.zeros(1, 2, 9, dtype=torch.bool)
    reference[:, 0], reference[:, :, 0] = True, True
    assert latent_reference_mask(reference).tolist() == [[[True, True, True], [True, False, False]]]
    reference[:, 1, :3] = True  # a latent is given only when all of its four frames are
    assert not latent_reference_mask(reference)[0, 1, 1]
    assert latent_reference_mask(reference[..., :1]).tolist() == [[[True], [True]]]


def copies(tree: ast.Module) -> list[str]:
    """Lines that compute with 4k + 1: a remainder by 4, `(n - 1) // 4`, `4 * n` plus or minus a number."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and _knows(node):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def _knows(node: ast.BinOp) -> bool:
    if isinstance(node.op, ast.Mod):
        return _is(node.right, 4)
    if isinstance(node.op, ast.FloorDiv):
        return _is(node.right, 4) and isinstance(node.left, ast.BinOp) and _is(node.left.right, 1)
    if isinstance(node.op, ast.Add | ast.Sub):
        sides = (node.left, node.right)
        return any(map(_four_times, sides)) and any(_is(side, 1) or _is(side, 3) for side in sides)
    return False


def _four_times(node: ast.expr) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and any(
        _is(side, 4) for side in (node.left, node.right)
    )  # fmt: skip


def _is(node: ast.expr, number: int) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value == number


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_file_computes_with_4k_plus_1(path):
    assert path.name == "latent_grid.py" or not copies(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "text",
    ["n % 4 == 1", "t - (t - 1) % 4", "1 + (n - 1) // 4", "4 * n - 3", "n * 4 + 1", "1 + (n - 1) // 4 * 4"],
)
def test_copies_are_found_however_written(text):
    assert copies(ast.parse(text))
