"""`latentgeo walk`: random walks on a model's latent space, side by side."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentgeo._cli import arrays, solving, tables
from latentgeo._cli.options import Arrays, Codes, CodesKey, Device, ImageShape, Png, Precision, Resolution, Seed
from latentgeo._cli.source import Source, place

if TYPE_CHECKING:
    from torch import Tensor

    from latentgeo.metrics import Metric
    from latentgeo.walks import Walk


class Law(StrEnum):
    """Which walks to take."""

    euclidean = "euclidean"
    inverse_metric = "inverse-metric"
    brownian = "brownian"
    langevin = "langevin"


_REACH = 0.02  # of the codes' extent: the step of a walk whose `--step-size` is not given


def walk(
    source: Source,
    out: Arrays,
    html: Annotated[
        Path | None, typer.Option(help="Page to write (.html), for a 2-D latent space: the walks side by side.")
    ] = None,
    png: Png = False,
    kind: Annotated[
        list[Law] | None,
        typer.Option(help="Which walks; may be repeated. The first three if not given.", metavar="NAME"),
    ] = None,
    walkers: Annotated[int, typer.Option(help="Number of walkers.", min=1)] = 100,
    steps: Annotated[int, typer.Option(help="Steps of each.", min=1)] = 1000,
    every: Annotated[int, typer.Option(help="Record every so many steps.", min=1)] = 1,
    step_size: Annotated[
        float | None,
        typer.Option(
            help="Time δ of a step, in squared units of the metric's length; one that moves walkers by 2 % of the "
            "codes' extent if not given."
        ),
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Codes to start from, one per row; random codes if not given.")
    ] = None,
    codes: Codes = None,
    codes_key: CodesKey = None,
    image_shape: ImageShape = None,
    resolution: Resolution = 110,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Precision = None,
) -> None:
    """Random walks over latent space: Euclidean, inverse-metric, Brownian, and Langevin, which stays with the codes.

    All start from the same codes with the same random numbers. The Euclidean walk is given the root-mean-square step of
    the Brownian one. Langevin sampling has the kernel density of the codes as its target, and adapts its step size.

    The file has, for each kind, the codes (walkers, steps / every + 1, d), steps taken, statuses and step size:
    brownian, brownian_steps, brownian_status, brownian_step_size, …

    Exit code 0: all walkers took all steps; 1: some left the region where the metric is finite, and were frozen there
    (all is written); 2: bad input. Interrupted before all walks are done, it has written nothing.
    """
    import numpy as np

    import latentgeo as lg
    from latentgeo import plot

    tables.suffix(out, "--out", ".npz")
    tables.page_suffix(html, png)
    if step_size is not None and not step_size > 0:
        raise ValueError(f"--step-size must be positive, got {step_size}")
    model = source.load()
    decoder = place(model.decoder, device, dtype)
    metric = lg.metric(decoder)
    if html is not None and decoder.latent_dim != 2:
        raise ValueError(f"--html needs a 2-D latent space; {source.path} has {decoder.latent_dim} dimensions")
    points = solving.codes_of(model, decoder, codes, codes_key)
    if len(points) < 2:
        raise ValueError(f"at least 2 codes are needed, got {len(points)}")
    if start is None:
        z = points[np.random.default_rng(seed).choice(len(points), walkers, replace=walkers > len(points))]
    else:
        z = arrays.read_codes(start, decoder, codes_key)
    shape = tables.image_shape(model, image_shape)
    tables.ready(out)
    tables.ready(html, "--html")
    kinds = list(dict.fromkeys(kind)) if kind else [Law.euclidean, Law.inverse_metric, Law.brownian]
    delta = _step_size(metric, points) if step_size is None else step_size
    done = _walks(kinds, metric, points, z, delta, {"n_steps": steps, "every": every, "random_state": seed})

    tables.write_arrays(out, {name: value for law, each in done.items() for name, value in _arrays(law, each).items()})
    for law, each in done.items():
        typer.echo(f"{law.value}: {each!r}, rms step {each.rms_step * every**-0.5:.3g} latent units")
    typer.echo(f"wrote {out}")
    if html is not None:
        figure = plot.walks(
            metric,
            {law.value.replace("-", " ").capitalize(): done[law] for law in kinds},
            codes=points,
            decoder=decoder,
            n_images=8 if tables.pictured(decoder, shape) else 0,
            shape=shape,
            resolution=resolution,
        )
        tables.write_page(figure, html, png, title=f"Random walks on {source.path.name}")
    stopped = Counter(s.value for each in done.values() for s in each.status[~each.finished.cpu().numpy()])
    for advice, count in stopped.most_common():
        typer.echo(f"{count} walkers: {advice}", err=True)
    if stopped:
        raise typer.Exit(1)


def _step_size(metric: Metric, points: Tensor) -> float:
    """Time of a step whose length in latent space is about a fixed share of the codes' extent."""
    import torch

    sample = points[torch.linspace(0, len(points) - 1, min(500, len(points))).long()]
    inverse = torch.linalg.pinv(metric.tensor(sample).detach().double())
    across = inverse.diagonal(dim1=-2, dim2=-1).sum(-1).median()
    extent = points.double().std(0).norm() * 4
    return float(f"{float((_REACH * extent) ** 2 / across):.2g}")


def _walks(
    kinds: list[Law], metric: Metric, points: Tensor, z: Tensor, delta: float, options: dict[str, Any]
) -> dict[Law, Walk]:
    """The walks asked for; the Euclidean one with the root-mean-square latent step of Brownian motion."""
    import latentgeo as lg

    done: dict[Law, Walk] = {}
    for law in sorted(kinds, key=lambda law: law is Law.euclidean):
        size = delta
        if law is Law.langevin:
            target = lg.KernelDensity(points)
            burn_in = max(100, options["n_steps"] // 10)
            done[law] = lg.langevin(metric, target, z, step_size=delta, burn_in=burn_in, throw=False, **options)
            continue
        if law is Law.euclidean:
            other = done.get(Law.brownian) or lg.random_walk(metric, z, step_size=delta, throw=False, **options)
            size = other.rms_step**2 / (options["every"] * z.shape[-1])
            size = size if size > 0 else delta  # where nobody could take a step
        done[law] = lg.random_walk(metric, z, step_size=size, kind=law.value, throw=False, **options)
    return {law: done[law] for law in kinds}


def _arrays(law: Law, each: Walk) -> dict[str, Any]:
    import numpy as np

    name = law.value.replace("-", "_")
    return {
        name: each.z.cpu().numpy(),
        f"{name}_steps": each.steps.cpu().numpy(),
        f"{name}_status": np.array([s.name.lower() for s in each.status.reshape(-1)]).reshape(each.walkers),
        f"{name}_step_size": np.float64(each.step_size),
    }
