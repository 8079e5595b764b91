"""The RBF precision of Latent Space Oddity: a standard deviation that grows away from the data.

Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, section 4: β(z) = W v(z) + ζ with positive W and
v_k(z) = exp(-λ_k ‖z - c_k‖²); σ = β^(-1/2), so σ saturates at ζ^(-1/2) where no centre is near.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn


class RBFPrecision(nn.Module):
    r"""Precision :math:`\beta(z) = W v(z) + \zeta` of each data coordinate.

    Parameters
    ----------
    centers : Tensor of shape (K, d)
        Centres c_k of the basis functions.
    bandwidths : Tensor of shape (K,)
        λ_k, positive, in inverse squared latent units.
    weights : Tensor of shape (K, D)
        W, not negative, in inverse squared data units.
    floor : float or Tensor of shape ()
        ζ, positive; the standard deviation saturates at ζ^(-1/2).

    Raises
    ------
    ValueError
        If shapes disagree, or a value is not finite or of the wrong sign.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379, section 4.

    Examples
    --------
    >>> precision = RBFPrecision(torch.zeros(1, 2), torch.ones(1), torch.full((1, 3), 3.0), floor=1.0)
    >>> precision.std(torch.tensor([[0.0, 0.0], [9.0, 0.0]]))
    tensor([[0.5000, 0.5000, 0.5000],
            [1.0000, 1.0000, 1.0000]])
    """

    centers: Tensor
    bandwidths: Tensor
    weights: Tensor
    floor: Tensor

    def __init__(self, centers: Tensor, bandwidths: Tensor, weights: Tensor, floor: float | Tensor = 1e-3) -> None:
        super().__init__()
        floor = torch.as_tensor(floor, dtype=centers.dtype, device=centers.device)
        n = centers.shape[0]
        if centers.ndim != 2 or bandwidths.shape != (n,) or weights.ndim != 2 or weights.shape[0] != n or floor.ndim:
            raise ValueError(
                f"centers, bandwidths, weights, floor must be of shape (K, d), (K,), (K, D), (); got "
                f"{tuple(centers.shape)}, {tuple(bandwidths.shape)}, {tuple(weights.shape)}, {tuple(floor.shape)}"
            )
        for name, value in (("centers", centers), ("bandwidths", bandwidths), ("weights", weights), ("floor", floor)):
            if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} must be finite and floating point")
        if n == 0 or weights.shape[1] == 0:
            raise ValueError("centers and weights must not be empty")
        if bool((bandwidths <= 0).any()) or bool((weights < 0).any()) or float(floor) <= 0:
            raise ValueError("bandwidths and floor must be positive, and weights not negative")
        for name, value in (("centers", centers), ("bandwidths", bandwidths), ("weights", weights), ("floor", floor)):
            self.register_buffer(name, value.detach().clone())
        self.eval()

    @property
    def n_centers(self) -> int:
        """K, the number of centres."""
        return self.centers.shape[0]

    @property
    def latent_dim(self) -> int:
        """d, the latent dimension."""
        return self.centers.shape[1]

    @property
    def saturation(self) -> float:
        """ζ^(-1/2), the standard deviation far from every centre, in data units."""
        return float(self.floor) ** -0.5

    def basis(self, z: Tensor) -> Tensor:
        """Basis functions v_k at codes (..., d): (..., K), between 0 and 1."""
        # explicit differences: ‖z‖² - 2zc + ‖c‖² loses all digits in float32 far from the origin
        if self.latent_dim <= 8:  # axis by axis is twice as fast, and never holds (..., K, d)
            axes = zip(z.split(1, dim=-1), self.centers.unbind(-1), strict=True)
            squared = functools.reduce(torch.add, [(zi - ci).square() for zi, ci in axes])
        else:
            squared = (z.unsqueeze(-2) - self.centers).square().sum(-1)
        return torch.exp(-self.bandwidths * squared)

    def forward(self, z: Tensor) -> Tensor:
        """Precision β at codes (..., d): (..., D), in inverse squared data units."""
        return nn.functional.linear(self.basis(z), self.weights.mT, self.floor.expand(self.weights.shape[1]))

    def std(self, z: Tensor) -> Tensor:
        """Standard deviation β^(-1/2) at codes (..., d): (..., D), in data units."""
        return self(z).rsqrt()

    def saturated(self, z: Tensor, tolerance: float = 0.01) -> Tensor:
        """Where the standard deviation, averaged over coordinates, is within `tolerance` of ζ^(-1/2): (...,) bool."""
        return self.std(z).mean(-1) >= (1 - tolerance) * self.saturation

    def extra_repr(self) -> str:
        """One line for the module's repr."""
        return (
            f"{self.n_centers} centres in R^{self.latent_dim}, D={self.weights.shape[1]}, floor={float(self.floor):g}"
        )


@dataclass(frozen=True)
class PrecisionReport:
    """Figures of one `fit_precision`.

    Attributes
    ----------
    n_centers, bandwidth, floor, n_iter
        K (after duplicates were merged), the paper's a, ζ, and the number of multiplicative updates.
    n_train, n_heldout : int
        Data used for fitting and held out.
    log_likelihood : float
        Mean log p(x | z) of the held-out data at their codes with the fitted precision, in nats per datum.
    log_likelihood_constant : float
        The same with one constant standard deviation, fitted to the training part.
    log_likelihood_per_coordinate : float
        The same with a constant standard deviation per data coordinate.
    log_likelihood_before : float or None
        The same with the decoder's own likelihood; None where it has none.
    edge_ratio : float
        Median over nearest-neighbour edges of the codes of the edge's length under the σ term over that under the mean
        term. Aim for 0.6 to 1.3; much above that the mean no longer matters, much below σ does not.
    """

    n_centers: int
    bandwidth: float
    floor: float
    n_iter: int
    n_train: int
    n_heldout: int
    log_likelihood: float
    log_likelihood_constant: float
    log_likelihood_per_coordinate: float
    log_likelihood_before: float | None
    edge_ratio: float

    def __repr__(self) -> str:
        before = "" if self.log_likelihood_before is None else f", before {self.log_likelihood_before:.1f}"
        return (
            f"PrecisionReport({self.n_centers} centres, held-out log-likelihood {self.log_likelihood:.1f} nats "
            f"(constant {self.log_likelihood_constant:.1f}{before}), median edge ratio {self.edge_ratio:.2f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description (non-finite numbers become None)."""
        values = asdict(self)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PrecisionReport:
        """The report that `to_dict` described."""
        names = cls.__dataclass_fields__
        if set(values) != set(names):
            raise ValueError(f"a precision report has the fields {sorted(names)}; got {sorted(map(str, values))}")
        whole = ("n_centers", "n_iter", "n_train", "n_heldout")
        for name, value in values.items():
            if not (value is None or type(value) in ((int,) if name in whole else (int, float))):
                raise ValueError(f"{name} of a precision report must be a number; got {str(value)[:50]!r}")
        full: dict[str, Any] = {
            k: math.nan if v is None and k != "log_likelihood_before" else v for k, v in values.items()
        }
        return cls(**full)
