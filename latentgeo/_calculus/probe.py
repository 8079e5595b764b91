"""The probe: find out, once, which derivative paths are right for a function.

A function is called on a handful of rows. It must return the same numbers twice, treat rows independently, and have
derivatives that agree with extrapolated differences; the cheapest path that agrees is chosen for each kind.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import differences as fd
from . import paths
from .errors import DerivativeWarning, EmbeddingError, RankWarning
from .paths import Function
from .rows import Watch, check_rows, custom_gradients, evaluate, points
from .smoothness import is_smooth

__all__ = ["Report", "probe"]

_LARGE = 2**17  # bytes per row of a decoder that is too dear for many looks
# Relative disagreement allowed with differences, beyond their own error, and with reverse mode; by dtype.
_AGREES = {torch.float64: (1e-6, 1e-7), torch.float32: (1e-2, 5e-3)}


@dataclasses.dataclass(frozen=True)
class Report:
    """What the probe found.

    Attributes
    ----------
    first, pullback, hessian, second : str
        Chosen path of Jv, of Jᵀw, of Hessian-vector products of ⟨w, φ⟩, and of φ''[u, v].
    smooth : bool
        False if the second derivative misses curvature that sits in kinks (ReLU): no minimality certificate then.
    out_dim : int
        Number of output coordinates D.
    row_bytes : int
        Bytes that one forward pass allocates per row, for the memory budget.
    plain : bool
        Whether derivatives are taken with plain instead of fused kernels of attention.
    together : bool
        Whether reverse mode gives first and second derivatives in one go.
    rejected : tuple of str
        Paths that failed, with the reason.
    """

    first: str
    pullback: str
    hessian: str
    second: str
    smooth: bool
    out_dim: int
    row_bytes: int
    plain: bool = False
    together: bool = False
    rejected: tuple[str, ...] = ()


Reference = Callable[[float], tuple[Tensor, Tensor]]  # from a factor on the steps: values (m, B, k), errors (m, B)


class _Choice:
    """Tries paths on fixed arguments against a reference with error bars."""

    def __init__(self, kind: str, arguments: tuple[Any, ...], reference: Reference, rejected: list[str]) -> None:
        self.kind, self.arguments, self.reference, self.rejected = kind, arguments, reference, rejected
        self.references = [reference(1.0)]
        self.want = self.references[0][0]
        self.results: dict[str, Tensor] = {}
        self.believed = False
        self.loose, self.tight = _AGREES[self.want.dtype]
        self.eps = torch.finfo(self.want.dtype).eps

    def _relative(self, got: Tensor, want: Tensor, slack: Tensor) -> Tensor:
        """Relative distance, (m, B), of (m, B, k) derivatives beyond a slack (m, B)."""
        want, slack = want.double(), slack.double()
        if got.shape != want.shape or not bool(got.isfinite().all()):
            return torch.full_like(slack, torch.inf)
        gap = ((got.double() - want).norm(dim=-1) - slack).clamp_min(0.0)
        # relative to the size of the row's derivatives along all tangents: one of them may vanish
        size = torch.maximum(want.norm(dim=-1), 1e-2 * want.norm(dim=-1).amax(0)).clamp_min(1e-300)
        return (gap / size).nan_to_num(0.0, torch.inf)

    def _from_differences(self, got: Tensor) -> float:
        """Worst relative distance from the differences; from finer ones where the first contradict.

        Long steps can agree with each other by accident on a function that oscillates between them.
        """
        want, error = self.references[0]
        best = self._relative(got, want, 10 * error)
        for level in (1, 2):
            if float(best.amax()) <= self.loose:
                break
            if len(self.references) <= level:
                self.references.append(self.reference(0.1**level))
            want, error = self.references[level]
            resolved = error < 3e-2 * want.norm(dim=-1)
            best = torch.where(resolved, torch.minimum(best, self._relative(got, want, 10 * error)), best)
        return float(best.amax())

    def agrees(self, name: str, path: Callable[..., Tensor]) -> bool:
        """Whether a path runs and agrees with the differences."""
        try:
            self.results[name] = path(*self.arguments).detach()
            error = self._from_differences(self.results[name])
        except Exception as reason:  # any failure of a foreign function only disqualifies this path
            text = (str(reason).strip().splitlines() or [""])[0][:120]
            self.rejected.append(f"{self.kind} by {name}: {type(reason).__name__}: {text}")
            return False
        if error > self.loose:
            self.rejected.append(f"{self.kind} by {name}: differs from central differences by {error:.1e}")
        return error <= self.loose

    def pick(self, candidates: dict[str, Callable[..., Tensor]], trusted: str, *, kinks: bool = False) -> str:
        """The first candidate that agrees with the differences and, to round-off, with reverse mode.

        `trusted` names the path that uses reverse mode only; it is believed once it agrees with the differences, and
        tells a forward-mode path that is a little wrong from one that is right. The last candidate is the differences.
        With `kinks`, which may be too dense for differences to look between, it is enough that the two modes agree.
        """
        names = list(candidates)
        self.believed = believed = trusted in candidates and self.agrees(trusted, candidates[trusted])
        for name in names[:-1]:
            if name == trusted:
                if believed:
                    return name
            elif self.agrees(name, candidates[name]) and (not believed or self._as_trusted(name, trusted)):
                return name
        if kinks and trusted in self.results:
            for name in names[:-1]:
                if name != trusted and name in self.results and self._as_trusted(name, trusted):
                    return name
        return names[-1]

    def _as_trusted(self, name: str, trusted: str) -> bool:
        exact = self.results[trusted]
        rounding = (1e3 * self.eps * exact.norm(dim=-1).amax()).expand(exact.shape[:2])
        gap = float(self._relative(self.results[name], exact, rounding).amax())
        if gap > self.tight:
            self.rejected.append(f"{self.kind} by {name}: differs from reverse mode by {gap:.1e}")
        return gap <= self.tight


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a foreign function's warnings about what it is put through here; pass on those of this package."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # vmap without a rule for some operation is slower than a loop: not a path to take
        warnings.filterwarnings("error", message="There is a performance drop")
        yield
    for item in caught:
        if issubclass(item.category, (DerivativeWarning, RankWarning)):
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)


def probe(f: Function, z: Tensor, name: str) -> Report:
    """Check `f` on a few rows of `z` and choose its derivative paths.

    Raises
    ------
    EmbeddingError
        If `f` returns no floating-point tensor of shape (B, D) and dtype of `z`, is random, couples the rows of a
        batch, is not finite, or is constant around every code though not between them (quantised).
    """
    with _quiet():
        return _probe(f, z, name)


def _probe(f: Function, z: Tensor, name: str) -> Report:
    x = points(f, z, name)
    y = evaluate(f, x, name)
    check_rows(f, x, y, name)
    with Watch() as seen, torch.no_grad():
        f(x)
    if seen.fused:
        f = _plain(f)
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(x)

    V, W = normal(2, *x.shape), normal(2, *y.shape)
    V = V / V.norm(dim=-1, keepdim=True)
    rejected: list[str] = []
    choice = _first(f, x, y, V, rejected, name)
    with torch.no_grad():  # as they will be used: PyTorch's formulas differ with the gradient mode
        first = choice.pick(paths.FIRST, "double backward")
    JV = choice.results.get(first, choice.want)
    pullback, gradient = _pullback(f, x, V, W, JV, rejected)
    hessian, bend, reverse = _hessian(f, gradient, pullback, x, W, V, rejected, seen.kinks and not seen.detached)
    second = _second(f, x, V, W, hessian, bend, rejected)
    row_bytes = max(seen.total // x.shape[0], 4 * y.shape[-1] * y.element_size())
    smooth = _smooth(f, x, V[0], first, second, row_bytes)
    together = choice.believed and reverse
    return Report(
        first, pullback, hessian, second, smooth, y.shape[-1], row_bytes, seen.fused, together, tuple(rejected)
    )


def _smooth(f: Function, x: Tensor, v: Tensor, first: str, second: str, row_bytes: int) -> bool:
    approximate = "differences" in second

    def along(z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if approximate:
            return fd.along(f, z, v)
        with torch.no_grad():
            slope = paths.FIRST[first](f, z, v[None])[0]
        return slope, paths.SECOND[second](f, z, v, v).detach()

    # differences are dear, and in single precision too coarse to look very close
    large = row_bytes > _LARGE  # so many units that a kink, if there are any, is on every line
    rows = slice(1) if large else slice(None, None, 2) if approximate else slice(None)
    levels = 3 if not approximate else 2 if x.dtype == torch.float64 else 1
    try:
        return is_smooth(along, x[rows], v[rows], levels=levels, points=17 if large or approximate else 33)
    except Exception:  # a line may leave the function's domain
        return True


def _plain(f: Function) -> Function:
    def plain(z: Tensor) -> Tensor:
        with paths.plain_kernels():
            return f(z)

    return plain


def _stacked(f: Function, x: Tensor, V: Tensor) -> Callable[[Tensor], Tensor]:
    """Central difference quotients of `f` along all tangents in one call: steps (B, 1) to (m, B, D)."""

    def quotient(h: Tensor) -> Tensor:
        both = torch.cat([x + h * V, x - h * V]).flatten(0, 1)
        ahead, behind = f(both).unflatten(0, (2 * V.shape[0], x.shape[0])).chunk(2)
        return (ahead - behind) / (2 * h)

    return quotient


def _first(f: Function, x: Tensor, y: Tensor, V: Tensor, rejected: list[str], name: str) -> _Choice:
    size = y.norm(dim=-1)

    def reference(factor: float) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return fd.richardson(_stacked(f, x, V), factor * fd.first_step(x), size)

    choice = _Choice("Jv", (f, x, V), reference, rejected)
    spread = (y - y[:1]).norm(dim=-1).amax()
    if not choice.want.any() and bool(spread > 1e3 * torch.finfo(x.dtype).eps * size.amax()):
        raise EmbeddingError(
            f"{name}: has no useful derivative: it is constant around every code tried, though it differs between them "
            "(rounding, argmax or vector quantisation); wrap what comes after the quantisation, or a smooth stand-in"
        )
    return choice


def _pullback(
    f: Function, x: Tensor, V: Tensor, W: Tensor, JV: Tensor, rejected: list[str]
) -> tuple[str, Callable[..., Tensor]]:
    """Jᵀw, held against Jv through <Jᵀw, v> = <w, Jv>."""

    def along(path: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *arguments: (path(*arguments) * V).sum(-1, keepdim=True)

    noise = 100 * torch.finfo(x.dtype).eps * W.norm(dim=-1) * JV.norm(dim=-1)
    want = (W * JV).sum(-1, keepdim=True)
    choice = _Choice("Jᵀw", (f, x, W), lambda factor: (want, noise), rejected)
    name = choice.pick({key: along(path) for key, path in paths.PULLBACK.items()}, "reverse")
    return name, paths.PULLBACK[name]


def _hessian(
    f: Function,
    gradient: Callable[..., Tensor],
    pullback: str,
    x: Tensor,
    W: Tensor,
    V: Tensor,
    rejected: list[str],
    kinks: bool,
) -> tuple[str, Tensor | None, bool]:
    """Hessian-vector products of <w, f>, their values at (W, V) if computed, and whether reverse mode is right."""
    if pullback != "reverse":
        name = "differences of forward" if pullback == "forward" else "finite differences"
        return name, None, False

    def quotient(h: Tensor) -> Tensor:
        both = torch.cat([x + h * V, x - h * V]).flatten(0, 1)
        slopes = gradient(f, both, torch.cat([W, W]).flatten(0, 1)[None])[0].unflatten(0, (2 * len(V), len(x)))
        ahead, behind = slopes.chunk(2)
        return (ahead - behind) / (2 * h)

    slope = gradient(f, x, W).norm(dim=-1)

    def reference(factor: float) -> tuple[Tensor, Tensor]:
        want, error = fd.richardson(quotient, factor * fd.first_step(x), slope)
        # where the function bends little, second derivatives are small beside what they are computed from
        return want, error + 1e2 * torch.finfo(x.dtype).eps * slope

    choice = _Choice("Hessian", (f, x, W, V), reference, rejected)
    kinds = {k: path for k, path in paths.HESSIAN.items() if "forward" not in k or "over" in k}
    del kinds["finite differences"]
    # first derivatives are known to be right here, and PyTorch's own formulas of second ones are where two modes agree
    kinks = kinks and not custom_gradients(f(x.clone().requires_grad_()))
    name = choice.pick(kinds, "reverse over reverse", kinks=kinks)
    return name, choice.results.get(name, choice.want), choice.believed


def _second(
    f: Function, x: Tensor, V: Tensor, W: Tensor, hessian: str, bend: Tensor | None, rejected: list[str]
) -> str:
    """f''[u, v], held against the chosen Hessian-vector product."""
    if bend is None:
        return "differences of forward" if hessian == "differences of forward" else "finite differences"
    if "differences" in hessian:
        return "finite differences"
    u, v = V
    want = torch.stack([(bend[0] * v).sum(-1), (bend[1] * u).sum(-1)])[..., None]
    floor = 1e3 * torch.finfo(x.dtype).eps * paths.reverse(f, x, W).norm(dim=-1)
    choice = _Choice("f''[u, v]", (f, x, u, v), lambda factor: (want, floor), rejected)

    def path(f: Function, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (W * paths.triple_reverse(f, x, u, v)).sum(-1, keepdim=True)

    return choice.pick({"triple reverse": path, "finite differences": path}, "triple reverse")
