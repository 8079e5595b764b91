"""`Decoder`: a frozen map from latent codes to likelihood parameters, and the embeddings that carry its geometry.

The expected metric of a Gaussian decoder is the Euclidean pullback of [mean, std] (Arvanitidis, Hansen, Hauberg 2018,
Theorem 1), so a decoder hands metrics an `Embedding` and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentgeo._calculus import Embedding, check_latent
from latentgeo.decoders._frozen import Frozen
from latentgeo.decoders._modules import find_modules
from latentgeo.decoders.likelihoods import Gaussian, Likelihood
from latentgeo.decoders.outputs import read

if TYPE_CHECKING:
    from latentgeo.decoders.precision import PrecisionReport, RBFPrecision

Context = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor] | None


class Core(Frozen):
    """The function behind a decoder: z (B, d) → likelihood parameters, each (B, D). Private; embeddings hold it."""

    function: Callable[..., Any]
    module: nn.Module | None
    reads: Likelihood  # what the function's own output means
    likelihood: Likelihood  # what the decoder's parameters mean (a Gaussian once a precision is fitted)
    context: Context
    precision: RBFPrecision | None

    def __init__(
        self,
        function: Callable[..., Any],
        module: nn.Module | None,
        reads: Likelihood,
        context: Context = None,
        precision: RBFPrecision | None = None,
    ) -> None:
        likelihood = reads if precision is None else Gaussian(scale="std")
        self._set(
            function=function, module=module, reads=reads, likelihood=likelihood, context=context, precision=precision
        )

    def output(self, z: Tensor) -> Any:
        """What the wrapped function returns for codes (B, d), the context expanded to the batch."""
        if self.context is None:
            return self.function(z)
        if isinstance(self.context, Mapping):
            return self.function(z, **{name: _rows(c, z) for name, c in self.context.items()})
        context = (self.context,) if isinstance(self.context, Tensor) else self.context
        return self.function(z, *(_rows(c, z) for c in context))

    def parameters(self, z: Tensor) -> dict[str, Tensor]:
        own = self.reads.parameters(*read(self.output(z), z.shape[0]))
        if self.precision is None:
            return own
        return {"mean": self.reads.mean(own), "std": self.precision.std(z)}

    def replace(self, **changes: Any) -> Core:
        now = {name: getattr(self, name) for name in ("function", "module", "reads", "context", "precision")}
        return Core(**{**now, **changes})


def _rows(context: Tensor, z: Tensor) -> Tensor:
    return context.expand(z.shape[0], *context.shape[1:])


class Coordinates:
    """One embedding of a decoder as a plain, picklable function (B, d) → (B, D)."""

    def __init__(self, core: Core, kind: str) -> None:
        self.core = core
        self.kind = kind

    def __call__(self, z: Tensor) -> Tensor:
        core = self.core
        if self.kind == "std_only" and core.precision is not None:
            return core.precision.std(z)
        parameters = core.parameters(z)
        if self.kind == "std_only":
            return parameters["std"]
        result: Tensor = getattr(core.likelihood, self.kind)(parameters)
        return result


def _fisher_ambient(x: Tensor) -> Tensor:
    """Diagonal of the Gaussian Fisher–Rao metric at x = [mean, std]: [1/std², 2/std²], of shape (..., 2D)."""
    std = x[..., x.shape[-1] // 2 :]
    inverse = std.clamp(min=torch.finfo(x.dtype).tiny ** 0.5).square().reciprocal()
    return torch.cat([inverse, 2 * inverse], dim=-1)


class Decoder(Frozen):
    """A decoder z → p(x | z), as made by `wrap`, `fit_precision` or `load`.

    Frozen and shared: copies are the same object, pickling is by value. Call it for the likelihood's parameters.

    Attributes
    ----------
    latent_dim, data_dim : int
        d and D.
    data_shape : tuple of int
        The shape of one datum before it was flattened to D numbers.
    likelihood : Likelihood
        What the parameters mean.
    module : torch.nn.Module or None
        The module whose weights are used, where one was found.
    precision : RBFPrecision or None
        The fitted precision that gives the standard deviation, if any.
    precision_report : PrecisionReport or None
        The figures of that fit.
    context : Tensor, tuple or mapping of Tensor, or None
        The fixed condition of a conditional decoder, one row each.
    mean_embedding, std_embedding : Embedding or None
        z → mean and z → standard deviation; the latter is None where the standard deviation does not vary with z.
    expected_embedding, fisher_embedding : Embedding or None
        Their Euclidean pullbacks are the expected and the Fisher–Rao metric; `missing` says why one is None.
    embedding : Embedding
        That of the likelihood's default metric.
    fisher_coordinates, fisher_ambient : Embedding, callable; or None
        For a Gaussian with learned standard deviation: z → [mean, std], and the diagonal (..., 2D) of the Fisher–Rao
        metric there. None for the others.
    missing : dict of str to str
        Why the "expected" or "fisher" embedding is None.

    Raises
    ------
    TypeError, ValueError
        When called with anything but floating codes of shape (*batch, latent_dim) of its own dtype and device.

    Examples
    --------
    >>> import latentgeo as lg
    >>> decoder = lg.wrap(lambda z: torch.cat([z, z.square()], -1), latent_dim=2, likelihood="deterministic")
    >>> decoder(torch.tensor([[1.0, 2.0]]))
    {'mean': tensor([[1., 2., 1., 4.]])}
    """

    latent_dim: int
    data_dim: int
    data_shape: tuple[int, ...]
    likelihood: Likelihood
    module: nn.Module | None
    precision: RBFPrecision | None
    precision_report: PrecisionReport | None
    context: Context
    mean_embedding: Embedding
    std_embedding: Embedding | None
    expected_embedding: Embedding | None
    fisher_embedding: Embedding | None
    fisher_coordinates: Embedding | None
    fisher_ambient: Callable[[Tensor], Tensor] | None
    missing: dict[str, str]

    def __init__(
        self,
        core: Core,
        latent_dim: int,
        data_shape: tuple[int, ...],
        *,
        precision_report: PrecisionReport | None = None,
        entry: str = "call",
    ) -> None:
        likelihood = core.likelihood
        missing = dict(likelihood.missing)
        parts = [part for part in (core.module, core.precision) if part is not None]
        module = parts[0] if len(parts) == 1 else nn.ModuleList(parts).eval() if parts else None

        def embedding(kind: str, name: str) -> Embedding:
            return Embedding(Coordinates(core, kind), dim=latent_dim, name=name, module=module)

        learned = likelihood.learned_scale
        expected = None if "expected" in missing else embedding("expected", "[mean, std]" if learned else "mean")
        fisher = None if "fisher" in missing else embedding("fisher", f"Fisher–Rao of {likelihood.name}")
        self._set(
            _core=core,
            _entry=entry,
            latent_dim=latent_dim,
            data_shape=tuple(data_shape),
            data_dim=torch.Size(data_shape).numel(),
            likelihood=likelihood,
            module=core.module,
            precision=core.precision,
            precision_report=precision_report,
            context=core.context,
            dtype=_attribute(core, "dtype"),
            device=_attribute(core, "device"),
            missing=missing,
            expected_embedding=expected,
            fisher_embedding=fisher,
            mean_embedding=expected if expected is not None and not learned else embedding("mean", "mean"),
            std_embedding=embedding("std_only", "std") if learned else None,
            fisher_coordinates=expected if learned and fisher is None else None,
            fisher_ambient=_fisher_ambient if learned and fisher is None else None,
        )

    dtype: torch.dtype | None
    device: torch.device | None

    @property
    def embedding(self) -> Embedding:
        """The embedding of the likelihood's default metric."""
        chosen = self.expected_embedding if self.likelihood.default == "expected" else self.fisher_embedding
        if chosen is None:
            raise ValueError(self.missing[self.likelihood.default])
        return chosen

    def __call__(self, z: Tensor) -> dict[str, Tensor]:
        """Likelihood parameters at codes (*batch, d), each (*batch, D), by name."""
        check_latent(z, self.latent_dim, self.dtype, self.device)
        # a copy, because a decoder may work in place on what it is given
        parameters = self._core.parameters(z.reshape(-1, self.latent_dim).clone())
        return {name: value.reshape(*z.shape[:-1], self.data_dim) for name, value in parameters.items()}

    def mean(self, z: Tensor) -> Tensor:
        """The mean of x given z: (*batch, D), in data units."""
        return self.likelihood.mean(self(z))

    def std(self, z: Tensor) -> Tensor | None:
        """The standard deviation of x given z: (*batch, D), in data units; None for a deterministic decoder."""
        return self.likelihood.std(self(z))

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """Log-likelihood log p(x | z) of data (*batch, D): (*batch,), in nats; batch shapes broadcast.

        Counts and bits may be integers or bools.
        """
        self._check_data(z, x)
        return self.likelihood.log_prob(self(z), x if x.is_floating_point() else x.to(z.dtype))

    def _check_data(self, z: Tensor, x: Tensor) -> None:
        """Raise unless `x` holds data of this decoder, one for each code or broadcast with them."""
        check_latent(z, self.latent_dim, self.dtype, self.device)
        if not isinstance(x, Tensor):
            raise TypeError(f"`x` must be a torch.Tensor, got {type(x).__name__}; convert it with torch.as_tensor")
        if x.is_complex() or x.device != z.device:
            raise TypeError(f"`x` must be real and on {z.device}, as `z` is, got {x.dtype} on {x.device}")
        if x.ndim == 0 or x.shape[-1] != self.data_dim:
            raise ValueError(f"`x` must have shape (*batch, {self.data_dim}), flattened data, got {tuple(x.shape)}")
        try:
            torch.broadcast_shapes(z.shape[:-1], x.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"`z` and `x` must have batch shapes that broadcast, got {tuple(z.shape)} and {tuple(x.shape)}"
            ) from None

    def to(self, target: torch.dtype | torch.device | str) -> Decoder:
        """A copy of this decoder in another dtype or on another device; its module is copied, this one is unchanged.

        Parameters
        ----------
        target : torch.dtype, torch.device or str
            float32 or float64, or a device.

        Raises
        ------
        TypeError
            If `target` is neither, or is not a floating dtype; or if the wrapped callable is a plain function that
            names a module, which cannot be made to call a copy.

        Examples
        --------
        >>> import latentgeo as lg
        >>> lg.wrap(torch.nn.Tanh().eval(), 2, "deterministic").to(torch.float64)
        Decoder(2 → 2, Deterministic())
        """
        if isinstance(target, str):
            try:
                target = torch.device(target)
            except RuntimeError:
                raise ValueError(f'`target` must be a device, such as "cpu" or "cuda:0", got {target!r}') from None
        if isinstance(target, torch.dtype):
            if target not in (torch.float32, torch.float64):
                raise TypeError(f"target must be a floating dtype (float32 or float64) or a device; got {target}")
        elif not isinstance(target, torch.device):
            raise TypeError(f"target must be a floating dtype or a device; got {type(target).__name__}")
        core = self._core
        # one deepcopy of both, so that a bound method or partial keeps pointing at the module that is converted
        function, module = copy.deepcopy((core.function, core.module))
        if module is not None:
            if any(new is old for new in find_modules(function) for old in find_modules(core.function)):
                raise TypeError(
                    "a plain function over a module cannot be converted, since it would keep calling the old module; "
                    "convert the module before `wrap`, or wrap the module itself"
                )
            module.to(target)
        precision = None if core.precision is None else copy.deepcopy(core.precision).to(target)
        moved = core.replace(
            function=function, module=module, context=_convert(core.context, target), precision=precision
        )
        return self._rebuild(moved, self.precision_report)

    def _rebuild(self, core: Core, report: PrecisionReport | None) -> Decoder:
        return Decoder(core, self.latent_dim, self.data_shape, precision_report=report, entry=self._entry)

    _core: Core
    _entry: str

    def __repr__(self) -> str:
        shape = f" ({'×'.join(map(str, self.data_shape))})" if len(self.data_shape) > 1 else ""
        parts = [f"{self.latent_dim} → {self.data_dim}{shape}", repr(self.likelihood)]
        if self.precision is not None:
            parts[-1] = f"Gaussian with RBF precision of {self.precision.n_centers} centres"
        if self.dtype is not None:
            parts.append(f"{str(self.dtype).removeprefix('torch.')} on {self.device}")
        return f"Decoder({', '.join(parts)})"


def tensors(core: Core) -> list[Tensor]:
    """Every tensor that fixes a decoder's dtype and device: weights, buffers, precision, context."""
    found: list[Tensor] = []
    if core.module is not None:
        found += [*core.module.parameters(), *core.module.buffers()]
    if core.precision is not None:
        found += list(core.precision.buffers())
    if isinstance(core.context, Tensor):
        found.append(core.context)
    elif isinstance(core.context, Mapping):
        found += core.context.values()
    elif core.context is not None:
        found += core.context
    return found


def _attribute(core: Core, name: str) -> Any:
    found = tensors(core)
    if name == "dtype":
        found = [tensor for tensor in found if tensor.is_floating_point()]
    return getattr(found[0], name) if found else None


def _convert(context: Context, target: torch.dtype | torch.device) -> Context:
    def one(c: Tensor) -> Tensor:
        return c if isinstance(target, torch.dtype) and not c.is_floating_point() else c.to(target)

    if isinstance(context, Tensor):
        return one(context)
    if isinstance(context, Mapping):
        return {name: one(c) for name, c in context.items()}
    return context if context is None else tuple(one(c) for c in context)
