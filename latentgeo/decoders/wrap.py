"""`wrap`: a `Decoder` from whatever the user has, checked on four codes before it is handed back.

What an output means is never guessed (see `latentgeo.decoders.outputs`); contradictions between it and the likelihood
raise here, not in the middle of a geodesic.
"""

from __future__ import annotations

import copy
import operator
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latentgeo.decoders._modules import find_modules, module_of
from latentgeo.decoders._programs import as_module
from latentgeo.decoders.decoder import Context, Core, Decoder, tensors
from latentgeo.decoders.likelihoods import Categorical, Likelihood, as_likelihood
from latentgeo.decoders.outputs import family, read

_N_CODES = 4


def wrap(
    obj: Any,
    latent_dim: int,
    likelihood: Likelihood | str | None = None,
    *,
    context: Any = None,
) -> Decoder:
    """A `Decoder` from any module, callable or object with `.decode`.

    Parameters
    ----------
    obj : torch.nn.Module, callable or object with a `decode` method
        Takes codes (B, latent_dim), and the context if any; `decode` is preferred where there is one. TorchScript and
        exported programs (`torch.export`) are modules too. It returns a tensor, a (mean, scale) tuple, a
        `torch.distributions` Normal, Bernoulli, Categorical, OneHotCategorical, Poisson, NegativeBinomial or
        Exponential (also inside Independent), a mapping (keys: `latentgeo.decoders.outputs.ALIASES`) or an object with
        a tensor `.sample` or ["reconstruction"], each with the batch as its first axis. Images are flattened;
        `Decoder.data_shape` remembers their shape.
    latent_dim : int
        d, the number of latent coordinates.
    likelihood : Likelihood or str, optional
        What the output means: `Gaussian(scale=...)`, `Deterministic()`, `Bernoulli(output=...)`, `Categorical(...)`,
        `Poisson(...)`, `NegativeBinomial(...)`, `Exponential(...)`, or "gaussian" etc. for the defaults. May be left
        out only where the decoder returns a distribution.
    context : Tensor, tuple of Tensor or mapping of str to Tensor, optional
        A fixed condition (label, covariates), passed after the codes or by keyword. One row each, shape (1, ...); a
        tensor with no axis counts as one row. It is expanded to the batch.

    Returns
    -------
    Decoder
        Its weights are the module's own, shared; the module is in eval mode.

    Raises
    ------
    TypeError
        If `obj` cannot be called, or `latent_dim`, `likelihood` or `context` is of the wrong kind.
    ValueError
        If the likelihood is unknown or contradicts the output, `obj` cannot take codes of that dimension, or its
        output cannot be read or is not finite.
    EmbeddingError
        If the function cannot be differentiated or is not a function of each code alone.

    Warns
    -----
    UserWarning
        If the module is in train mode (it is put in eval mode), or in half precision (a float32 copy is used).

    Examples
    --------
    >>> import torch
    >>> from latentgeo import Gaussian
    >>> net = torch.nn.Linear(2, 6).eval()
    >>> wrap(lambda z: net(z).chunk(2, -1), latent_dim=2, likelihood=Gaussian(scale="log_var"))
    Decoder(2 → 3, Gaussian(scale='log_var', sigma=None), float32 on cpu)
    >>> wrap(net, latent_dim=2, likelihood="bernoulli")
    Decoder(2 → 6, Bernoulli(output='logits'), float32 on cpu)
    """
    latent_dim = _positive(latent_dim)
    family_given = None if likelihood is None else as_likelihood(likelihood)
    function, entry = _function(as_module(obj))
    module = module_of(function)
    if module is not None and (coarse := _coarse(module)) is not None:
        function, module = _in_single(function, module, coarse)
    if module is not None and any(part.training for part in module.modules()):
        warnings.warn(
            f"{type(module).__name__} was in train mode; it has been put in eval mode (module.eval()), since dropout "
            f"and batch statistics would make distances random",
            UserWarning,
            stacklevel=2,
        )
        module.eval()
    core = Core(function, module, family_given or _Unknown(), _context(context))
    codes = _codes(core, latent_dim)
    with torch.no_grad():
        output = _first_output(core, codes, module)
        named, shape = read(output, _N_CODES)
        family_given = _declared(output, family_given, shape)
        core = core.replace(reads=family_given)
        family_given.check(named, shape)
        parameters = family_given.parameters(named, shape)
    for name, value in parameters.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"the decoder's {name} is not finite at standard normal codes")
    if (doubt := family_given.doubt(named, shape)) is not None:
        warnings.warn(doubt, UserWarning, stacklevel=2)
    decoder = Decoder(core, latent_dim, shape, entry=entry)
    decoder.embedding.probe(codes)
    return decoder


def _first_output(core: Core, codes: Tensor, module: nn.Module | None) -> Any:
    try:
        return core.output(codes)
    except TypeError as error:
        if core.context is None:
            raise
        raise TypeError(f"`obj` cannot be called with codes and this `context`: {error}") from error
    except NotImplementedError as error:
        if module is None or core.function is not module:
            raise
        parts = ", ".join(f".{name}" for name, _ in module.named_children())
        raise TypeError(
            f"obj must be a decoder: {type(module).__name__} has neither `decode` nor a `forward` that works "
            f"({error}); wrap the part of it that takes codes{f' (it has {parts})' if parts else ''}"
        ) from error
    except (RuntimeError, AssertionError) as error:  # of shapes that do not fit; an exported program asserts its own
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f"the decoder fails on codes of shape (n, {codes.shape[1]}), which is what latent_dim= says: "
            f"{type(error).__name__}: {error}"
        ) from error


