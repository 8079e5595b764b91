"""`Ensemble`: several decoders as one, whose geometry is the expectation over them.

For decoders φ₁, …, φ_S drawn from one distribution, the mean of their metrics estimates the expected metric
E[JᵀJ] = E[J]ᵀE[J] + Cov(J) of a random decoder (Tosi, Hauberg, Vellido, Lawrence 2014, arXiv:1411.7432): where the
members disagree, space is longer. It is the pullback through [φ₁, …, φ_S]/√S, one embedding like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from latentgeo._calculus import Embedding
from latentgeo.decoders.decoder import Decoder


class Stacked:
    """[φ₁, …, φ_S]·scale as one function (B, d) → (B, S·D): plain and picklable, as embeddings need it."""

    def __init__(self, functions: Sequence[Callable[[Tensor], Tensor]], scale: float) -> None:
        self.functions = tuple(functions)
        self.scale = scale

    def __call__(self, z: Tensor) -> Tensor:
        return torch.cat([function(z) for function in self.functions], dim=-1) * self.scale


class StackedAmbient:
    """The diagonal of the members' ambient metrics at stacked coordinates (…, S·K), each weighed by `weight`."""

    def __init__(self, parts: Sequence[Callable[[Tensor], Tensor]], weight: float) -> None:
        self.parts = tuple(parts)
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        blocks = x.chunk(len(self.parts), dim=-1)
        return torch.cat([part(block) for part, block in zip(self.parts, blocks, strict=True)], dim=-1) * self.weight


