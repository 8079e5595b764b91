"""`latentgeo fit-land`: a mixture of locally adaptive normal distributions, fitted to a model's codes."""

from __future__ import annotations

import warnings
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from latentgeo._cli import arrays, solving, tables
from latentgeo._cli.source import Source, place


class Dtype(str, Enum):
    """Floating-point precision of the computation."""

    float32 = "float32"
    float64 = "float64"


class Volume(str, Enum):
    """What densities are of."""

    riemannian = "riemannian"
    lebesgue = "lebesgue"


class Variant(str, Enum):
    """Which formulas."""

    exact = "exact"
    paper = "paper"


def fit_land(
    source: Source,
    out: Annotated[Path, typer.Option(help="File of arrays to write (.npz).")],
    codes: Annotated[
        Path | None,
        typer.Option(help="Codes, one per row (.npy, .npz, .csv, .parquet); the checkpoint's own if not given."),
    ] = None,
    codes_key: Annotated[
        str | None, typer.Option(help="Which array of a .npz file holds the codes.", metavar="NAME")
    ] = None,
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
    png: Annotated[
        bool, typer.Option("--png", help="Write a .png beside the page too (needs Chromium or Chrome).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the start, the directions and the samples.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="Where to compute geodesics: cpu, cuda, cuda:1, …")] = "cpu",
    dtype: Annotated[
        Dtype | None, typer.Option("--dtype", help="Precision to compute in; that of the checkpoint if not given.")
    ] = None,
) -> None:
    """Fit a mixture of locally adaptive normal distributions to latent codes.

    The file has weights, means, covariances (of tangent vectors, in latent coordinates), scales (standard deviations
    in units of length), log_normalizers and normalizer_errors, lower_bounds, converged; and for the codes that were
    fitted log_density, label and row (which of the codes); with --samples also samples and sample_labels.

    Exit code 0: the fit converged; 1: it did not, or codes were out of reach (all is written); 2: bad input.
    """
    import numpy as np
    from sklearn.mixture import GaussianMixture

    import latentgeo as lg
    from latentgeo import plot
    from latentgeo.learn.land import LAND

    tables.suffix(out, "--out", ".npz")
    if html is not None:
        tables.suffix(html, "--html", ".html", ".htm")
    if png and html is None:
        raise ValueError("--png must go with --html FILE, beside which the picture is written")
    if png:
        tables.need_browser()
    model = source.load()
    decoder = place(model.decoder, device, dtype)
    metric = lg.metric(decoder)
    if html is not None and decoder.latent_dim != 2:
        raise ValueError(f"--html needs a 2-D latent space; {source.path} has {decoder.latent_dim} dimensions")
    if codes is not None:
        points = arrays.read_codes(codes, decoder, codes_key)
    else:
        points = solving.own_codes(model, decoder, "give yours with --codes FILE")
    rows = np.arange(len(points))
    if subset is not None and subset < len(points):
        rows = np.sort(np.random.default_rng(seed).choice(len(points), subset, replace=False))
    if len(rows) < max(2, components):
        raise ValueError(
            f"at least {max(2, components)} codes are needed for --components {components}, got {len(rows)}"
        )
    for path, option in ((out, "--out"), (html, "--html")):
        if path is not None:
            tables.ready(path, option)
    Z = points[rows].cpu().numpy()
    graph = lg.LatentGraph(metric).fit(points)
    land = LAND(
        metric, components, measure=measure.value, variant=variant.value, graph=graph, max_iter=max_iter, tol=tol,
        random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        land.fit(Z)
    density, label = land._scored(Z)  # geodesics are solved for once
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
    np.savez_compressed(out, **found)
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
        typer.echo(f"wrote {plot.write_html(figure, html, title=f'Densities on {source.path.name}')}")
        if png:
            typer.echo(f"wrote {plot.write_figure(figure, html.with_suffix('.png'))}")
    for warning in caught:
        typer.echo(f"latentgeo: {warning.message}", err=True)
    if not land.converged_ or (density == -np.inf).any():
        raise typer.Exit(1)


def _numbers(row: object) -> str:
    import numpy as np

    values = np.asarray(row)
    text = ", ".join(f"{value:.3g}" for value in values[:3])
    return f"({text}{', …' if len(values) > 3 else ''})"
