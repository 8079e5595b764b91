"""`invert`: codes of real data under a generator, by Levenberg–Marquardt from several starts.

The generator of a GAN has no encoder; its codes are found as in Zhu et al., "Generative visual manipulation on the
natural image manifold" (ECCV 2016), by optimisation from an encoder's guess, here with second-order steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentgeo._calculus.checks import is_number
from latentgeo._calculus.seeds import torch_random
from latentgeo.decoders import Decoder
from latentgeo.io import LatentModel

__all__ = ["Inversion", "invert"]

_POOL = 2048  # generated data among which starts are looked for
_SCREEN = 8  # steps from every start, after which only the best of a datum goes on


@dataclass(frozen=True, eq=False, repr=False)
class Inversion:
    """Codes of data, and how well the generator reproduces them.

    Attributes
    ----------
    codes : Tensor of shape (N, d)
        From the best of all starts.
    error : Tensor of shape (N,)
        Mean squared error per coordinate, in squared data units.
    converged : Tensor of shape (N,)
        Whether the best start's last step gained less than the tolerance.
    spread : Tensor of shape (N,)
        Root mean squared error of the worst start minus that of the best after eight steps: how much starts matter.

    Examples
    --------
    >>> import latentgeo as lg
    >>> found = invert(lg.wrap(lambda z: 2 * z, latent_dim=2, likelihood="deterministic"), torch.tensor([[1.0, -2.0]]))
    >>> found.codes, bool(found.converged)
    (tensor([[ 0.5000, -1.0000]]), True)
    """

    codes: Tensor
    error: Tensor
    converged: Tensor
    spread: Tensor

    @property
    def mse(self) -> float:
        """Mean of `error`."""
        return float(self.error.double().mean())

    def __repr__(self) -> str:
        n = len(self.codes)
        return f"Inversion({n} codes, mean squared error {self.mse:.3g}, {int(self.converged.sum())}/{n} converged)"


@torch.no_grad()
def invert(
    model: LatentModel | Decoder,
    x: Tensor,
    *,
    n_starts: int = 4,
    n_steps: int = 30,
    prior_weight: float = 0.0,
    rtol: float = 1e-4,
    random_state: int = 0,
    max_bytes: int = 2**27,
) -> Inversion:
    r"""Codes whose generated data are nearest to given data.

    Minimises ½|G(z) − x|² + ½·prior_weight·|z|² for each datum on its own, by Levenberg–Marquardt steps. Starts are the
    encoder's code, if the model has an encoder, and codes of the nearest among 2,048 generated data. After eight steps
    from each, the best goes on.

    Parameters
    ----------
    model : LatentModel or Decoder
        Its mean is the generator G.
    x : Tensor of shape (N, D) or (N, *data_shape)
    n_starts : int
        For each datum, the encoder's code among them.
    n_steps : int
        Most steps on the way to a code.
    prior_weight : float
        In squared data units; keeps codes where N(0, I) has mass. 0 for none.
    rtol : float
        A start is done when a step lowers its objective by less than this share.
    random_state : int
        Of the generated data.
    max_bytes : int
        Memory budget of Jacobians.

    Returns
    -------
    Inversion

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it must be.

    Examples
    --------
    >>> import latentgeo as lg
    >>> decoder = lg.wrap(lambda z: torch.cat([z, z.sin()], -1), latent_dim=2, likelihood="deterministic")
    >>> z = torch.tensor([[0.5, -1.0]])
    >>> invert(decoder, decoder.mean(z)).codes
    tensor([[ 0.5000, -1.0000]])
    """
    decoder = model.decoder if isinstance(model, LatentModel) else model
    if not isinstance(decoder, Decoder):
        raise TypeError(f"model must be a LatentModel or a Decoder; got {type(model).__name__}")
    for name, value in (("n_starts", n_starts), ("n_steps", n_steps)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a positive integer; got {value!r}")
    if not is_number(prior_weight) or not 0 <= prior_weight < math.inf:
        raise ValueError(f"prior_weight must be finite and not negative; got {prior_weight!r}")
    if not isinstance(x, Tensor) or x.ndim < 2 or x[:1].numel() != decoder.data_dim * len(x[:1]):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a tensor of shape (N, {decoder.data_dim}) or (N, *data_shape); got {got}")
    if len(x) == 0:
        raise ValueError("x must hold at least one datum")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"x must be finite; {int((~torch.isfinite(x)).sum())} of its entries are not")
    flat = x.flatten(1)
    d = decoder.latent_dim
    rows = max(1, max_bytes // (flat.element_size() * decoder.data_dim * (d + 3) * n_starts))
    pool = torch.randn(_POOL, d, generator=torch_random(random_state)).to(flat)
    images = decoder.mean(pool)
    encoder = model if isinstance(model, LatentModel) and model.encoder is not None else None
    parts = []
    for part, full in zip(flat.split(rows), x.split(rows), strict=True):
        near = _nearest(images, part, n_starts)
        starts = pool[near]  # (B, s, d)
        if encoder is not None:
            shaped = full if full.ndim > 2 else full.reshape(-1, *decoder.data_shape)
            starts = torch.cat([encoder.encode(shaped)[:, None].to(starts), starts[:, 1:]], 1)
        parts.append(_best(decoder, part, starts, n_steps, prior_weight, rtol))
    if not parts:
        raise ValueError("x must hold at least one datum")
    return Inversion(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _nearest(images: Tensor, x: Tensor, n: int) -> Tensor:
    """Indices (B, n) of the images nearest to each datum."""
    squares = images.square().sum(1) - 2 * x @ images.T
    return squares.topk(min(n, len(images)), largest=False).indices


def _best(decoder: Decoder, x: Tensor, starts: Tensor, n_steps: int, weight: float, rtol: float) -> tuple[Any, ...]:
    n, s, d = starts.shape
    first = min(n_steps, _SCREEN)
    z, error, done = _descend(decoder, x.repeat_interleave(s, 0), starts.reshape(-1, d), first, weight, rtol)
    objective = (error + weight * z.square().sum(1)).reshape(n, s)
    row = torch.arange(n, device=x.device) * s + objective.argmin(1)
    root = (error / x.shape[1]).sqrt()
    spread = root.reshape(n, s).amax(1) - root[row]
    z, error, done = z[row], error[row], done[row]
    if n_steps > first and not bool(done.all()):
        on = ~done
        z[on], error[on], done[on] = _descend(decoder, x[on], z[on], n_steps - first, weight, rtol)
    return z, error / x.shape[1], done, spread.clamp(min=0)


def _descend(
    decoder: Decoder, x: Tensor, z: Tensor, n_steps: int, weight: float, rtol: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, squared errors and whether they converged; each row has its own damping."""
    embedding, d = decoder.mean_embedding, z.shape[1]
    z = z.clone()
    residual = embedding(z) - x
    error = residual.square().sum(1)
    damping = z.new_full((len(z),), 1e-2, dtype=torch.float64)
    done = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    active = torch.arange(len(z), device=z.device)
    eye = torch.eye(d, dtype=torch.float64, device=z.device)
    J, stale = embedding.jacobian(z), torch.zeros_like(done)
    for _ in range(n_steps):
        now, r = z[active], residual[active]
        if bool(stale.any()):
            J[stale] = embedding.jacobian(now[stale])
        H = torch.einsum("bDi,bDj->bij", J, J).double() + weight * eye
        slope = torch.einsum("bDi,bD->bi", J, r).double() + weight * now.double()
        scale = H.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-30)
        step = torch.linalg.solve(H + (damping[active] * scale)[:, None, None] * eye, slope)
        tried = now - step.to(now)
        r_new = embedding(tried) - x[active]
        e_new = r_new.square().sum(1)
        before = error[active] + weight * now.square().sum(1)
        after = e_new + weight * tried.square().sum(1)
        better = after < before
        gain = (before - after) / before.clamp(min=torch.finfo(x.dtype).tiny)
        moved = active[better]
        z[moved], residual[moved], error[moved] = tried[better], r_new[better], e_new[better]
        damping[active] = torch.where(better, damping[active] / 5, damping[active] * 4).clamp(1e-9, 1e9)
        end = (better & (gain < rtol)) | (damping[active] > 1e6) | (before == 0)
        done[active[end]] = True
        active, J, stale = active[~end], J[~end], better[~end]
        if not len(active):
            break
    return z, error, done
