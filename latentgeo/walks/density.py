"""`KernelDensity`: where the codes are, as a log density for Langevin sampling.

Isotropic Gaussian kernels with the bandwidth of greatest held-out likelihood (Habbema, Hermans, van den Broek 1974;
Duin 1976).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .._calculus import DEFAULT_MAX_BYTES, check_integer, check_like
from .._calculus.seeds import torch_random

__all__ = ["KernelDensity"]

_HELD_OUT = 2000
_FINEST = 1e-3  # least bandwidth tried, as a share of the codes' spread


class KernelDensity:
    r"""Gaussian kernel density of codes, with respect to the Lebesgue measure of latent space. Frozen.

    .. math:: p(z) = \frac1N \sum_n (2\pi h^2)^{-d/2} \exp\Big(-\frac{|z - z_n|^2}{2h^2}\Big)

    Parameters
    ----------
    codes : Tensor of shape (N, d)
        N ≥ 2 for a bandwidth of its own.
    bandwidth : float or None
        h, in latent units; None takes the one under which codes are likeliest given the others.
    random_state : int, torch.Generator or None
        Chooses at most 2,000 codes to be held out, each from all others.
    max_bytes : int
        Memory budget of one call.

    Attributes
    ----------
    codes : Tensor of shape (N, d)
    bandwidth : float
    held_out : float
        Mean log density of codes given the others; NaN for a given bandwidth.
    measure : str
        "lebesgue": what the density is a density of.

    Raises
    ------
    ValueError
        If `codes` is not a finite (N, d) tensor, the bandwidth is not positive, or no bandwidth is best because most
        codes are copies of one another.

    References
    ----------
    .. [1] Duin, "On the choice of smoothing parameters for Parzen estimators", IEEE Trans. Computers C-25, 1976.

    Examples
    --------
    >>> codes = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> density = KernelDensity(codes)
    >>> density
    KernelDensity(500 codes, d=2, bandwidth=0.42)
    >>> density(torch.zeros(1, 2, dtype=torch.float64))  # a standard normal has −log 2π = −1.84 there
    tensor([-...], dtype=torch.float64)
    """

    measure: Literal["lebesgue"] = "lebesgue"
    _frozen = False

    def __init__(
        self,
        codes: Tensor,
        bandwidth: float | None = None,
        *,
        random_state: int | torch.Generator | None = 0,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        if not isinstance(codes, Tensor) or codes.ndim != 2 or codes.numel() == 0 or not codes.is_floating_point():
            got = tuple(codes.shape) if isinstance(codes, Tensor) else type(codes).__name__
            raise ValueError(f"`codes` must be a floating-point tensor of shape (N, d), got {got}")
        if not bool(codes.isfinite().all()):
            raise ValueError("`codes` must be finite, got NaN or infinite values")
        if max_bytes < 1:
            raise ValueError(f"`max_bytes` must be positive, got {max_bytes}")
        self.codes = codes.detach().clone()
        self.max_bytes = int(max_bytes)
        self._rows = self.codes.double()
        self.held_out = math.nan
        if bandwidth is None:
            bandwidth, self.held_out = self._choose(random_state)
        if not isinstance(bandwidth, (int, float)) or not (math.isfinite(bandwidth) and bandwidth > 0):
            raise ValueError(f"`bandwidth` must be a positive number or None, got {bandwidth!r}")
        self.bandwidth = float(bandwidth)
        self._frozen = True

    def __setattr__(self, key: str, value: object) -> None:
        if self._frozen:
            raise AttributeError(f"{type(self).__name__} is frozen; build a new one to change `{key}`")
        object.__setattr__(self, key, value)

    def __repr__(self) -> str:
        n, d = self.codes.shape
        return f"KernelDensity({n} codes, d={d}, bandwidth={self.bandwidth:.2g})"

    def __call__(self, z: Tensor) -> Tensor:
        """Log density at codes (*batch, d), shape (*batch,); differentiable."""
        check_like(z, self.codes, "z", like="codes")
        return _LogDensity.apply(z, self)

    def value_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density (*batch,) and its gradient (*batch, d) at codes (*batch, d), in one pass."""
        check_like(z, self.codes, "z", like="codes")
        d, h2 = z.shape[-1], self.bandwidth**2
        flat = z.detach().reshape(-1, d).double()
        values, slopes = [z.new_empty(0, dtype=torch.float64)], [flat[:0]]
        for part in flat.split(self._rows_at_once()):
            exponent = -self._squares(part) / (2 * h2)
            value = torch.logsumexp(exponent, -1, keepdim=True)
            weight = (exponent - value).exp_()
            values.append(value[:, 0])
            slopes.append((weight @ self._rows - weight.sum(-1, keepdim=True) * part) / h2)
        constant = math.log(len(self.codes)) + 0.5 * d * math.log(2 * math.pi * h2)
        value = (torch.cat(values) - constant).to(z.dtype).reshape(z.shape[:-1])
        return value, torch.cat(slopes).to(z.dtype).reshape(z.shape)

    def sample(self, n: int, *, random_state: int | torch.Generator | None = None) -> Tensor:
        """Draw n independent samples, shape (n, d).

        Examples
        --------
        >>> KernelDensity(torch.zeros(1, 2), bandwidth=0.1).sample(5, random_state=0).shape
        torch.Size([5, 2])
        """
        check_integer(n, "n", 0)
        source = torch_random(random_state)
        where = source.device
        pick = torch.randint(len(self.codes), (n,), generator=source, device=where)
        noise = torch.randn(n, self.codes.shape[1], generator=source, dtype=torch.float64, device=where)
        drawn = self._rows[pick.to(self.codes.device)] + self.bandwidth * noise.to(self.codes.device)
        return drawn.to(self.codes.dtype)

    def _rows_at_once(self) -> int:
        return max(1, self.max_bytes // (4 * 8 * len(self.codes)))

    def _squares(self, z: Tensor) -> Tensor:
        """Squared distances (B, N) to all codes."""
        return torch.cdist(z, self._rows, compute_mode="donot_use_mm_for_euclid_dist").square_()

    def _choose(self, random_state: int | torch.Generator | None) -> tuple[float, float]:
        """The bandwidth that makes held-out codes likeliest, by golden sections of log h, and their log density."""
        from scipy.optimize import minimize_scalar

        n, d = self.codes.shape
        spread = float(self._rows.std(0).norm()) if n > 1 else 0.0
        if spread == 0:
            raise ValueError(f"`bandwidth` must be given for {n} codes without any spread, got None")
        source = torch_random(random_state)
        order = torch.randperm(n, generator=source, device=source.device)[:_HELD_OUT].to(self.codes.device)
        rows = self._rows_at_once()

        def loss(log_h: float) -> float:
            h2, total = math.exp(2 * log_h), 0.0
            for pick in order.split(rows):
                exponent = -self._squares(self._rows[pick]) / (2 * h2)
                exponent[torch.arange(len(pick), device=pick.device), pick] = -torch.inf
                total += float(torch.logsumexp(exponent, -1).sum())
            return -(total / len(order) - math.log(n - 1) - 0.5 * d * math.log(2 * math.pi * h2))

        low, high = math.log(_FINEST * spread), math.log(2 * spread)
        best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-2, "maxiter": 40})
        if best.x < low + 0.05 or not math.isfinite(best.fun):
            raise ValueError(
                "`bandwidth` must be given: held-out codes are likeliest under ever smaller ones, so many are copies "
                "of others"
            )
        return math.exp(best.x), -float(best.fun)


class _LogDensity(torch.autograd.Function):
    """The log density with its closed-form gradient, chunked in both passes."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, z: Tensor, density: KernelDensity) -> Tensor:
        value, slope = density.value_and_gradient(z)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors  # type: ignore[attr-defined]  # not in torch's annotations
        return g[..., None] * slope, None
