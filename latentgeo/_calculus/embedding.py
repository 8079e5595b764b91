"""`Embedding`: a map from latent space into a flat space, with derivatives that are right.

The one object that metrics and geodesics are computed from (Arvanitidis, Hansen, Hauberg 2018, Theorem 1: the expected
metric of a stochastic decoder is the pullback through such a map).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from . import paths
from .autograd import Pushforward, mark_constant
from .checks import check_integer, check_latent, check_like
from .errors import DerivativeWarning
from .paths import Function
from .probe import Report, probe

__all__ = ["DEFAULT_MAX_BYTES", "Embedding"]

DEFAULT_MAX_BYTES = 2**26
_ACCELERATOR_BYTES = 2**30  # there calls are dear and memory is quick; on a CPU small temporaries stay in its caches
_WEIGHTS = 6  # but every call reads all weights there: it is to carry rows worth so many times their bytes


class Embedding:
    """A row-wise function φ from latent codes to a flat space, carrying its probed derivative paths.

    Parameters
    ----------
    function : callable
        Maps a tensor (B, d) to (B, D); it is always called with exactly one batch axis.
    dim : int, optional
        Latent dimension d; None accepts any.
    name : str
        Used in messages and the repr.
    module : torch.nn.Module, optional
        The module whose parameters `function` uses; gives dtype, device and the parameters that gradients flow to.
    max_bytes : int, optional
        Memory budget of one batched call; larger batches are cut into chunks. None means 1 GiB on an accelerator; on
        a CPU 64 MiB, or six times the bytes of the module's weights if that is more, and at most 1 GiB.

    Raises
    ------
    EmbeddingError
        At the first derivative (or `probe`), if the function is random, couples rows or has no derivative.

    Examples
    --------
    >>> phi = Embedding(lambda z: torch.cat([z, z**2], dim=-1), dim=1)
    >>> phi.jacobian(torch.tensor([[3.0]]))
    tensor([[[1.],
             [6.]]])
    """

    _frozen = False

    def __init__(
        self,
        function: Function,
        *,
        dim: int | None = None,
        name: str = "phi",
        module: Module | None = None,
        max_bytes: int | None = None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"`function` must be callable, got {type(function).__name__}")
        check_integer(dim, "dim", optional=True)
        check_integer(max_bytes, "max_bytes", optional=True)
        self.function = function
        self.dim = dim
        self.name = name
        self.module = module
        self._max_bytes = max_bytes
        self._weight_bytes: int | None = None
        self._report: Report | None = None
        self._warned: set[str] = set()
        self._frozen = True

    def __setattr__(self, key: str, value: Any) -> None:
        if self._frozen:
            raise AttributeError(f"{type(self).__name__} is frozen; build a new one to change `{key}`")
        object.__setattr__(self, key, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Embedding:
        return self

    def __copy__(self) -> Embedding:
        return self

    def __repr__(self) -> str:
        d = "?" if self.dim is None else self.dim
        if self._report is None:
            return f"Embedding({self.name}: R^{d} -> R^?, not probed yet)"
        r = self._report
        blind = "" if r.smooth else ", piecewise linear"
        return f"Embedding({self.name}: R^{d} -> R^{r.out_dim}, first: {r.first}, second: {r.hessian}{blind})"

    # --- what the function is ------------------------------------------------------------------------------------

    def _tensors(self) -> Iterator[Tensor]:
        if self.module is not None:
            yield from self.module.parameters()
            yield from self.module.buffers()

    def parameters(self) -> Iterator[Tensor]:
        """The module's parameters that gradients can reach: none where the function switches reverse mode off."""
        if self.module is not None and (self._report is None or self._report.pullback == "reverse"):
            yield from self.module.parameters()

    @property
    def dtype(self) -> torch.dtype | None:
        """Floating dtype of the module's weights; None if there are none."""
        return next((t.dtype for t in self._tensors() if t.is_floating_point()), None)

    @property
    def device(self) -> torch.device | None:
        """Device of the module's weights; None if there are none."""
        return next((t.device for t in self._tensors()), None)

    @property
    def max_bytes(self) -> int:
        """Memory budget of one batched call."""
        if self._max_bytes is not None:
            return self._max_bytes
        device = self.device
        if device is not None and device.type != "cpu":
            return _ACCELERATOR_BYTES
        if self._weight_bytes is None:  # counted once: every call asks
            object.__setattr__(self, "_weight_bytes", sum(t.numel() * t.element_size() for t in self._tensors()))
        weights = self._weight_bytes or 0
        return min(max(DEFAULT_MAX_BYTES, _WEIGHTS * weights), _ACCELERATOR_BYTES)

    @property
    def report(self) -> Report | None:
        """What the probe found; None before the first derivative."""
        return self._report

    def probe(self, z: Tensor | None = None) -> Report:
        """Check the function at a few codes (standard normal ones by default) and choose derivative paths, once."""
        report = self._report
        if report is None:
            if z is None:
                if self.dim is None:
                    raise ValueError("`z` must be given to probe an embedding of unknown latent dimension")
                z = _normal_codes(self.dim).to(dtype=self.dtype or torch.float64, device=self.device)
            self._check(z)
            self._leave_train_mode(everywhere=True)
            report = probe(self._call, z.detach(), self.name)
            object.__setattr__(self, "_report", report)
        return report

    def out_dim(self, z: Tensor) -> int:
        """Number of output coordinates D, for inputs like `z`."""
        if self._report is None and z.numel() == 0:
            z = _normal_codes(z.shape[-1]).to(z)
        report = self.probe(z)
        if self.dim is not None:
            return report.out_dim
        with torch.no_grad():  # D may depend on d
            return self._call(_normal_codes(z.shape[-1])[:1].to(z)).shape[-1]

    def _path(self, kind: str, table: Mapping[str, Callable[..., Tensor]], z: Tensor) -> Callable[..., Tensor]:
        """The chosen path for one kind of derivative; says so, once, if it is only approximate."""
        report = self.probe(z)
        name: str = getattr(report, kind)
        if "differences" in name and kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(
                f"{self.name}: {kind} derivatives are taken by {name}, which is less accurate, because no exact path "
                f"is right: {'; '.join(report.rejected)}. Where the decoder turns gradients off (torch.no_grad, "
                "inference_mode, NumPy), let it keep them",
                DerivativeWarning,
                stacklevel=5,
            )
        return table[name]

    def _check(self, z: Tensor, name: str = "z") -> None:
        check_latent(z, self.dim, self.dtype, self.device, name=name)
        self._leave_train_mode()

    def _leave_train_mode(self, *, everywhere: bool = False) -> None:
        """Put the module in eval mode, saying so; `everywhere` looks at all its parts, which takes longer."""
        module = self.module
        if module is None or not (module.training or (everywhere and any(part.training for part in module.modules()))):
            return
        warnings.warn(
            f"{self.name}: the module was in train mode; it was put in eval mode, because batch normalisation and "
            "dropout make a metric random. Call .eval() yourself to silence this",
            UserWarning,
            stacklevel=5,
        )
        module.eval()

    def _call(self, z: Tensor) -> Tensor:
        # a copy, because a decoder may work in place on what it is given
        return self.function(z.clone())

    def _derived(self, z: Tensor) -> Tensor:
        """The function as derivatives are taken of it."""
        if self._report is None or not self._report.plain:
            return self._call(z)
        with paths.plain_kernels():
            return self._call(z)

    def chunks(self, z: Tensor, copies: int) -> Iterator[slice]:
        """Row slices such that `copies` forward passes' worth of intermediates stay within the byte budget."""
        row_bytes = self._report.row_bytes if self._report is not None else 0
        rows = max(1, self.max_bytes // max(1, row_bytes * copies))
        yield from (slice(i, i + rows) for i in range(0, z.shape[0], rows))

    # --- values and derivatives ------------------------------------------------------------------------------------

    def __call__(self, z: Tensor) -> Tensor:
        """φ(z): codes (*batch, d) to (*batch, D), differentiable by ordinary autograd."""
        self._check(z)
        flat = z.reshape(-1, z.shape[-1])
        if flat.shape[0] == 0:
            return z.new_empty(*z.shape[:-1], self.out_dim(z))
        if torch.is_grad_enabled():
            y = self._call(flat)
        else:
            parts = [self._call(flat[s]) for s in self.chunks(flat, 2)]
            y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y.reshape((*z.shape[:-1], y.shape[-1]))

    def jacobian(self, z: Tensor) -> Tensor:
        """Jacobian of φ, (*batch, D, d); its backward is exact whatever path computed it."""
        return self.pushforward_basis(z).movedim(0, -1)

    def pushforward_basis(self, z: Tensor) -> Tensor:
        """Columns of the Jacobian first, (d, *batch, D): the layout in which they are computed."""
        d = z.shape[-1]
        eye = torch.eye(d, dtype=z.dtype, device=z.device)
        return self.jvp_stack(z, eye.reshape(d, *(1,) * (z.ndim - 1), d).expand(d, *z.shape))

    def jvp(self, z: Tensor, v: Tensor) -> Tensor:
        """Jv for vectors v (*batch, d), shape (*batch, D)."""
        check_like(v, z, "v")
        z, v = torch.broadcast_tensors(z, v)
        return self.jvp_stack(z, v[None])[0]

    def jvp_stack(self, z: Tensor, V: Tensor) -> Tensor:
        """`jvp` for m stacked tangents at once: V (m, *batch, d) to (m, *batch, D)."""
        self._check(z)
        if z.numel():
            self.probe(z)
        # forward mode takes no rows that share memory, as those of expanded codes do
        flat, V = z.reshape(-1, z.shape[-1]).contiguous(), V.reshape(V.shape[0], -1, V.shape[-1])
        if flat.shape[0] == 0:
            return z.new_empty(V.shape[0], *z.shape[:-1], self.out_dim(z))
        weights = [p for p in self.parameters() if p.requires_grad]
        if torch.is_grad_enabled() and (flat.requires_grad or V.requires_grad or weights):
            out = Pushforward.apply(self, flat, V, *weights)
        else:
            path = self._path("first", paths.FIRST, z)
            with torch.no_grad():
                parts = [path(self._derived, flat[s], V[:, s]) for s in self.chunks(flat, 2 * (1 + V.shape[0]))]
            out = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return out.reshape((V.shape[0], *z.shape[:-1], out.shape[-1]))

    def vjp(self, z: Tensor, w: Tensor) -> Tensor:
        """Jᵀw for covectors w (*batch, D), shape (*batch, d). Not differentiable."""
        return self.vjp_stack(z, w[None])[0]

    def vjp_stack(self, z: Tensor, W: Tensor) -> Tensor:
        """`vjp` for m stacked covectors at once: W (m, *batch, D) to (m, *batch, d)."""
        self._check(z)
        flat, rows = z.reshape(-1, z.shape[-1]), W.reshape(W.shape[0], -1, W.shape[-1])
        if flat.shape[0] == 0:
            return z.new_empty(W.shape[0], *z.shape)
        path = self._path("pullback", paths.PULLBACK, z)
        out = [path(self._derived, flat[s].detach(), rows[:, s].detach()) for s in self.chunks(flat, 3)]
        return mark_constant(torch.cat(out, 1), "vjp", z, W).reshape(W.shape[0], *z.shape)

    def hvp(self, z: Tensor, w: Tensor, v: Tensor) -> Tensor:
        """Hessian of ⟨w, φ⟩ times v, shape (*batch, d); w (*batch, D) is held fixed. Not differentiable."""
        return mark_constant(self._hessian(z, w, v[None])[0], "hvp", z, w, v)

    def hvp_stack(self, z: Tensor, W: Tensor, V: Tensor) -> Tensor:
        """`hvp` for m stacked pairs at once: W (m, *batch, D), V (m, *batch, d) to (m, *batch, d)."""
        return mark_constant(self._hessian(z, W, V), "hvp_stack", z, W, V)

    def hessian(self, z: Tensor, w: Tensor) -> Tensor:
        """Hessian of the scalar ⟨w, φ⟩, shape (*batch, d, d), symmetrised. Not differentiable."""
        d = z.shape[-1]
        eye = torch.eye(d, dtype=z.dtype, device=z.device)
        H = self._hessian(z, w, eye.reshape(d, *(1,) * (z.ndim - 1), d).expand(d, *z.shape)).movedim(0, -1)
        return mark_constant(0.5 * (H + H.mT), "hessian", z, w)

    def together(
        self, z: Tensor, covector: Callable[[Tensor], Tensor], *, hessian: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Jᵀw (B, n, d), J (B, n, d, D) and the Hessian of ⟨w, φ⟩ (B, n, d, d) at curves z (B, n, d).

        w = covector(φ(z)) is held fixed. Not differentiable, and not cut into chunks: the caller keeps the batch small.
        """
        self._check(z)
        report, d = self.probe(z), z.shape[-1]
        if hessian and report.together:
            flat = z.detach().reshape(-1, d)

            def w(y: Tensor) -> Tensor:
                return covector(y.reshape(*z.shape[:-1], -1)).reshape(y.shape)

            g, J, H = paths.together(self._derived, flat, w)
            return g.reshape(z.shape), J.reshape(*z.shape, -1), (0.5 * (H + H.mT)).reshape(*z.shape, d)
        with torch.no_grad():
            lowered = covector(self(z))
            J = self.pushforward_basis(z).movedim(0, -2).contiguous()
            g = torch.einsum("...iD,...D->...i", J, lowered)
            H = self.hessian(z, lowered) if hessian else z.new_zeros(*z.shape, d)
        return g, J, H

    def pull(self, z: Tensor, covector: Callable[[Tensor], Tensor]) -> Tensor:
        """The Jᵀw (B, n, d) of `together` alone."""
        self._check(z)
        if self.probe(z).pullback != "reverse":
            with torch.no_grad():
                return self.vjp(z, covector(self(z)))
        with torch.enable_grad():
            x = z.detach().reshape(-1, z.shape[-1]).requires_grad_()
            y = self._derived(x)
            w = covector(y.detach().reshape(*z.shape[:-1], -1)).reshape(y.shape)
            (g,) = torch.autograd.grad(y, x, w)
        return g.reshape(z.shape)

    def second(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """φ''[u, v], the second derivative along two vectors, shape (*batch, D). Not differentiable."""
        path = self._path("second", paths.SECOND, z)
        z, u, v = torch.broadcast_tensors(z, u, v)
        flat, u, v = (t.detach().reshape(-1, z.shape[-1]).contiguous() for t in (z, u, v))
        out = [path(self._derived, flat[s], u[s], v[s]) for s in self.chunks(flat, 8)]
        y = torch.cat(out) if out else z.new_empty(0, self.out_dim(z))
        return mark_constant(y.reshape((*z.shape[:-1], y.shape[-1])), "second", z, u, v)

    def bends(self, z: Tensor, v: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
        """J (d, B, D) and φ''[v, u] for m vectors U (m, B, d) at codes (B, d): (m, B, D). Not differentiable.

        From one graph where reverse mode is right, for less than half the cost of `pushforward_basis` and `second`.
        """
        self._check(z)
        report = self.probe(z)
        if not (report.together and report.second == "triple reverse") or z.shape[0] == 0:
            m = U.shape[0]
            return self.pushforward_basis(z), self.second(z.expand(m, *z.shape), v.expand(m, *v.shape), U)
        z, v, U = (t.detach().contiguous() for t in (z, v, U))
        parts = [paths.bends(self._derived, z[s], v[s], U[:, s]) for s in self.chunks(z, 8 + 2 * U.shape[0])]
        J, bends = (torch.cat(each, 1) for each in zip(*parts, strict=True))
        return J, bends

    def weight_gradients(self, z: Tensor, W: Tensor, V: Tensor, weights: tuple[Tensor, ...]) -> list[Tensor | None]:
        """Gradient of Σ ⟨w, Jv⟩ with respect to the module's parameters."""
        approximate = self._report is not None and "differences" in self._report.hessian
        path = paths.weight_differences if approximate else paths.weight_gradients
        total: list[Tensor | None] = [None] * len(weights)
        for w, v in zip(W, V, strict=True):
            parts = path(self._derived, z.detach(), w, v, weights)
            total = [b if a is None else (a if b is None else a + b) for a, b in zip(total, parts, strict=True)]
        return total

    def _hessian(self, z: Tensor, w: Tensor, V: Tensor) -> Tensor:
        """Hessian of ⟨w, φ⟩ along m stacked tangents: w (*batch, D) or (m, *batch, D), V (m, *batch, d)."""
        self._check(z)
        m, d = V.shape[0], z.shape[-1]
        w = w if w.ndim == V.ndim else w.expand(m, *w.shape)
        flat, W, V = z.detach().reshape(-1, d).contiguous(), w.detach(), V.detach().reshape(m, -1, d)
        W = W.reshape(m, flat.shape[0], W.shape[-1])
        if flat.shape[0] == 0:
            return z.new_empty(m, *z.shape)
        path = self._path("hessian", paths.HESSIAN, z)
        with torch.enable_grad():  # without it fused backward kernels are used, which have no forward mode
            out = [path(self._derived, flat[s], W[:, s], V[:, s]).detach() for s in self.chunks(flat, 4 * (1 + m))]
        return torch.cat(out, 1).reshape(m, *z.shape)


def _normal_codes(d: int) -> Tensor:
    return torch.randn(4, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
