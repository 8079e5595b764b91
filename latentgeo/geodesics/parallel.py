"""`transport`: parallel transport of tangent vectors along curves, by rotations of orthonormal frames.

Tangent spaces in a flat embedding space are rotated into one another by the nearest isometry to the orthogonal
projection (Shao, Kumar, Fletcher, "The Riemannian Geometry of Deep Generative Models", CVPRW 2018, arXiv:1711.08014),
elsewhere by the implicit midpoint rule. Both have even error expansions: halving sub-steps and extrapolating is cheap.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .._calculus import as_tolerance, check_like
from .._calculus.linalg import root as cholesky_root
from ..metrics import Metric
from .curve import Curve, curve_groups
from .geodesic import Geodesic
from .jacobi import turning, vectors_along

__all__ = ["transport"]

_FIRST, _LAST = 4, 64  # sub-steps of a segment


def transport(path: Geodesic, u: Tensor, *, rtol: float | None = None) -> Tensor:
    r"""Parallel transport of tangent vectors from the start of curves to all their nodes.

    Norms and angles are kept to rounding, whatever `rtol`.

    Parameters
    ----------
    path : Geodesic
        From `connect` or `shoot`; any curve will do, transport is along the curve as it is.
    u : Tensor of shape (*batch, d)
        Vectors at ``path(0)``. They broadcast with the path's batch shape: m vectors along every curve have shape
        (m, *batch, d).
    rtol : float, optional
        Relative accuracy; None means 1e-6 in float64 and 1e-3 in float32. A warning tells where it is not met.

    Returns
    -------
    Tensor of shape (*batch, n, d)
        The vectors at ``path.t``; NaN where the path is.

    Raises
    ------
    TypeError, ValueError
        If `u` has the wrong type, shape, dtype or device.

    References
    ----------
    .. [1] Shao, Kumar, Fletcher, "The Riemannian Geometry of Deep Generative Models", CVPRW 2018, arXiv:1711.08014.

    Examples
    --------
    >>> from latentgeo.geodesics import shoot
    >>> from latentgeo.metrics import HalfPlane
    >>> up = shoot(HalfPlane(), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    >>> transport(up, torch.tensor([1.0, 0.0]))[-1]
    tensor([2.7183, 0.0000])
    """
    if not isinstance(path, Geodesic):
        raise TypeError(f"`path` must be a Geodesic, from connect or shoot, got {type(path).__name__}")
    check_like(u, path.z, "u")
    rtol = as_tolerance(rtol, u.dtype)
    n, d = path.z.shape[-2:]
    u = vectors_along(path, u, "u")
    B = path.length.numel()
    flat = u.detach().reshape(-1, B, d).permute(1, 2, 0).double()  # (B, d, m)
    out = torch.full((B, n, d, flat.shape[-1]), torch.nan, dtype=torch.float64, device=u.device)
    poor = 0
    with torch.no_grad():
        for index, curve in path.pieces:
            sound = curve.nodes.isfinite().flatten(1).all(-1).nonzero()[:, 0]
            if len(sound):
                out[index[sound]], off = _along(path.metric, curve.select(sound), flat[index[sound]], n, rtol)
                poor += int((off > rtol).sum())
    if poor:
        warnings.warn(
            f"transport is not accurate to rtol = {rtol:g} along {poor} of {B} curves; norms and angles are kept. "
            "Solve the curves with more nodes, or raise `rtol`",
            UserWarning,
            stacklevel=2,
        )
    return out.permute(3, 0, 1, 2).reshape(*u.shape[:-1], n, d).to(u.dtype)


def _along(metric: Metric, curve: Curve, u: Tensor, n: int, rtol: float) -> tuple[Tensor, Tensor]:
    """Vectors (B, n, d, m) at n equally spaced times, and how far two extrapolations differ, (B,)."""
    B, d = u.shape[0], u.shape[1]
    out = torch.full((B, n, *u.shape[1:]), torch.nan, dtype=torch.float64, device=u.device)
    off = torch.full((B,), torch.inf, dtype=torch.float64, device=u.device)
    rows = torch.arange(B, device=u.device)
    k = _FIRST
    while len(rows) and k <= _LAST:
        parts = curve_groups(metric, curve.nodes[rows], ((n - 1) * k + 1) * 2 * d)
        for group in parts:
            some = rows[group]
            out[some], off[some] = _rotate(metric, curve.select(some), u[some], n, k)
        rows = rows[~(off[rows] <= rtol)]
        k *= 4
    return out, off


def _rotate(metric: Metric, curve: Curve, u: Tensor, n: int, k: int) -> tuple[Tensor, Tensor]:
    """Transport with k, k/2 and k/4 sub-steps a segment, extrapolated."""
    t = torch.linspace(0.0, 1.0, (n - 1) * k + 1, dtype=torch.float64, device=u.device)
    z = curve(t)
    root = cholesky_root(metric.tensor(z))  # G = root rootᵀ
    frames = None
    if metric.flat_embedding is not None:
        J = metric.flat_embedding.jacobian(z)
        frames = torch.linalg.solve_triangular(root.mT, J.double(), upper=True, left=False)

    def rotations(stride: int) -> Tensor:
        if frames is not None:
            nodes = frames[:, ::stride]
            moves = nodes[:, 1:].mT @ nodes[:, :-1]
        else:
            moves = _midpoint(metric, curve, t[::stride], root[:, ::stride])
        steps = _isometry(moves).unflatten(1, (n - 1, k // stride))
        whole = steps[:, :, 0]
        for i in range(1, k // stride):
            whole = steps[:, :, i] @ whole
        return whole

    wide, middle, fine = rotations(4), rotations(2), rotations(1)
    first, second = (4 * middle - wide) / 3, (4 * fine - middle) / 3
    best = _isometry((16 * second - first) / 15)
    gap = torch.linalg.matrix_norm(best - _isometry(second)).sum(-1)
    w = root[:, 0].mT @ u
    vectors = [w]
    for i in range(n - 1):
        w = best[:, i] @ w
        vectors.append(w)
    inverse = torch.linalg.solve_triangular(root[:, ::k].mT, torch.stack(vectors, 1), upper=True)
    inverse[:, 0] = u
    return inverse, gap.nan_to_num(torch.inf)


def _isometry(moves: Tensor) -> Tensor:
    """The orthogonal matrices nearest to (..., d, d); NaN where there is none."""
    sound = moves.isfinite().all(-1).all(-1)[..., None, None]
    left, _, right = torch.linalg.svd(torch.where(sound, moves, 0.0))
    return torch.where(sound, left @ right, torch.nan)


def _midpoint(metric: Metric, curve: Curve, t: Tensor, root: Tensor) -> Tensor:
    """One step of du/dt = −Γ(ċ, u) between neighbouring times, in the orthonormal frames of both."""
    middle, h = 0.5 * (t[1:] + t[:-1]), (t[1:] - t[:-1])[:, None, None]
    z, v = curve(middle), curve.velocity(middle)
    turn = 0.5 * h * turning(metric, z.flatten(0, 1), v.flatten(0, 1)).unflatten(0, z.shape[:2])
    eye = torch.eye(z.shape[-1], dtype=torch.float64, device=z.device)
    step = torch.linalg.solve_ex(eye + turn, eye - turn)[0]
    return root[:, 1:].mT @ step @ torch.linalg.inv(root[:, :-1]).mT
