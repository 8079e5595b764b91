"""`Plane`: a flat piece of a latent space of any dimension, so that maps can be drawn of more than two dimensions.

The principal plane is spanned at the Fréchet mean by the first two directions of principal geodesic analysis
(Fletcher, Lu, Pizer, Joshi, IEEE TMI 23, 2004).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

if TYPE_CHECKING:
    from latentgeo.metrics import Metric

__all__ = ["Plane", "coordinate"]

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Plane:
    """An affine plane in latent space: `origin` + s `first` + t `second`.

    Make one with `Plane.axes`, `Plane.through` or `Plane.principal`. Points off the plane are shown where they fall on
    it at a right angle (in latent coordinates).

    Parameters
    ----------
    origin : tuple of float, of length d
    first, second : tuple of float, of length d
        Orthonormal directions, in latent coordinates.
    labels : tuple of str
        Titles of the two axes, without units.
    about : str
        What plane it is, as a figure's title says it.

    Raises
    ------
    ValueError
        If the lengths differ, a number is not finite or the directions are not orthonormal.

    Examples
    --------
    >>> plane = Plane.axes(0, 2, at=[1.0, 2.0, 3.0, 4.0])
    >>> plane.lift([[5.0, 6.0]])
    array([[5., 2., 6., 4.]])
    >>> plane.project([[5.0, 5.0, 6.0, 8.0]])
    (array([[5., 6.]]), array([5.]))
    """

    origin: tuple[float, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]
    labels: tuple[str, str] = ("s", "t")
    about: str = "a plane"

    def __post_init__(self) -> None:
        sizes = {len(self.origin), len(self.first), len(self.second)}
        if len(sizes) != 1 or self.dim < 2:
            raise ValueError(f"`origin`, `first` and `second` must have the same length d >= 2, got {sorted(sizes)}")
        basis = self._basis
        if not (np.isfinite(self.origin).all() and np.allclose(basis @ basis.T, np.eye(2), atol=1e-6)):
            raise ValueError(f"`origin` must be finite, `first` and `second` orthonormal, got {self!r}")

    @property
    def dim(self) -> int:
        """Dimension d of the latent space that the plane lies in."""
        return len(self.origin)

    @property
    def _basis(self) -> NDArray[np.float64]:
        return np.array([self.first, self.second], dtype=np.float64)

    @classmethod
    def axes(cls, i: int, j: int, *, at: ArrayLike | Tensor) -> Plane:
        """The plane of two latent coordinates, with the others as they are in one code.

        Parameters
        ----------
        i, j : int
            Positions of the coordinates, from 0.
        at : array of shape (d,)
            The code that gives the other coordinates.
        """
        code = _code(at, "at")
        for name, axis in (("i", i), ("j", j)):
            if not 0 <= axis < len(code) or i == j:
                raise ValueError(f"`{name}` must be one of two different positions in 0 … {len(code) - 1}, got {axis}")
        origin, eye = code.copy(), np.eye(len(code))
        origin[[i, j]] = 0.0
        labels = (coordinate(i), coordinate(j))
        about = f"the plane of {labels[0]} and {labels[1]}" + (", the others fixed" if len(code) > 2 else "")
        return cls(_tuple(origin), _tuple(eye[i]), _tuple(eye[j]), labels, about)

    @classmethod
    def through(cls, a: ArrayLike | Tensor, b: ArrayLike | Tensor, c: ArrayLike | Tensor) -> Plane:
        """The plane through three codes: a at the origin, b on the first axis, c above it.

        Parameters
        ----------
        a, b, c : array of shape (d,)
            Not on one line.
        """
        start, towards, above = _code(a, "a"), _code(b, "b"), _code(c, "c")
        if not len(start) == len(towards) == len(above):
            raise ValueError(
                f"`a`, `b` and `c` must have the same length, got {len(start)}, {len(towards)} and {len(above)}"
            )
        first, second = _orthonormal(towards - start, above - start, "`a`, `b` and `c` must not lie on one line")
        labels = ("from the first code to the second", "towards the third")
        return cls(_tuple(start), _tuple(first), _tuple(second), labels, "the plane through three codes")

    @classmethod
    def principal(cls, metric: Metric, codes: ArrayLike | Tensor, *, n_codes: int = 60, **options: Any) -> Plane:
        """The plane along which geodesics from the codes' Fréchet mean explain the most variance.

        It touches the geodesics of the first two components of `GeodesicPCA` at the mean, and is flat in latent
        coordinates: geodesics leave it.

        Parameters
        ----------
        metric : Metric
        codes : array of shape (n, d)
        n_codes : int
            At most this many of them are used, evenly picked: each costs some geodesics.
        **options
            Of `GeodesicPCA`: `graph`, `solver`, `tol`, `max_iter`; by default its geodesics and its mean are rough, as
            a picture may have them.
        """
        from sklearn.exceptions import ConvergenceWarning

        from latentgeo.geodesics import Newton
        from latentgeo.learn import GeodesicPCA

        Z = np.asarray(codes.detach().cpu() if isinstance(codes, Tensor) else codes)
        if Z.ndim != 2 or len(Z) < 3 or Z.shape[1] < 2:
            raise ValueError(f"`codes` must have shape (n, d) with n >= 3 and d >= 2, got {Z.shape}")
        if n_codes < 3:
            raise ValueError(f"`n_codes` must be at least 3, got {n_codes}")
        Z = Z[np.linspace(0, len(Z) - 1, min(n_codes, len(Z))).round().astype(int)]
        # A picture needs no exact mean, nor lengths to a thousandth.
        options = {"solver": Newton(n_points=17, max_points=65, rtol=0.05), "tol": 0.02, "max_iter": 10, **options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            pca = GeodesicPCA(metric, 2, **options).fit(Z)
        share, (one, two) = pca.explained_variance_ratio_, pca.components_.astype(np.float64)
        first, second = _orthonormal(one, two, "the codes must spread in two directions")
        labels = (f"1st principal direction, {share[0]:.0%}", f"2nd principal direction, {share[1]:.0%}")
        about = f"the principal geodesic plane ({share.sum():.0%} of the variance)"
        return cls(_tuple(pca.mean_), _tuple(first), _tuple(second), labels, about)

    def lift(self, points: ArrayLike) -> NDArray[np.float64]:
        """Latent codes, shape (*batch, d), of coordinates on the plane, shape (*batch, 2)."""
        lifted: NDArray[np.float64] = np.asarray(self.origin) + np.asarray(points, dtype=np.float64) @ self._basis
        return lifted

    def project(self, codes: ArrayLike | Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coordinates on the plane, shape (*batch, 2), of codes (*batch, d), and how far off it they are (*batch,).

        Both in latent units.
        """
        Z = np.asarray(codes.detach().cpu() if isinstance(codes, Tensor) else codes, dtype=np.float64)
        if Z.shape[-1:] != (self.dim,):
            raise ValueError(f"`codes` must have {self.dim} latent coordinates, as the plane has, got shape {Z.shape}")
        away = Z - np.asarray(self.origin)
        flat = away @ self._basis.T
        return flat, np.linalg.norm(away - flat @ self._basis, axis=-1)

    def directions(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The two directions as tangent vectors at codes z, each of z's shape."""
        first, second = torch.as_tensor(self._basis).to(z)
        return first.expand_as(z), second.expand_as(z)


def labels_of(plane: Plane | None) -> tuple[str, str]:
    """Titles of a map's axes, without units."""
    return (coordinate(0), coordinate(1)) if plane is None else plane.labels


def coordinate(index: int) -> str:
    """Name of a latent coordinate, counted from 0 here and from 1 in its name.

    Examples
    --------
    >>> coordinate(0), coordinate(11)
    ('z₁', 'z₁₂')
    """
    return "z" + str(index + 1).translate(_SUBSCRIPTS)


def _code(code: ArrayLike | Tensor, name: str) -> NDArray[np.float64]:
    z = np.asarray(code.detach().cpu() if isinstance(code, Tensor) else code, dtype=np.float64)
    if z.ndim != 1 or len(z) < 2 or not np.isfinite(z).all():
        raise ValueError(f"`{name}` must be one finite code of shape (d,) with d >= 2, got shape {z.shape}")
    return z


def _orthonormal(u: NDArray[Any], v: NDArray[Any], message: str) -> tuple[NDArray[Any], NDArray[Any]]:
    length = np.linalg.norm(u)
    if length > 0:
        first = u / length
        rest = v - (v @ first) * first
        rest = rest - (rest @ first) * first  # once more: rounding
        height = np.linalg.norm(rest)
        if height > 1e-9 * np.linalg.norm(v):
            return first, rest / height
    raise ValueError(message)


def _tuple(x: NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in x)
