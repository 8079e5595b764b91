"""`load`: a `LatentModel` from a native checkpoint, or from weights and the builder that they belong to.

Without `trust=True` only safetensors and `torch.load(weights_only=True)` are read, and no code of the file is run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentgeo.decoders._programs import as_module
from latentgeo.decoders.decoder import Core, Decoder
from latentgeo.decoders.likelihoods import as_likelihood
from latentgeo.decoders.networks import UnknownBuilderError, build
from latentgeo.decoders.outputs import read
from latentgeo.decoders.precision import PrecisionReport, RBFPrecision
from latentgeo.decoders.wrap import wrap
from latentgeo.io.errors import CheckpointError, shorten
from latentgeo.io.model import LatentModel
from latentgeo.io.native import Contents, field, foreign, open_safetensors
from latentgeo.io.pickled import read_pickled

_PICKLED = (".pt", ".pth", ".ckpt", ".pt2")


def load(
    path: str | os.PathLike[str],
    *,
    builder: Callable[..., nn.Module] | None = None,
    encoder_builder: Callable[..., nn.Module] | None = None,
    latent_dim: int | None = None,
    likelihood: Any = None,
    context: Any = None,
    prefix: str | None = None,
    trust: bool = False,
) -> LatentModel:
    """A model from a file.

    Parameters
    ----------
    path : path
        A native checkpoint (`.safetensors`), or weights: a state dict in a `.pt`, `.pth` or `.ckpt` file (also under
        the key "state_dict", as Lightning writes it) or in a foreign `.safetensors` file. With `trust` also a whole
        pickled module, a TorchScript program or an exported one (`.pt2`).
    builder : callable, optional
        Returns the decoder's module, whose state dict the weights are. Needed for weights, and for native checkpoints
        of modules that are not latentgeo's own.
    encoder_builder : callable, optional
        The same for the encoder of a native checkpoint.
    latent_dim, likelihood, context
        As for `wrap`; needed for weights, where nothing in the file says them. Not for native checkpoints.
    prefix : str, optional
        For weights: take only the tensors whose names start with this, and take it off: "decoder." picks the decoder
        out of a whole model.
    trust : bool
        Allow unpickling and programs, which run whatever code the file holds: only for files whose origin you know.
        Whole modules and programs then need no builder.

    Returns
    -------
    LatentModel
        On the CPU, in eval mode, its weights not requiring gradients
        (`model.decoder.module.requires_grad_()` turns them on).

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, damaged, of another kind or version, or does not fit the builder.
    TypeError
        If an argument that is needed is missing, or one is given that the file answers itself.

    Examples
    --------
    >>> load("checkpoints/digits-2d.safetensors")
    LatentModel(Decoder(2 → 64 (8×8), ...), encoder MLPEncoder, 1797 codes with labels)
    """
    file = Path(path)
    if not file.exists():
        raise CheckpointError(file, "does not exist")
    if not file.is_file():
        raise CheckpointError(file, "is not a file; expected a .safetensors checkpoint or a .pt, .pth or .ckpt file")
    if file.suffix == ".safetensors":
        contents = open_safetensors(file)
        if contents.header is not None:
            if any(given is not None for given in (latent_dim, likelihood, context, prefix)):
                raise TypeError(
                    "latent_dim, likelihood and context are in the header of a native checkpoint already, and prefix "
                    "is for weights"
                )
            return _native(contents, contents.header, builder, encoder_builder)
        if builder is None:
            raise foreign(file)
        state: Any = contents.tensors()
    elif file.suffix in _PICKLED:
        state = read_pickled(file, trust)
    else:
        raise CheckpointError(
            file, f"has the ending {file.suffix!r}; expected .safetensors, or {', '.join(_PICKLED)} for weights"
        )
    if latent_dim is None or likelihood is None:
        raise TypeError(f"latent_dim= and likelihood= must be given, since {file} holds weights and cannot say them")
    module = as_module(_from_state(file, state, builder, prefix))
    return LatentModel(wrap(module.eval().requires_grad_(False), latent_dim, likelihood, context=context))


def _from_state(
    path: Path, state: Any, builder: Callable[..., nn.Module] | None, prefix: str | None = None
) -> nn.Module:
    if isinstance(state, nn.Module):
        if builder is not None or prefix is not None:
            raise TypeError(f"builder= and prefix= must not be given: {path} holds a whole network, not weights alone")
        return state
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(path, f"holds a {type(state).__name__}; expected a state dict, names to tensors")
    if builder is None:
        raise CheckpointError(
            path, "holds weights but not the network they belong to; pass builder=, a callable that returns the module"
        )
    module = _call(builder, {}, "builder")
    own = {str(name): value for name, value in state.items()}
    _fill(path, module, _under(path, own, prefix or ""), "the builder's module", whole=not prefix)
    return module


def _under(path: Path, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, by the rest of their names."""
    found = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    if not found:
        starts = sorted({name.partition(".")[0] + "." for name in state if "." in name})
        raise CheckpointError(path, f"has no tensors under {prefix!r}; its names start with {_some(starts)}")
    return found


