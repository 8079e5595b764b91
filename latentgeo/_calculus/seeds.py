"""Where randomness comes from: `random_state` as a generator of torch's or NumPy's, checked in one place."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["numpy_random", "torch_random"]


def torch_random(
    random_state: int | torch.Generator | None, device: torch.device | str = "cpu", name: str = "random_state"
) -> torch.Generator:
    """A torch generator: itself, from a seed, or (None) seeded from torch's global one.

    Raises
    ------
    TypeError
        If `random_state` is anything else.

    Examples
    --------
    >>> torch.randint(100, (3,), generator=torch_random(0))
    tensor([44, 39, 33])
    """
    if isinstance(random_state, torch.Generator):
        return random_state
    if random_state is None:
        random_state = int(torch.randint(2**62, ()))
    elif not isinstance(random_state, (int, np.integer)) or isinstance(random_state, bool):
        raise TypeError(f"`{name}` must be an integer, a torch.Generator or None, got {random_state!r}")
    return torch.Generator(device=device).manual_seed(int(random_state) % 2**64)


def numpy_random(
    random_state: int | np.random.RandomState | torch.Generator | None, name: str = "random_state"
) -> np.random.RandomState:
    """What scikit-learn takes as a `random_state`, or a torch generator (one number is drawn from it), for NumPy.

    Raises
    ------
    ValueError
        If it is none of these; scikit-learn's estimators raise no other kind.
    """
    if isinstance(random_state, torch.Generator):
        random_state = int(torch.randint(2**31 - 1, (), generator=random_state, device=random_state.device))
    if random_state is None:
        return np.random.mtrand._rand  # NumPy's global one, as scikit-learn has it
    if isinstance(random_state, np.random.RandomState):
        return random_state
    whole = isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool)
    if not whole or not 0 <= int(random_state) < 2**32:
        raise ValueError(
            f"`{name}` must be an integer from 0 to 2**32 - 1, a numpy.random.RandomState, a torch.Generator or None, "
            f"got {random_state!r}"
        )
    return np.random.RandomState(random_state)
