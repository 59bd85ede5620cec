"""Cameras and depths that agree with correspondences between views (Triggs et al. 2000).

Every point is seen first by one view, at a known pixel and a roughly known depth, and found again in other
views. Unknown are the cameras, one focal length a scene and the depth of every point; the depths are
eliminated in closed form (Schur complement), so a step solves one small dense system a scene.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.alignment import align_points
from scene4d.geometry.cameras import invert_rigid
from scene4d.types import Cameras

NEAR = 1e-3


@dataclass
class Correspondences:
    """Points of every view and where other views see them; v is the view of a point, w another one.

    Attributes:
        pixels: Positions of the points in their own view.
        depths: First guess of planar z.
        found: Position of the points in view w, pixels.
        weights: Trust in every match, 0 = none; 0 for w = v.
    """

    pixels: Float[Tensor, "n v p 2"]
    depths: Float[Tensor, "n v p"]
    found: Float[Tensor, "n v w p 2"]
    weights: Float[Tensor, "n v w p"]


@dataclass(frozen=True)
class Priors:
    """How far unknowns may leave their first guess, standard deviations.

    Attributes:
        pixels: Deviation of matches that are right; larger errors count less and less (Cauchy).
        log_depth: Deviation of the logarithm of a point's depth.
        log_focal: Deviation of the logarithm of the focal length.
        rotation: Radians, and translations in units of length, a step: the damping.
    """

    pixels: float = 1.0
    log_depth: float = 0.3
    log_focal: float = 0.03
    rotation: float = 1.0


def chain_cameras(
    matches: Correspondences, others: Float[Tensor, "n v w p"], intrinsics: Float[Tensor, "n v 3 3"]
) -> Float[Tensor, "n v 4 4"]:
    """First guess of the cameras: each aligned with the one before by robust Procrustes on guessed depth.

    Args:
        matches: Correspondences.
        others: Guessed depth at `matches.found` in view w.
        intrinsics: Intrinsics of all views.
    """
    poses = [torch.eye(4, device=intrinsics.device).expand(len(intrinsics), 4, 4)]
    for v in range(1, intrinsics.shape[1]):
        here = _to_points(matches.pixels[:, v], matches.depths[:, v], intrinsics[:, v])
        there = _to_points(matches.found[:, v, v - 1], others[:, v, v - 1], intrinsics[:, v - 1])
        weights = matches.weights[:, v, v - 1] + 1e-6
        robust = weights
        for _ in range(8):
            _, rotation, translation = align_points(here, there, robust)
            error = (here @ rotation.mT + translation[:, None] - there).norm(dim=-1)
            error = error / matches.depths[:, v].clamp(min=NEAR)
            robust = weights / (1 + (error / 0.05).square())
        step = torch.eye(4, device=here.device).repeat(len(here), 1, 1)
        step[:, :3, :3], step[:, :3, 3] = rotation, translation
        poses.append(poses[-1] @ step)
    return torch.stack(poses, 1)


def adjust(
    cameras: Cameras,
    matches: Correspondences,
    steps: int = 15,
    fixed_cameras: bool = False,
    priors: Priors = Priors(),  # noqa: B008 - immutable
) -> tuple[Cameras, Float[Tensor, "n v p"], Float[Tensor, " n"], Float[Tensor, "n v p"]]:
    """Gauss-Newton steps on the reprojection error; the first camera stays.

    Args:
        cameras: First guess `n v`.
        matches: Correspondences.
        steps: Gauss-Newton steps.
        fixed_cameras: Only triangulate.
        priors: How far unknowns may go.

    Returns:
        Cameras, depths, the robust cost of every scene, and how well each depth is known by matches alone:
        the inverse variance of its logarithm.
    """
    viewmats, intrinsics = invert_rigid(cameras.c2w), cameras.intrinsics
    log_depth = first = matches.depths.clamp(min=NEAR).log()
    log_focal = torch.zeros_like(log_depth[:, 0, 0])
    for step in range(steps + 1):
        current = replace(matches, depths=log_depth.exp())
        system = _linearise(viewmats, _scaled(intrinsics, log_focal), current, priors, fixed_cameras)
        if step == steps:
            break
        prior = 1 / priors.log_depth**2
        precision = system.dd + prior
        pull = system.d + prior * (first - log_depth)
        if fixed_cameras:
            log_depth = log_depth + (pull / precision).clamp(-0.3, 0.3)
            continue
        change, focal = _solve(system, precision, pull, log_focal, priors)
        along = torch.einsum("nc,ncvp->nvp", torch.cat([change.flatten(1), focal[:, None]], 1), system.cd)
        log_depth = log_depth + ((pull - along) / precision).clamp(-0.3, 0.3)
        viewmats = _exponential(change) @ viewmats
        log_focal = log_focal + focal
    moved = Cameras(invert_rigid(viewmats), _scaled(intrinsics, log_focal))
    return (cameras if fixed_cameras else moved), log_depth.exp(), system.cost, system.dd


@dataclass
class _System:
    """Normal equations: dd, cc, cd on the left, d, c on the right.

    d stands for depths, c for 6 numbers per camera (translation, rotation) and one for the focal length; what
    concerns c is None where cameras are fixed.
    """

    dd: Float[Tensor, "n v p"]
    d: Float[Tensor, "n v p"]
    cost: Float[Tensor, " n"]
    cc: Float[Tensor, "n c c"] | None = None
    cd: Float[Tensor, "n c v p"] | None = None
    c: Float[Tensor, "n c"] | None = None


def _linearise(
    viewmats: Float[Tensor, "n v 4 4"],
    intrinsics: Float[Tensor, "n v 3 3"],
    matches: Correspondences,
    priors: Priors,
    depths_only: bool,
) -> _System:
    n, v, p = matches.depths.shape
    local = _to_points(matches.pixels, matches.depths, intrinsics)  # n v p 3
    relative = viewmats[:, None] @ invert_rigid(viewmats)[:, :, None]  # n v w: from v to w
    turn = relative[..., :3, :3]
    point = torch.einsum("nvwij,nvpj->nvwpi", turn, local) + relative[..., None, :3, 3]
    z = point[..., 2:].clamp(min=NEAR)
    focal = intrinsics[:, None, :, None, (0, 1), (0, 1)]
    plane = point[..., :2] / z
    error = plane * focal + intrinsics[:, None, :, None, :2, 2] - matches.found
    squared = error.square().sum(-1) / priors.pixels**2
    trust = torch.where(point[..., 2] > NEAR, matches.weights, 0)
    weight = trust / (1 + squared) / priors.pixels**2
    # 2 x 3: movement in the image of view w for movements of the point in its frame
    zero = torch.zeros_like(z)
    rows = [torch.cat([focal[..., :1] / z, zero, -focal[..., :1] * plane[..., :1] / z], -1),
            torch.cat([zero, focal[..., 1:] / z, -focal[..., 1:] * plane[..., 1:] / z], -1)]  # fmt: skip
    image = torch.stack(rows, -2)  # n v w p 2 3
    back = image @ turn[:, :, :, None]
    by_depth = (back @ local[:, :, None, :, :, None]).squeeze(-1)
    system = _System(
        dd=(by_depth.square().sum(-1) * weight).sum(2),
        d=-((by_depth * error).sum(-1) * weight).sum(2),
        cost=(trust * (1 + squared).log()).sum((1, 2, 3)) / trust.sum((1, 2, 3)).clamp(min=1e-6),
    )
    if depths_only:
        return system
    by_w = torch.cat([image, -image @ _cross(point)], -1)
    by_v = torch.cat([-back, back @ _cross(local)[:, :, None]], -1)
    flat = torch.cat([-local[..., :2], torch.zeros_like(local[..., 2:])], -1)
    by_focal = (back @ flat[:, :, None, :, :, None]).squeeze(-1) + plane * focal
    columns = error.new_zeros(n, v, v, p, 2, 6 * v + 1)
    for k in range(v):
        columns[:, k, :, :, :, 6 * k : 6 * k + 6] += by_v[:, k]
        columns[:, :, k, :, :, 6 * k : 6 * k + 6] += by_w[:, :, k]
    columns[..., -1] = by_focal
    weighted = columns * weight[..., None, None]
    rows_flat, weighted_flat = columns.flatten(1, 4), weighted.flatten(1, 4)
    return replace(
        system,
        cc=weighted_flat.mT @ rows_flat,
        cd=torch.einsum("nvwpic,nvwpi->ncvp", weighted, by_depth),
        c=-(weighted_flat * error.reshape(n, -1, 1)).sum(1),
    )


def _solve(
    system: _System,
    precision: Float[Tensor, "n v p"],
    pull: Float[Tensor, "n v p"],
    log_focal: Float[Tensor, " n"],
    priors: Priors,
) -> tuple[Float[Tensor, "n v 6"], Float[Tensor, " n"]]:
    """Changes of cameras and focal length, the depths eliminated; the first camera's change is 0."""
    assert system.cc is not None and system.cd is not None and system.c is not None, "cameras are fixed"
    reduced = system.cd / precision[:, None]
    left = system.cc - torch.einsum("ncvp,nevp->nce", reduced, system.cd)
    right = system.c - torch.einsum("ncvp,nvp->nc", reduced, pull)
    damping = torch.full_like(right[0], 1 / priors.rotation**2)
    damping[-1] = 1 / priors.log_focal**2
    left = left + torch.diag(damping)
    right[:, -1] -= log_focal / priors.log_focal**2
    solution = torch.linalg.solve(left[:, 6:, 6:].double(), right[:, 6:].double()).to(right)
    solution = solution.clamp(-0.3, 0.3)
    change = torch.cat([torch.zeros_like(right[:, :6]), solution[:, :-1]], 1)
    return change.unflatten(1, (-1, 6)), solution[:, -1]