def _call(builder: Callable[..., nn.Module], arguments: Mapping[str, Any], name: str) -> nn.Module:
    if isinstance(builder, nn.Module) or not callable(builder):
        raise TypeError(
            f"{name} must be a function or class that returns a torch.nn.Module; got a {type(builder).__name__}"
        )
    module = builder(**arguments)
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name} must return a torch.nn.Module; it returned {type(module).__name__}")
    return module


def _compare(
    path: Path, module: nn.Module, shapes: Mapping[str, tuple[int, ...]], what: str, whole: bool = False
) -> None:
    """Raise unless the file's tensors are exactly those of the module; `whole`: they could be part of the file's."""
    wanted = {name: tuple(v.shape) for name, v in module.state_dict().items() if isinstance(v, Tensor)}
    problems = []
    if missing := sorted(set(wanted) - set(shapes)):
        problems.append(f"{len(missing)} tensors are missing ({_some(missing)})")
    if extra := sorted(set(shapes) - set(wanted)):
        problems.append(f"{len(extra)} tensors are not part of it ({_some(extra)})")
    wrong = [name for name in wanted if name in shapes and shapes[name] != wanted[name]]
    problems += [f"{shorten(n)} has the shape {shapes[n]}, expected {wanted[n]}" for n in wrong[:3]]
    if problems:
        if whole and (prefixes := _prefixes(wanted, shapes)):
            choice = " or ".join(f"prefix={prefix!r}" for prefix in prefixes[:3])
            problems.append(f"but there are tensors that fit exactly: pass {choice}")
        raise CheckpointError(path, f"does not fit {what}: {'; '.join(problems)}")


