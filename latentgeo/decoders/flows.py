"""`FlowNetwork`: an invertible network with exact log-density, for densities, priors and decoders.

Papamakarios et al., "Normalizing flows for probabilistic modeling and inference" (JMLR 2021); zuko has the transforms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from latentgeo.decoders.networks import register

FLOW_KINDS = ("coupling", "maf", "nsf", "unaf", "cnf", "circular")
_LIMITS = {"dim": (1, 1024), "transforms": (1, 32), "bins": (2, 64), "steps": (1, 256)}
_MAX_HIDDEN = (8, 2048)  # layers, width
_MAX_OUTPUTS = 2**15  # of one layer's network
_MAX_WEIGHTS = 2**25  # about, of all layers' networks


@register
class FlowNetwork(nn.Module):
    """An invertible map between data x and codes z whose base density is known, so that x has an exact one.

    Called on codes it gives data, like any decoder; `normalise` goes the other way. Data are standardised first by
    `loc` and `scale`, which `standardise` sets.

    Parameters
    ----------
    kind : str
        "coupling" (RealNVP), "maf", "nsf" (autoregressive splines), "unaf", "cnf" (continuous), all with the base
        N(0, I); or "circular" (autoregressive circular splines), for angles, with a uniform base on the torus.
    dim : int
        d, of data and of codes; at least 2 for "coupling".
    transforms : int
        How many invertible layers.
    hidden : sequence of int
        Widths of the networks that give each layer's parameters.
    bins : int
        Bins of a spline; "nsf" and "circular" only.
    steps : int
        Runge–Kutta steps of a continuous layer; "cnf" only.
    embed : bool
        For "circular": the call returns (cos x, sin x) of shape (..., 2d) instead of angles in [−π, π), so that a
        decoder has no jump where angles wrap.

    Raises
    ------
    ValueError
        If an argument is out of range.
    ModuleNotFoundError
        If zuko is not installed.

    References
    ----------
    .. [1] Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", ICLR 2017, arXiv:1605.08803.
    .. [2] Papamakarios, Pavlakou, Murray, "Masked autoregressive flow", NeurIPS 2017, arXiv:1705.07057.
    .. [3] Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows", NeurIPS 2019, arXiv:1906.04032.
    .. [4] Wehenkel, Louppe, "Unconstrained monotonic neural networks", NeurIPS 2019, arXiv:1908.05164.
    .. [5] Grathwohl et al., "FFJORD", ICLR 2019, arXiv:1810.01367.
    .. [6] Rezende et al., "Normalizing flows on tori and spheres", ICML 2020, arXiv:2002.02428.

    Examples
    --------
    >>> flow = FlowNetwork("nsf", 2, transforms=2, hidden=(16,))
    >>> z = torch.randn(5, 2)
    >>> x = flow(z)
    >>> x.shape, bool(torch.allclose(flow.normalise(x), z, atol=1e-4)), flow.log_prob(x).shape
    (torch.Size([5, 2]), True, torch.Size([5]))
    """

    builder = "flow"
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        kind: str,
        dim: int,
        transforms: int = 4,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        steps: int = 16,
        embed: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(kind, dim, transforms, hidden, bins, steps, embed)
        try:
            from latentgeo.decoders._zuko import layers
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] != "zuko":
                raise
            raise ModuleNotFoundError("a flow needs zuko: pip install 'latentgeo[train]'", name=error.name) from None
        self.arguments: dict[str, Any] = {
            "kind": kind, "dim": dim, "transforms": transforms, "hidden": list(hidden), "bins": bins, "steps": steps,
            "embed": embed,
        }  # fmt: skip
        self.kind, self.dim, self.embed = kind, dim, embed
        # zuko works on its masks while it builds, which the meta device of `load` cannot; the sizes are bounded
        with torch.device("cpu"):
            self.layers = nn.ModuleList(layers(kind, dim, transforms, hidden, bins, steps))
        self.register_buffer("loc", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    @property
    def periodic(self) -> bool:
        """Whether data and codes are angles."""
        return self.kind == "circular"

    @torch.no_grad()
    def standardise(self, x: Tensor) -> None:
        """Set `loc` and `scale` to mean and standard deviation of data (N, d); angles are left alone.

        Raises
        ------
        ValueError
            If a coordinate does not vary.
        """
        if self.periodic:
            return
        scale = x.std(0)
        if not bool((scale > 0).all()):
            constant = (~(scale > 0)).nonzero()[:3, 0].tolist()
            raise ValueError(f"every coordinate must vary, since a flow has a density; constant are {constant}")
        self.loc.copy_(x.mean(0))
        self.scale.copy_(scale)

    def normalise(self, x: Tensor) -> Tensor:
        """Codes z (..., d) of data (..., d)."""
        u = (x - self.loc) / self.scale
        for layer in self.layers:
            u = layer()(u)
        return u

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (...) of data (..., d) with respect to Lebesgue measure, in nats."""
        u = wrap_angle(x) if self.periodic else (x - self.loc) / self.scale
        total = -self.scale.log().sum().expand(x.shape[:-1])
        for layer in self.layers:
            u, change = layer().call_and_ladj(u)
            total = total + (change.sum(-1) if change.ndim > total.ndim else change)
        return total + self.base_log_prob(u)

    def base_log_prob(self, z: Tensor) -> Tensor:
        """Log-density of codes (..., d): N(0, I), or uniform on the torus."""
        if self.periodic:
            return z.new_full(z.shape[:-1], -self.dim * math.log(2 * math.pi))
        return -0.5 * (z.square().sum(-1) + self.dim * math.log(2 * math.pi))

    def base_sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """N codes from the base density, on the flow's device, drawn on the generator's."""
        device = self.loc.device if generator is None else generator.device
        draw = torch.rand if self.periodic else torch.randn
        z = draw(n, self.dim, generator=generator, device=device, dtype=self.loc.dtype).to(self.loc.device)
        return (2 * z - 1) * math.pi if self.periodic else z

    def points(self, z: Tensor) -> Tensor:
        """Data (..., d) of codes (..., d); angles as they are before `embed`."""
        u = wrap_angle(z) if self.periodic else z
        for layer in reversed(self.layers):
            u = layer().inv(u)
        return wrap_angle(u) if self.periodic else u * self.scale + self.loc

    def forward(self, z: Tensor) -> Tensor:
        """Codes (..., d) to data (..., d), or (..., 2d) with `embed`."""
        x = self.points(z)
        return torch.cat([x.cos(), x.sin()], -1) if self.embed else x


