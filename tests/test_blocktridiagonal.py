"""Block cyclic reduction against dense linear algebra."""

from __future__ import annotations

import pytest
import torch
from problems import generator
from torch.testing import assert_close

from latentgeo._calculus import BlockTridiagonal


def blocks(batch: int, n: int, d: int, shift: float):
    g = generator(n * 10 + d)
    A = torch.randn(batch, n, d, d, generator=g, dtype=torch.float64)
    B = torch.randn(batch, n - 1, d, d, generator=g, dtype=torch.float64)
    return A + A.mT + shift * torch.eye(d, dtype=torch.float64), B


def dense(diagonal, upper):
    batch, n, d, _ = diagonal.shape
    M = torch.zeros(batch, n, d, n, d, dtype=torch.float64)
    for i in range(n):
        M[:, i, :, i] = diagonal[:, i]
        if i < n - 1:
            M[:, i, :, i + 1] = upper[:, i]
            M[:, i + 1, :, i] = upper[:, i].mT
    return M.reshape(batch, n * d, n * d)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 31, 64])
def test_solves_positive_definite_systems(n, d):
    diagonal, upper = blocks(3, n, d, shift=12.0 + 6 * d)
    rhs = torch.randn(3, n, d, generator=generator(1), dtype=torch.float64)
    factor = BlockTridiagonal(diagonal, upper)
    assert bool(factor.positive_definite.all())
    want = torch.linalg.solve(dense(diagonal, upper), rhs.reshape(3, -1, 1)).reshape(3, n, d)
    assert_close(factor.solve(rhs), want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7, 16])
@pytest.mark.parametrize("shift", [0.0, 3.0, 5.0, 8.0])
def test_tells_definite_from_indefinite(n, shift):
    diagonal, upper = blocks(40, n, 2, shift)
    want = torch.linalg.eigvalsh(dense(diagonal, upper))[:, 0] > 0
    assert torch.equal(BlockTridiagonal(diagonal, upper).positive_definite, want)


def test_nan_is_not_positive_definite_and_stays_in_its_system():
    diagonal, upper = blocks(2, 6, 2, shift=20.0)
    rhs = torch.ones(2, 6, 2, dtype=torch.float64)
    want = BlockTridiagonal(diagonal, upper).solve(rhs)[1]
    diagonal[0, 3] = torch.nan
    factor = BlockTridiagonal(diagonal, upper)
    assert factor.positive_definite.tolist() == [False, True]
    assert_close(factor.solve(rhs)[1], want)


def test_wrong_number_of_blocks():
    diagonal, upper = blocks(1, 4, 2, 9.0)
    with pytest.raises(ValueError, match="`upper` must hold 3 blocks, got 2"):
        BlockTridiagonal(diagonal, upper[:, 1:])