def _prefixes(wanted: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Prefixes under which exactly the wanted tensors are."""
    first = next(iter(wanted), None)
    if first is None:
        return []
    prefixes = {name.removesuffix(first) for name in shapes if name.endswith(f".{first}")}
    return sorted(
        prefix
        for prefix in prefixes
        if {name.removeprefix(prefix): s for name, s in shapes.items() if name.startswith(prefix)} == dict(wanted)
    )


def _some(names: list[str]) -> str:
    return ", ".join(shorten(name) for name in names[:3]) + (", …" if len(names) > 3 else "")


def _fill(path: Path, module: nn.Module, state: Mapping[str, Tensor], what: str, whole: bool = False) -> None:
    _compare(path, module, {name: tuple(v.shape) for name, v in state.items()}, what, whole)
    try:
        module.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        raise CheckpointError(path, f"does not fit {what}: {shorten(str(error), 300)}") from error
    module.eval().requires_grad_(False)


def _network(
    contents: Contents, part: str, header: dict[str, Any], builder: Callable[..., nn.Module] | None, keyword: str
) -> nn.Module:
    """Decoder or encoder of a native checkpoint: built, compared with the file, then filled."""
    path = contents.path
    name = field(path, header, "builder", str)
    arguments = field(path, header, "arguments", dict)
    if builder is not None:
        module = _call(builder, arguments, keyword)
    else:
        try:
            # on the meta device a network takes no memory, whatever sizes a header claims
            with torch.device("meta"):
                module = build(name, arguments)
        except UnknownBuilderError:
            raise CheckpointError(
                path,
                f"names the builder {shorten(name)!r} for its {part}, which is not one of latentgeo's own; pass "
                f"{keyword}=, a callable that returns that module, if you know it",
            ) from None
        except ValueError as error:
            raise CheckpointError(path, f"describes a {part} that cannot be built: {error}") from None
    what = f"its {part} ({shorten(name)})"
    prefix = f"{part}."
    _compare(path, module, {n[len(prefix) :]: s for n, s in contents.shapes.items() if n.startswith(prefix)}, what)
    _fill(path, module, contents.tensors(prefix), what)
    return module


def _native(
    contents: Contents,
    header: dict[str, Any],
    builder: Callable[..., nn.Module] | None,
    encoder_builder: Callable[..., nn.Module] | None,
) -> LatentModel:
    path = contents.path
    about = field(path, header, "decoder", dict)
    about_encoder = field(path, header, "encoder", (dict, type(None)))
    about_precision = field(path, header, "precision", (dict, type(None)))
    metadata = field(path, header, "metadata", dict)
    known = ("decoder.", "encoder.", "precision.", "context.")
    if stray := [n for n in contents.shapes if n not in ("codes", "labels") and not n.startswith(known)]:
        raise CheckpointError(path, f"has tensors of no known part ({_some(stray)})")
    for part, there in (
        ("encoder.", about_encoder),
        ("precision.", about_precision),
        ("context.", about.get("context")),
    ):
        if there is None and any(n.startswith(part) for n in contents.shapes):
            raise CheckpointError(path, f"has {part}* tensors, but its header describes no {part[:-1]}")
    try:
        likelihood = as_likelihood(field(path, about, "likelihood", dict))
    except (ValueError, TypeError) as error:
        raise CheckpointError(path, f"its likelihood cannot be read: {error}") from None
    latent_dim, shape = field(path, about, "latent_dim", int), field(path, about, "data_shape", list)
    if latent_dim < 1 or not shape or not all(type(s) is int and s > 0 for s in shape):
        raise CheckpointError(path, "its latent_dim and data_shape must be positive integers")
    entry = field(path, about, "entry", str)
    module = _network(contents, "decoder", about, builder, "builder")
    function = getattr(module, "decode", None) if entry == "decode" else module
    if entry not in ("call", "decode") or not callable(function):
        raise CheckpointError(path, f"its decoder is reached by {shorten(entry)!r}, which the module does not have")
    core = Core(function, module, likelihood, _context(contents, about))
    _try(path, core, latent_dim, tuple(shape))
    report = None
    if about_precision is not None:
        precision, report = _precision(contents, about_precision, latent_dim, torch.Size(shape).numel())
        core = core.replace(precision=precision)
    decoder = Decoder(core, latent_dim, tuple(shape), precision_report=report, entry=entry)
    encoder = None
    if about_encoder is not None:
        encoder = _network(contents, "encoder", about_encoder, encoder_builder, "encoder_builder")
    own = {name: contents.tensors(name)[""] for name in ("codes", "labels") if name in contents.shapes}
    try:
        return LatentModel(decoder, encoder, own.get("codes"), own.get("labels"), metadata)
    except (ValueError, TypeError) as error:
        raise CheckpointError(path, f"is inconsistent: {error}") from None


def _try(path: Path, core: Core, latent_dim: int, shape: tuple[int, ...]) -> None:
    """One forward pass of two codes: what the header claims must be what the network does."""
    dtype = next((v.dtype for v in core.module.parameters()), torch.float32) if core.module is not None else None
    codes = torch.zeros(2, latent_dim, dtype=dtype)
    try:
        with torch.no_grad():
            named, found = read(core.output(codes), 2)
            core.reads.check(named, found)
            finite = all(bool(torch.isfinite(v).all()) for v in core.parameters(codes).values())
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError) as error:
        raise CheckpointError(
            path, f"its decoder does not do what its header says: {shorten(str(error), 300)}"
        ) from error
    if found != shape:
        raise CheckpointError(path, f"its decoder returns data of shape {found}, and its header says {shape}")
    if not finite:
        raise CheckpointError(path, "its decoder returns values that are not finite at the origin")


def _precision(
    contents: Contents, about: dict[str, Any], latent_dim: int, data_dim: int
) -> tuple[RBFPrecision, PrecisionReport | None]:
    path = contents.path
    state = contents.tensors("precision.")
    names = {"centers", "bandwidths", "weights", "floor"}
    if set(state) != names:
        raise CheckpointError(path, f"its precision must have the tensors {', '.join(sorted(names))}")
    try:
        precision = RBFPrecision(**state)
        values = field(path, about, "report", (dict, type(None)))
        report = None if values is None else PrecisionReport.from_dict(values)
    except CheckpointError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(path, f"its precision cannot be read: {error}") from None
    if precision.latent_dim != latent_dim or precision.weights.shape[1] != data_dim:
        raise CheckpointError(
            path,
            f"its precision is for {precision.latent_dim} → {precision.weights.shape[1]}, expected "
            f"{latent_dim} → {data_dim}",
        )
    return precision, report


def _context(contents: Contents, about: dict[str, Any]) -> Any:
    path = contents.path
    kind = field(path, about, "context", (str, type(None)))
    if kind is None:
        return None
    items = contents.tensors("context.")
    if any(c.ndim == 0 or c.shape[0] != 1 for c in items.values()) or kind not in ("tensor", "tuple", "mapping"):
        raise CheckpointError(path, f"its context ({shorten(kind)}) must hold one row each, of shape (1, ...)")
    if kind == "mapping":
        return items
    if set(items) != {str(i) for i in range(len(items))} or (kind == "tensor" and len(items) != 1):
        raise CheckpointError(path, f"its context ({kind}) has the tensors {_some(sorted(items))}")
    ordered = tuple(items[str(i)] for i in range(len(items)))
    return ordered[0] if kind == "tensor" else ordered
