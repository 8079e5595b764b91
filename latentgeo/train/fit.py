"""`fit`: from a recipe and data to a trained model in a file, with its provenance and a picture of the training.

A run that was killed goes on from its last epoch and ends with the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentgeo.decoders._likelihood import Likelihood
from latentgeo.io import LatentModel, save
from latentgeo.train.data import TrainData, as_data
from latentgeo.train.recipe import Recipe, TrainingError

_LIBRARIES = ("latentgeo", "torch", "lightning", "numpy")
_STOP_FRACTION = 0.1  # of the training data, set apart to decide when to stop


@dataclass(frozen=True, eq=False, repr=False)
class TrainResult:
    """A trained model and how its training went.

    Attributes
    ----------
    model : LatentModel
        On the CPU, in eval mode, with codes, labels, scores and provenance.
    history : tuple of dict
        One per epoch: "epoch" (from 1), means over the epoch, and means over data held out ("held_out_…").
    path : Path or None
        The checkpoint.
    curves : Path or None
        The page with the training curves.
    scores : dict
        The model's scores, from its metadata.
    """

    model: LatentModel
    history: tuple[dict[str, float], ...]
    path: Path | None
    curves: Path | None
    scores: dict[str, Any]

    def __repr__(self) -> str:
        last = {k: v for k, v in self.history[-1].items() if k != "epoch"} if self.history else {}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
        return f"TrainResult({len(self.history)} epochs, {shown}{'' if self.path is None else f', {self.path}'})"


def fit(
    recipe: Recipe,
    data: Any,
    labels: Any = None,
    *,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = True,
    patience: int | None = None,
    held_out: float | None = None,
    device: str = "cpu",
    precision: str = "32-true",
    devices: int = 1,
    trainer: Mapping[str, Any] | None = None,
    curves: bool = True,
    progress: bool = True,
    command: str | None = None,
) -> TrainResult:
    """Train a model.

    Parameters
    ----------
    recipe : Recipe
        What to train, e.g. `lg.train.VAE(latent_dim=2)`.
    data, labels
        As for `as_data`: arrays, tensors, a path, "digits", "mnist".
    epochs, batch_size : int
        Passes over the data, and data per step. `epochs` also sets the pace of warm-ups and of the learning rate.
    learning_rate : float
        Of Adam, at its highest.
    seed : int
        Of everything random. The same seed gives the same weights on the same machine (bit for bit on a CPU).
    out : path, optional
        The checkpoint to write, ending in `.safetensors`. While training runs, its state is kept beside it in a
        `.ckpt` file, which is removed in the end.
    resume : bool
        Go on from such a `.ckpt` file of the same run where there is one; False starts anew.
    patience : int, optional
        Stop after so many epochs in a row without a better loss on a tenth of the training data, set apart for this,
        and keep the best weights. Epochs of a warm-up do not count. Not for a GAN, whose loss does not say when it is
        better.
    held_out : float, optional
        As for `as_data`.
    device : str
        "cpu", "cuda", "cuda:1", …
    precision, devices, trainer
        Lightning's: "bf16-mixed" etc., how many devices, and any further arguments of `lightning.pytorch.Trainer`.
    curves : bool
        Write the training curves to a page beside `out`.
    progress : bool
        Show a progress bar, on a terminal.
    command : str, optional
        The command to note in the checkpoint. Default: that of this process.

    Returns
    -------
    TrainResult

    Raises
    ------
    ImportError
        If Lightning is not installed.
    TypeError, ValueError
        If an argument or the data are not what they must be.
    TrainingError
        If the loss becomes NaN or infinite, or `out` has the state of another run.

    Examples
    --------
    >>> import latentgeo as lg
    >>> recipe = lg.train.VAE(latent_dim=2, network=lg.train.Dense(hidden=(16,)), likelihood=lg.Gaussian(sigma=0.4))
    >>> result = lg.train.fit(recipe, "digits", epochs=1, progress=False)  # doctest: +SKIP
    >>> result.model  # doctest: +SKIP
    LatentModel(Decoder(2 → 64 (8×8), ...), encoder MLPEncoder, 1797 codes with labels)
    """
    if not isinstance(recipe, Recipe) or isinstance(recipe, type):
        raise TypeError(f"recipe must be a recipe such as lg.train.VAE(latent_dim=2); got {recipe!r}")
    _check(epochs, batch_size, learning_rate, patience, seed, device)
    path = None if out is None else Path(out)
    if path is not None and path.suffix != ".safetensors":
        raise ValueError(f"out must end in .safetensors; got {str(path)!r}")
    loop = need_lightning()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    prepared = as_data(data, labels, held_out=held_out, seed=seed)
    if (prepare := getattr(recipe, "prepare", None)) is not None:
        prepared = prepare(prepared)
    # Seeds are drawn epoch by epoch from `seed`; layers that use torch's own generator find it seeded as well.
    cuda = list(range(torch.cuda.device_count())) if device.startswith("cuda") else []
    with torch.random.fork_rng(cuda):
        torch.manual_seed(seed)
        learner = recipe.learner(prepared, torch.Generator().manual_seed(seed))
        if patience is not None and not learner.comparable:
            raise ValueError(
                f"patience must be None for the kind {recipe.kind!r}, whose loss does not say when a model is better; "
                f"got {patience}"
            )
        run = loop.Run(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            patience=patience,
            state=None if path is None else path.with_suffix(".ckpt"),
            identity=_identity(recipe, prepared, epochs, batch_size, learning_rate, seed, patience, precision),
            resume=resume,
            device=device,
            precision=precision,
            devices=devices,
            options=dict(trainer or {}),
            progress=progress,
        )
        rest, watched = prepared.split(_STOP_FRACTION, seed) if patience is not None else (prepared, None)
        outcome = loop.drive(learner, rest.x, prepared.held_out if watched is None else watched, run)
        torch.manual_seed(seed)
        place = torch.device(device)
        learner = learner.to(place).eval()
        model = learner.finish(_to(prepared, place), torch.Generator(place).manual_seed(seed))
    metadata = {
        **model.metadata,
        "dataset": prepared.name,
        "codes": prepared.stored_are,
        "command": command or _command(),
        "kind": recipe.kind,
        "recipe": describe(recipe),
        "seed": seed,
        "epochs": len(outcome.history),
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "n_train": len(rest),
        "n_held_out": 0 if prepared.held_out is None else len(prepared.held_out),
        "training": {k: v for k, v in outcome.history[-1].items() if k != "epoch"},
        "seconds": round(outcome.seconds, 1),
        "cpu_seconds": round(outcome.cpu_seconds, 1),
        "device": _device(device),
        "written": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
    }
    if prepared.classes:
        metadata["classes"] = list(prepared.classes)
    if outcome.stopped:
        metadata["stopped"] = outcome.stopped
    metadata = json.loads(json.dumps(metadata, default=str))
    model = _rebuilt(model, metadata)
    page = None
    if path is not None:
        save(model, path)
        if curves:
            page = _write_curves(outcome.history, path)
        path.with_suffix(".ckpt").unlink(missing_ok=True)
    return TrainResult(model, tuple(outcome.history), path, page, dict(metadata.get("scores", {})))


def need_lightning() -> Any:
    """The module that runs the loop; an ImportError with the command that installs what it needs."""
    try:
        import lightning.pytorch  # noqa: F401 - is it there?
    except ImportError as error:
        raise ImportError(f"training needs Lightning ({error}); install it: pip install 'latentgeo[train]'") from None
    from latentgeo.train import _loop

    return _loop


def describe(value: Any) -> Any:
    """A frozen value as JSON can say it: dataclasses become dicts with their class's name."""
    if isinstance(value, Likelihood):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (str, int, float, type(None))):
        return value
    return [describe(item) for item in value] if isinstance(value, Iterable) else repr(value)


