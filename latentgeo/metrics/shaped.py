"""Metrics shaped by hand or by data alone: cost-weighted (conformal) ones and the local diagonal metric.

Arvanitidis, Hansen, Hauberg, "A Locally Adaptive Normal Distribution", NIPS 2016, arXiv:1606.02518 (local diagonal).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._calculus import Embedding, check_positive
from .arguments import need_metric
from .base import Metric
from .pullback import PullbackMetric
from .tensor import TensorMetric

__all__ = ["LocalDiagonalMetric", "conformal"]


def conformal(metric: Metric, scale: Callable[[Tensor], Tensor]) -> Metric:
    r"""The metric with all lengths multiplied by a positive function of the code: G'(z) = scale(z)² G(z).

    For obstacles and costs: where `scale` is large, geodesics do not go.

    Parameters
    ----------
    metric : Metric
        Pulled back from a flat space, or given by its tensor.
    scale : callable
        Maps codes (B, d) to positive factors (B,), by differentiable torch operations.

    Returns
    -------
    Metric

    Raises
    ------
    TypeError
        If `metric` is no Metric or `scale` is not callable.
    ValueError
        If `metric` has an ambient metric already.

    Examples
    --------
    >>> from latentgeo.metrics import Euclidean
    >>> slow = conformal(Euclidean(2), lambda z: 1 + z.square().sum(-1))
    >>> slow.norm(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(2.)
    """
    need_metric(metric)
    if not callable(scale):
        raise TypeError(f"`scale` must be callable, got {type(scale).__name__}")
    if metric.ambient is not None:
        raise ValueError("`metric` must be flat in its embedding space or a bare tensor; put the cost into `ambient`")
    phi = metric.embedding
    if phi is None:
        return TensorMetric(
            lambda z: scale(z)[..., None, None] ** 2 * metric.tensor(z), dim=metric.dim, period=metric.period
        )
    # the code rides along with its image, so that the factor is a function on the embedding space
    if phi.dim is None:
        raise ValueError("`metric` must have a known latent dimension; give it `dim`")
    d, function = phi.dim, phi.function
    name = f"{phi.name} and its code"
    both = Embedding(lambda z: torch.cat([function(z), z], -1), dim=d, module=phi.module, name=name)

    def ambient(x: Tensor) -> Tensor:
        weight = scale(x[:, -d:])[:, None] ** 2
        return torch.cat([weight.expand(-1, x.shape[-1] - d), torch.zeros_like(x[:, -d:])], -1)

    return PullbackMetric(both, ambient=ambient, period=metric.period)


class LocalDiagonalMetric(TensorMetric):
    r"""Metric from the local diagonal covariance of data: small where data are, large away from them.

    .. math:: G_{kk}(z) = \Big(\sum_n w_n(z)(x_{nk} - z_k)^2 + \rho\Big)^{-1}, \quad
              w_n(z) = \exp\Big(-\frac{|x_n - z|^2}{2\sigma^2}\Big)

    Parameters
    ----------
    data : Tensor of shape (N, d)
        Points, for example latent codes.
    sigma : float
        Width of the neighbourhood, in units of the data.
    rho : float
        Added to the local variances, in squared units of the data; bounds the metric by 1/rho far from data.

    Raises
    ------
    ValueError
        If `data` is not a finite (N, d) tensor, or `sigma` or `rho` is not positive.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "A Locally Adaptive Normal Distribution", NIPS 2016, arXiv:1606.02518, eq. 19.

    Examples
    --------
    >>> metric = LocalDiagonalMetric(torch.zeros(1, 2), sigma=1.0, rho=0.5)
    >>> metric.tensor(torch.zeros(2))
    tensor([[2., 0.],
            [0., 2.]])
    """

    def __init__(self, data: Tensor, sigma: float, rho: float) -> None:
        if not isinstance(data, Tensor) or data.ndim != 2 or len(data) == 0 or not data.is_floating_point():
            got = tuple(data.shape) if isinstance(data, Tensor) else type(data).__name__
            raise ValueError(f"`data` must be a floating-point tensor of shape (N, d) with N >= 1, got {got}")
        if not bool(data.isfinite().all()):
            raise ValueError("`data` must be finite, got NaN or infinite values")
        check_positive(sigma, "sigma")
        check_positive(rho, "rho")
        self.data, self.sigma, self.rho = data.detach().clone(), float(sigma), float(rho)
        super().__init__(self._tensor, dim=data.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the data, which codes must have."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """Device of the data, where codes must be."""
        return self.data.device

    def _tensor(self, z: Tensor) -> Tensor:
        gap = self.data - z[..., None, :]
        weight = torch.exp(-0.5 * gap.square().sum(-1, keepdim=True) / self.sigma**2)
        return torch.diag_embed(1 / ((weight * gap.square()).sum(-2) + self.rho))
