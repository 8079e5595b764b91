"""`save`: a model as one native safetensors file, written whole or not at all."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from latentgeo.decoders.decoder import Decoder
from latentgeo.decoders.ensemble import Ensemble
from latentgeo.decoders.networks import registered
from latentgeo.io.model import LatentModel
from latentgeo.io.native import KEY, MAX_HEADER_BYTES, SCHEMA
from latentgeo.io.whole import whole


def save(model: LatentModel | Decoder, path: str | os.PathLike[str]) -> None:
    """Write a model as a native checkpoint; an existing file is replaced only once the new one is complete.

    Parameters
    ----------
    model : LatentModel or Decoder
        Its networks must be modules. latentgeo's own (`MLP`, `MLPEncoder`) are described in the header; of any other
        the weights are stored, and `load` is then told how to build it by `builder=` (and `encoder_builder=`).
    path : path
        Ends in `.safetensors`.

    Raises
    ------
    ValueError
        If the decoder or encoder is a plain function, or a method other than `decode`, whose code no file can carry; if
        metadata is not JSON; or if `path` has another ending.
    TypeError
        If `model` is neither a LatentModel nor a Decoder.

    Examples
    --------
    >>> import tempfile, latentgeo as lg
    >>> from latentgeo.decoders import MLP
    >>> decoder = lg.wrap(MLP([2, 8, 3]).eval(), latent_dim=2, likelihood="deterministic")
    >>> path = tempfile.mkdtemp() + "/small.safetensors"
    >>> save(decoder, path)
    >>> lg.load(path).decoder
    Decoder(2 → 3, Deterministic(), float32 on cpu)
    """
    if isinstance(model, Decoder):
        model = LatentModel(model)
    if not isinstance(model, LatentModel):
        raise TypeError(f"model must be a LatentModel or a Decoder; got {type(model).__name__}")
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors; got {str(path)!r}")
    tensors: dict[str, Tensor] = {}
    header = {
        "schema": SCHEMA,
        "library": _version(),
        "decoder": _decoder(model.decoder, tensors),
        "precision": _precision(model.decoder, tensors),
        "encoder": _encoder(model.encoder, tensors),
        "metadata": dict(model.metadata),
    }
    for name in ("codes", "labels"):
        if (value := getattr(model, name)) is not None:
            tensors[name] = value
    try:
        text = json.dumps(header, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata and the builder's arguments must be what JSON can say: {error}") from None
    if len(text) > MAX_HEADER_BYTES // 2:
        raise ValueError(f"metadata is too large for a header: {len(text)} characters")
    # clones, because safetensors refuses tied weights and views
    content = to_bytes({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, {KEY: text})
    with whole(path) as place, place.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _version() -> str:
    try:
        return version("latentgeo")
    except PackageNotFoundError:
        return "unknown"


def _decoder(decoder: Decoder, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if isinstance(decoder, Ensemble):
        raise ValueError("a file holds one decoder; save the members of the ensemble one by one (`ensemble.members`)")
    function, module = decoder._core.function, decoder.module
    owner = function.__self__ if inspect.ismethod(function) else function
    method_ok = not inspect.ismethod(function) or (decoder._entry == "decode" and function.__name__ == "decode")
    if module is None or owner is not module or not method_ok:
        raise ValueError(
            f"the decoder wraps {_describe(function)}, whose code a checkpoint cannot carry; wrap an nn.Module that is "
            f"called directly or has .decode, or save the weights yourself and wrap again after loading"
        )
    _put(tensors, "decoder.", module)
    return {
        **_builder(module),
        "entry": decoder._entry,
        "likelihood": decoder._core.reads.to_dict(),
        "latent_dim": decoder.latent_dim,
        "data_shape": list(decoder.data_shape),
        "context": _context(decoder.context, tensors),
    }


def _describe(function: Any) -> str:
    kind = "a method" if inspect.ismethod(function) else "a function" if inspect.isfunction(function) else "an object"
    return f"{kind} ({getattr(function, '__qualname__', type(function).__qualname__)})"


def _builder(module: nn.Module) -> dict[str, Any]:
    known = registered(module)
    if known is not None:
        return {"builder": known[0], "arguments": known[1]}
    return {"builder": f"custom:{type(module).__qualname__}", "arguments": {}}


def _put(tensors: dict[str, Tensor], prefix: str, module: nn.Module) -> None:
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{type(module).__name__} has a state {name!r} that is not a tensor and cannot be saved")
        tensors[prefix + name] = value


def _context(context: Any, tensors: dict[str, Tensor]) -> str | None:
    if context is None:
        return None
    if isinstance(context, Tensor):
        kind, items = "tensor", {"0": context}
    elif isinstance(context, Mapping):
        kind, items = "mapping", dict(context)
    else:
        kind, items = "tuple", {str(i): c for i, c in enumerate(context)}
    tensors.update({f"context.{name}": c for name, c in items.items()})
    return kind


def _precision(decoder: Decoder, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    if decoder.precision is None:
        return None
    _put(tensors, "precision.", decoder.precision)
    report = decoder.precision_report
    return {"kind": "rbf", "report": None if report is None else report.to_dict()}


def _encoder(encoder: Any, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    if encoder is None:
        return None
    if not isinstance(encoder, nn.Module):
        raise ValueError(
            f"the encoder is {_describe(encoder)}, whose code a checkpoint cannot carry; make it an nn.Module, or save "
            f"LatentModel(decoder, codes=..., labels=...) without it"
        )
    _put(tensors, "encoder.", encoder)
    return _builder(encoder)