def _check(epochs: int, batch_size: int, learning_rate: float, patience: int | None, seed: int, device: str) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("patience", patience)):
        if name == "patience" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer; got {value!r}")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be positive and finite; got {learning_rate!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a non-negative integer; got {seed!r}")
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        raise ValueError(f"device must be the name of one, such as 'cpu' or 'cuda:1'; got {device!r}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must be one that this machine has; got {device!r}, and torch sees no GPU")


def _identity(recipe: Recipe, data: TrainData, *settings: Any) -> str:
    """What decides the outcome, as one string: a state of another run is not taken for this one's.

    The device is not part of it: a run may go on elsewhere, where it differs by rounding.
    """
    content = hashlib.sha256(repr((describe(recipe), data.shape, settings)).encode())
    for part in (data.x, data.held_out):
        if part is not None:
            content.update(part.contiguous().numpy().tobytes())
    return content.hexdigest()


def _to(data: TrainData, device: torch.device) -> TrainData:
    """The same data on a device."""
    if device.type == "cpu":
        return data
    values = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
    return dataclasses.replace(data, **moved)


def _rebuilt(model: LatentModel, metadata: dict[str, Any]) -> LatentModel:
    """The model on the CPU, without gradients, with this metadata."""
    decoder, encoder = model.decoder, model.encoder
    if decoder.device is not None and decoder.device.type != "cpu":
        decoder = decoder.to("cpu")
    if decoder.module is not None:
        decoder.module.requires_grad_(False)
    if isinstance(encoder, nn.Module):
        encoder = encoder.cpu().eval().requires_grad_(False)
    codes, labels = (None if v is None else v.cpu() for v in (model.codes, model.labels))
    return LatentModel(decoder, encoder, codes, labels, metadata)


def _write_curves(history: list[dict[str, float]], path: Path) -> Path:
    from latentgeo.plot.page import write_html
    from latentgeo.plot.training import training

    page = path.with_name(f"{path.stem}-training.html")
    write_html(training(history), page, title=f"Training of {path.name}")
    return page


def _command() -> str:
    words = [Path(sys.argv[0]).name or "python", *sys.argv[1:]]
    return " ".join(shlex.quote(word) for word in words)


def _device(device: str) -> str:
    name = torch.device(device)
    return torch.cuda.get_device_name(name) if name.type == "cuda" else f"{device}, {torch.get_num_threads()} threads"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


__all__ = ["TrainResult", "TrainingError", "describe", "fit", "need_lightning"]
