"""`latentgeo fit-land`: a mixture of locally adaptive normal distributions, fitted to a model's codes."""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from latentgeo._cli import solving, tables
from latentgeo._cli.options import Arrays, Codes, CodesKey, Device, Png, Precision, Seed
from latentgeo._cli.source import Source, place


class Volume(StrEnum):
    """What densities are of."""

    riemannian = "riemannian"
    lebesgue = "lebesgue"


class Variant(StrEnum):
    """Which formulas."""

    exact = "exact"
    paper = "paper"


def fit_land(
    source: Source,
    out: Arrays,
    codes: Codes = None,
    codes_key: CodesKey = None,
    components: Annotated[int, typer.Option(help="Components of the mixture.", min=1)] = 1,
    subset: Annotated[int | None, typer.Option(help="Fit to so many of the codes, drawn at random.", min=2)] = None,
    samples: Annotated[int, typer.Option(help="Draw so many codes from the fitted mixture.", min=0)] = 0,
    measure: Annotated[
        Volume, typer.Option(help="What log_density is the density of: Riemannian volume, or latent volume.")
    ] = Volume.riemannian,
    variant: Annotated[Variant, typer.Option(help="Exact, or the formulas of the 2016 paper.")] = Variant.exact,
    max_iter: Annotated[int, typer.Option(help="Most steps of the fit.", min=1)] = 100,
    tol: Annotated[float, typer.Option(help="Change of the mean log-likelihood at which it stops.", min=0.0)] = 1e-3,
    html: Annotated[
        Path | None,
        typer.Option(help="Page to write (.html), for a 2-D latent space: contours, beside a Gaussian mixture."),
    ] = None,
    png: Png = False,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Precision = None,
) -> None:
    """Fit a mixture of locally adaptive normal distributions to latent codes.

    The file has weights, means, covariances (of tangent vectors, in latent coordinates), scales (standard deviations
    in units of length), log_normalizers and normalizer_errors, lower_bounds, converged; and for the codes that were
    fitted log_density, label and row (which of the codes); with --samples also samples and sample_labels.

    Exit code 0: the fit converged; 1: it did not, or codes were out of reach (all is written); 2: bad input.
    Interrupted before the fit is done, it has written nothing; --max-iter bounds how long it takes.
    """
    import numpy as np
    from sklearn.mixture import GaussianMixture

    import latentgeo as lg
    from latentgeo import plot
    from latentgeo.learn.land import LAND

    tables.suffix(out, "--out", ".npz")
    tables.page_suffix(html, png)
    model = source.load()
    decoder = place(model.decoder, device, dtype)
    metric = lg.metric(decoder)
    if html is not None and decoder.latent_dim != 2:
        raise ValueError(f"--html needs a 2-D latent space; {source.path} has {decoder.latent_dim} dimensions")
    points = solving.codes_of(model, decoder, codes, codes_key)
    rows = np.arange(len(points))
    if subset is not None and subset < len(points):
        rows = np.sort(np.random.default_rng(seed).choice(len(points), subset, replace=False))
    if len(rows) < max(2, components):
        raise ValueError(
            f"at least {max(2, components)} codes are needed for --components {components}, got {len(rows)}"
        )
    tables.ready(out)
    tables.ready(html, "--html")
    Z = points[rows].cpu().numpy()
    graph = lg.LatentGraph(metric).fit(points)
    land = LAND(
        metric, components, measure=measure.value, variant=variant.value, graph=graph, max_iter=max_iter, tol=tol,
        random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        land.fit(Z)
    joint = land.log_joint(Z)
    density = np.logaddexp.reduce(joint, axis=1)
    label = np.where(density > -np.inf, joint.argmax(1), -1)
    found = {
        "weights": land.weights_,
        "means": land.means_,
        "covariances": land.covariances_,
        "scales": land.scales_,
        "log_normalizers": land.log_normalizers_,
        "normalizer_errors": land.normalizer_errors_,
        "lower_bounds": np.asarray(land.lower_bounds_),
        "converged": np.bool_(land.converged_),
        "log_density": density,
        "label": label,
        "row": rows,
    }
    if samples:
        found["samples"], found["sample_labels"] = land.sample(samples)
    tables.write_arrays(out, found)
    state = "converged" if land.converged_ else "not converged"
    typer.echo(
        f"{len(rows)} codes, {components} components, {state} after {land.n_iter_} steps; mean log-density "
        f"{density.mean():.4f} per unit of {measure.value} volume, standard error of the constants "
        f"{float(land.weights_ @ land.normalizer_errors_):.1g}"
    )
    header = ["component", "weight", "mean", "scales", "log C", "failed geodesics"]
    body = [
        [str(k), f"{land.weights_[k]:.3f}", _numbers(land.means_[k]), _numbers(land.scales_[k]),
         tables.with_error(float(land.log_normalizers_[k]), float(land.normalizer_errors_[k])),
         f"{land.failed_logs_[k]} of {len(rows)}"]
        for k in range(components)
    ]  # fmt: skip
    typer.echo(tables.aligned(header, body))
    typer.echo(f"wrote {out}")
    if html is not None:
        mixture = GaussianMixture(components, random_state=seed).fit(Z.astype(np.float64))
        figure = plot.land(land, mixture=mixture, codes=Z, contour_resolution=40)
        tables.write_page(figure, html, png, title=f"Densities on {source.path.name}")
    for warning in caught:
        typer.echo(f"latentgeo: {warning.message}", err=True)
    if not land.converged_ or (density == -np.inf).any():
        raise typer.Exit(1)


def _numbers(row: object) -> str:
    import numpy as np

    values = np.asarray(row)
    text = ", ".join(f"{value:.3g}" for value in values[:3])
    return f"({text}{', …' if len(values) > 3 else ''})"