class Ensemble(Decoder):
    """Several decoders of the same codes and data as one decoder; its metrics are the means of theirs.

    It is what every metric, solver and picture takes in a decoder's place: `expected_embedding`, `fisher_embedding`
    and the others are the members' own, stacked and divided by √S.

    Parameters
    ----------
    decoders : iterable of Decoder
        S members, as made by `wrap`, `fit_precision` or `load(...).decoder`, with the same latent dimension, shape of
        data, kind of likelihood, dtype and device. They must share one latent space: train them together (one encoder,
        S decoders), since codes of VAEs trained apart have nothing to do with each other.

    Attributes
    ----------
    members : tuple of Decoder
        The S decoders.
    likelihood : Likelihood
        That of the first member.

    Raises
    ------
    TypeError, ValueError
        If there is no member, one is not a `Decoder`, or two of them differ in what must be the same.

    Notes
    -----
    As a distribution it is the equal mixture of its members: `mean` and `std` are the mixture's, so that `std` includes
    their disagreement, and `log_prob` is its logarithm. `save` takes the members one by one. Its cost is S members'.
    Energies whose ends are drawn from different members (Syrota, Moreno-Muñoz, Hauberg 2024, arXiv:2408.07507) are
    another geometry, with no metric behind it.

    References
    ----------
    .. [1] Tosi, Hauberg, Vellido, Lawrence, "Metrics for Probabilistic Geometries", UAI 2014, arXiv:1411.7432.

    Examples
    --------
    >>> import latentgeo as lg
    >>> members = [
    ...     lg.wrap(lambda z, a=a: a * z, latent_dim=2, likelihood="deterministic") for a in (1.0, 1.0, 3.0, 3.0)
    ... ]
    >>> ensemble = Ensemble(members)
    >>> lg.ExpectedMetric(ensemble).tensor(torch.zeros(2))
    tensor([[5., 0.],
            [0., 5.]])
    >>> ensemble.mean(torch.ones(2)), ensemble.std(torch.ones(2))
    (tensor([2., 2.]), tensor([1., 1.]))
    """

    members: tuple[Decoder, ...]

    def __init__(self, decoders: Iterable[Decoder]) -> None:
        members = _checked(decoders)
        first, scale = members[0], len(members) ** -0.5
        modules = [d.embedding.module for d in members if d.embedding.module is not None]
        module = nn.ModuleList(modules).eval() if modules else None
        missing = {kind: why for d in members for kind, why in d.missing.items()}

        def stack(parts: Sequence[Embedding | None], factor: float = scale) -> Embedding | None:
            known = [part for part in parts if part is not None]
            if not known:
                return None
            name = f"{known[0].name} of {len(members)} decoders"
            return Embedding(
                Stacked([part.function for part in known], factor), dim=first.latent_dim, name=name, module=module
            )

        hyperbolic = [d.fisher_ambient for d in members if d.fisher_ambient is not None]
        curved = len(hyperbolic) == len(members)
        mean = stack([d.mean_embedding for d in members])
        assert mean is not None  # noqa: S101 - every decoder has one
        self._set(
            members=members,
            latent_dim=first.latent_dim,
            data_shape=first.data_shape,
            data_dim=first.data_dim,
            likelihood=first.likelihood,
            module=module,
            precision=None,
            precision_report=None,
            context=None,
            dtype=next((d.dtype for d in members if d.dtype is not None), None),
            device=next((d.device for d in members if d.device is not None), None),
            missing=missing,
            mean_embedding=mean,
            std_embedding=stack([d.std_embedding for d in members]),
            expected_embedding=None if "expected" in missing else stack([d.expected_embedding for d in members]),
            fisher_embedding=None if "fisher" in missing else stack([d.fisher_embedding for d in members]),
            fisher_coordinates=stack([d.fisher_coordinates for d in members], 1.0) if curved else None,
            fisher_ambient=StackedAmbient(hyperbolic, scale**2) if curved else None,
        )

    def __call__(self, z: Tensor) -> dict[str, Tensor]:
        """The members' likelihood parameters at codes (*batch, d), each (S, *batch, D), by name."""
        each = [member(z) for member in self.members]
        return {name: torch.stack([one[name] for one in each]) for name in each[0] if all(name in one for one in each)}

    def mean(self, z: Tensor) -> Tensor:
        """The mixture's mean of x given z: (*batch, D), in data units."""
        return torch.stack([member.mean(z) for member in self.members]).mean(0)

    def std(self, z: Tensor) -> Tensor:
        """The mixture's standard deviation of x given z: (*batch, D), in data units; it includes disagreement."""
        means = torch.stack([member.mean(z) for member in self.members])
        within = [member.std(z) for member in self.members]
        noise = torch.stack([torch.zeros_like(m) if s is None else s**2 for s, m in zip(within, means, strict=True)])
        return (noise.mean(0) + means.var(0, correction=0)).sqrt()

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """Log-likelihood log p(x | z) of data (*batch, D) under the mixture: (*batch,), in nats."""
        each = torch.stack([member.log_prob(z, x) for member in self.members])
        return each.logsumexp(0) - math.log(len(self.members))

    def to(self, target: torch.dtype | torch.device | str) -> Ensemble:
        """A copy in another dtype or on another device: see `Decoder.to`."""
        return Ensemble([member.to(target) for member in self.members])

    def __repr__(self) -> str:
        return f"Ensemble({len(self.members)} × {self.members[0]!r})"


def _checked(decoders: Iterable[Any]) -> tuple[Decoder, ...]:
    """The members as a tuple, after checking that they can stand in one another's place."""
    try:
        members = tuple(decoders)
    except TypeError:
        raise TypeError(f"`decoders` must be decoders, as [a, b, …]; got {type(decoders).__name__}") from None
    if not members:
        raise ValueError("`decoders` must hold at least one decoder; got none")
    for i, member in enumerate(members):
        if not isinstance(member, Decoder):
            advice = "its `.decoder`" if hasattr(member, "decoder") else "wrap it first (latentgeo.wrap)"
            raise TypeError(f"`decoders[{i}]` must be a Decoder; got {type(member).__name__}: {advice}")
    first = members[0]
    for i, member in enumerate(members[1:], 1):
        for what, mine, theirs in (
            ("latent dimension", first.latent_dim, member.latent_dim),
            ("shape of data", first.data_shape, member.data_shape),
            ("likelihood", type(first.likelihood).__name__, type(member.likelihood).__name__),
            ("dtype", first.dtype or member.dtype, member.dtype or first.dtype),
            ("device", first.device or member.device, member.device or first.device),
        ):
            if mine != theirs:
                raise ValueError(f"`decoders[{i}]` must have the {what} of the first, {mine}; got {theirs}")
    return members