def _coarse(module: nn.Module) -> torch.dtype | None:
    """The half-precision dtype of a module's weights, if they have one."""
    weights = (*module.parameters(), *module.buffers())
    return next((w.dtype for w in weights if w.dtype in (torch.float16, torch.bfloat16)), None)


def _in_single(function: Any, module: nn.Module, dtype: torch.dtype) -> tuple[Any, nn.Module]:
    """A float32 copy of a half-precision decoder: its digits are too few for differences and derivatives."""
    before = find_modules(function)
    function, module = copy.deepcopy((function, module))
    if any(new is old for new in find_modules(function) for old in before):
        raise TypeError(
            f"the decoder's weights are {dtype}, too coarse for distances, and a plain function over a module cannot "
            "be converted; cast the module with `.float()` before `wrap`"
        )
    warnings.warn(
        f"{type(module).__name__} has {dtype} weights, too coarse for distances; a float32 copy of it is used. Cast it "
        "with .float() yourself to silence this",
        UserWarning,
        stacklevel=3,
    )
    return function, module.float()


class _Unknown(Likelihood):
    """Stands in until the output itself has said what it is."""

    name = "unknown"
    default = "expected"

    def parameters(self, *arguments: Any) -> Any:
        raise NotImplementedError

    check = mean = std = log_prob = parameters  # type: ignore[assignment]  # never called


def _positive(latent_dim: Any) -> int:
    try:
        value = operator.index(latent_dim)
    except TypeError:
        raise TypeError(f"latent_dim must be a positive integer; got {latent_dim!r}") from None
    if value < 1 or isinstance(latent_dim, bool):
        raise ValueError(f"latent_dim must be a positive integer; got {latent_dim!r}")
    return value


def _declared(output: Any, given: Likelihood | None, shape: tuple[int, ...]) -> Likelihood:
    """The likelihood given, or else that of the distribution returned; the two must not contradict each other."""
    description = family(output)
    if description is None:
        if given is not None:
            return given
        raise ValueError(
            "likelihood must be given, since the decoder does not return a torch.distributions object and what its "
            "numbers mean is never guessed: e.g. likelihood=Gaussian(scale='std'), Gaussian(sigma=0.1), "
            "Bernoulli(output='logits'), Bernoulli(output='probs'), Categorical(...), Poisson(...) or Deterministic()"
        )
    declared = as_likelihood(description)
    if given is None:
        return declared
    if type(given) is not type(declared):
        raise ValueError(
            f"likelihood is {given!r}, but the decoder returns a distribution that is a {type(declared).__name__}; "
            "leave likelihood out"
        )
    if isinstance(given, Categorical) and given.axis not in (-1, len(shape)):
        raise ValueError(
            f"likelihood says axis={given.axis}, but the classes of a torch.distributions Categorical are on its last "
            "axis; leave likelihood out"
        )
    return given


def _function(obj: Any) -> tuple[Callable[..., Any], str]:
    """The function to call, and how it is reached from `obj` ("call" or "decode")."""
    if isinstance(obj, type):
        raise TypeError(f"obj must be a decoder, not the class {obj.__name__}; make an instance first")
    if isinstance(obj, Decoder):
        raise TypeError("obj is already a Decoder")
    decode = getattr(obj, "decode", None)
    if callable(decode) and not isinstance(obj, (str, bytes)):
        return decode, "decode"
    if callable(obj):
        return obj, "call"
    weights = isinstance(obj, (Mapping, str, os.PathLike))
    advice = "; latentgeo.load takes a file of weights and the builder of their network" if weights else ""
    raise TypeError(f"obj must be a module, a callable or have a .decode method; got {type(obj).__name__}{advice}")


def _context(context: Any) -> Context:
    if context is None:
        return None
    if isinstance(context, Tensor):
        return _row(context, "context")
    if isinstance(context, Mapping):
        return {str(name): _row(c, f"context[{name!r}]") for name, c in context.items()}
    if isinstance(context, (tuple, list)):
        return tuple(_row(c, f"context[{i}]") for i, c in enumerate(context))
    raise TypeError(f"context must be a tensor, a tuple or a mapping of tensors; got {type(context).__name__}")


def _row(c: Any, name: str) -> Tensor:
    if not isinstance(c, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(c).__name__}")
    if c.ndim == 0:
        return c.detach()[None]
    if c.shape[0] != 1:
        raise ValueError(f"{name} must hold one row, shape (1, ...); got shape {tuple(c.shape)} (try {name}[None])")
    return c.detach()


def _codes(core: Core, latent_dim: int) -> Tensor:
    found = tensors(core)
    floating = [tensor for tensor in found if tensor.is_floating_point()]
    codes = torch.randn(_N_CODES, latent_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return codes.to(
        dtype=floating[0].dtype if floating else torch.get_default_dtype(),
        device=found[0].device if found else None,
    )