@register
class FlowEncoder(nn.Module):
    """The exact inverse of a `FlowNetwork`, as an encoder x → z; takes the same arguments.

    Examples
    --------
    >>> FlowEncoder(kind="maf", dim=2)(torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """

    builder = "flow-encoder"

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.flow = FlowNetwork(**arguments)
        self.arguments = self.flow.arguments

    @classmethod
    def of(cls, flow: FlowNetwork) -> FlowEncoder:
        """The inverse of this flow, sharing its weights."""
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder.flow, encoder.arguments = flow, flow.arguments
        return encoder.train(flow.training)

    def forward(self, x: Tensor) -> Tensor:
        """Data (B, d), or (B, 2d) of cosines and sines where the flow embeds them, to codes (B, d)."""
        x = x.flatten(1)
        if self.flow.embed:
            cosine, sine = x.chunk(2, -1)
            x = torch.atan2(sine, cosine)
        return self.flow.normalise(x)


def wrap_angle(x: Tensor) -> Tensor:
    """The same angles in [−π, π)."""
    return torch.remainder(x + math.pi, 2 * math.pi) - math.pi


def check_arguments(
    kind: Any, dim: Any, transforms: Any, hidden: Any, bins: Any, steps: Any, embed: Any = False
) -> None:
    """Raise a ValueError unless these are arguments of a `FlowNetwork`."""
    numbers = {"dim": dim, "transforms": transforms, "bins": bins, "steps": steps}
    if not isinstance(kind, str) or kind not in FLOW_KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, FLOW_KINDS))}; got {str(kind)[:100]!r}")
    for name, value in numbers.items():
        low, high = _LIMITS[name]
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} must be an integer from {low} to {high}; got {str(value)[:100]}")
    depth, width = _MAX_HIDDEN
    ok = isinstance(hidden, (list, tuple)) and 1 <= len(hidden) <= depth
    if not ok or not all(type(size) is int and 0 < size <= width for size in hidden):
        raise ValueError(f"hidden must be 1 to {depth} positive integers up to {width}; got {str(hidden)[:100]}")
    if type(embed) is not bool or (embed and kind != "circular"):
        raise ValueError(f"embed must be a bool, and True only for the kind 'circular'; got {str(embed)[:100]}")
    if kind == "coupling" and numbers["dim"] < 2:
        raise ValueError("dim must be at least 2 for the kind 'coupling', which changes one half given the other")
    spline = 3 * numbers["bins"] if kind in ("nsf", "circular") else 17 if kind == "unaf" else 2
    outputs = numbers["dim"] * spline
    if outputs > _MAX_OUTPUTS:
        raise ValueError(f"dim and bins are too large: {outputs} parameters of a layer, at most {_MAX_OUTPUTS}")
    widths = [2 * numbers["dim"] + 8, *hidden, outputs]
    weights = numbers["transforms"] * sum(a * b for a, b in itertools.pairwise(widths))
    if weights > _MAX_WEIGHTS:
        raise ValueError(f"hidden and transforms are too large: {weights} weights, at most {_MAX_WEIGHTS}")