def _to_points(
    pixels: Float[Tensor, "*batch p 2"],
    depths: Float[Tensor, "*batch p"],
    intrinsics: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch p 3"]:
    focal = intrinsics[..., None, (0, 1), (0, 1)]
    plane = (pixels - intrinsics[..., None, :2, 2]) / focal
    return torch.cat([plane, torch.ones_like(plane[..., :1])], -1) * depths[..., None]


def _scaled(intrinsics: Float[Tensor, "n v 3 3"], log_focal: Float[Tensor, " n"]) -> Tensor:
    factor = torch.ones_like(intrinsics)
    factor[..., 0, 0] = factor[..., 1, 1] = log_focal.exp()[:, None]
    return intrinsics * factor


def _cross(x: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The matrix of x times (cross product)."""
    a, b, c = x.unbind(-1)
    o = torch.zeros_like(a)
    return torch.stack([o, -c, b, c, o, -a, -b, a, o], -1).unflatten(-1, (3, 3))


def _exponential(change: Float[Tensor, "n v 6"]) -> Float[Tensor, "n v 4 4"]:
    """Rigid motions from (translation, rotation vector)."""
    twist = torch.zeros(*change.shape[:-1], 4, 4, dtype=change.dtype, device=change.device)
    twist[..., :3, :3], twist[..., :3, 3] = _cross(change[..., 3:]), change[..., :3]
    return torch.linalg.matrix_exp(twist)
