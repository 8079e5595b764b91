"""Small dense linear algebra against eigendecompositions."""

from __future__ import annotations

import pytest
import torch
from problems import generator
from torch.testing import assert_close

from latentgeo._calculus import concave_part


def by_eigh(A):
    values, vectors = torch.linalg.eigh(A)
    return (vectors * values.clamp_max(0.0).neg()[..., None, :]) @ vectors.mT


def symmetric(*batch: int, d: int):
    A = torch.randn(*batch, d, d, generator=generator(d), dtype=torch.float64)
    return A + A.mT


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e-8, 1.0, 1e8, 1e150, 1e300])
@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_concave_part(d, scale):
    A = symmetric(7, 40, d=d)
    A[:, :10] = by_eigh(A[:, :10])  # semi-definite
    A[:, 10:20] = -by_eigh(A[:, 10:20])
    assert_close(concave_part(A * scale) / scale, by_eigh(A), rtol=0, atol=1e-13)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_concave_part_of_multiples_of_the_identity(d):
    eye = torch.eye(d, dtype=torch.float64)
    sizes = torch.tensor([-1e308, -2.0, -1e-307, 0.0, 1e-307, 3.0, 1e308], dtype=torch.float64)[:, None, None]
    got = concave_part(sizes * eye)
    assert torch.equal(got, sizes.neg().clamp_min(0.0) * eye)


def test_concave_part_of_nearly_equal_eigenvalues():
    nearly = -torch.eye(2, dtype=torch.float64) + 1e-17 * symmetric(50, d=2)
    nearly[:, 0, 1] = nearly[:, 1, 0]
    assert_close(concave_part(nearly), -nearly, rtol=0, atol=3e-16)
    tiny = 5e-324 * torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]]], dtype=torch.float64)
    assert bool((concave_part(tiny).abs() <= 5e-324).all())


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("batch", [(0,), (), (0, 3), (2, 3)])
def test_concave_part_keeps_shape_and_dtype(batch, d):
    for dtype in (torch.float32, torch.float64):
        got = concave_part(symmetric(*batch, d=d).to(dtype))
        assert got.shape == (*batch, d, d)
        assert got.dtype == dtype
