"""`latentgeo cluster`: geodesic k-means or k-medoids of codes, with scores and a page."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentgeo._cli import options, solving, tables
from latentgeo._cli.options import (
    Codes,
    CodesKey,
    Device,
    ImageShape,
    Jobs,
    Json,
    Labels,
    Png,
    Precision,
    Resolution,
    Seed,
)
from latentgeo._cli.source import Source, place

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Method(StrEnum):
    """Which clustering."""

    k_means = "k-means"
    k_medoids = "k-medoids"


class Distances(StrEnum):
    """How distances are measured."""

    graph = "graph"
    exact = "exact"


def cluster(
    source: Source,
    out: Annotated[
        Path,
        typer.Option(help="File to write: .npz (labels, distances, centres) or .csv (labels, distances)."),
    ],
    clusters: Annotated[int, typer.Option("--clusters", "-k", help="Number of clusters.", min=1)] = 10,
    method: Annotated[
        Method, typer.Option(help="k-means (centres are Fréchet means) or k-medoids (centres are codes).")
    ] = Method.k_means,
    codes: Codes = None,
    codes_key: CodesKey = None,
    labels: Labels = None,
    distances: Annotated[
        Distances, typer.Option(help="Shortest paths in a graph, or refined geodesics (a few hundred codes).")
    ] = Distances.graph,
    n_init: Annotated[int, typer.Option(help="Runs from different seeds; the best is kept.", min=1)] = 10,
    n_jobs: Jobs = 1,
    html: Annotated[Path | None, typer.Option(help="Page to write (.html), for a 2-D latent space: the map.")] = None,
    png: Png = False,
    json: Json = None,
    image_shape: ImageShape = None,
    resolution: Resolution = 160,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Precision = None,
) -> None:
    """Clusters of codes by geodesic distance: their labels, centres and scores, and for a 2-D latent space a picture.

    The codes are those of --codes, or the checkpoint's own. --out has each code's cluster (-1: out of reach of all
    centres) and its distance to the centre; a .npz file also has the centres.

    The scores are for geodesic and Euclidean clusters of the same codes: inertia, and where the true classes are known
    F-measure, ARI and NMI. They are shown, and written with --json.

    Exit code 0: done; 1: it did not converge, or some codes cannot be reached (all is written); 2: bad input.
    Interrupted before the clusters are found, it has written nothing; fewer --n-init take less time.
    """
    import numpy as np

    import latentgeo as lg
    from latentgeo import plot

    tables.suffix(out, "--out", ".npz", ".csv")
    tables.suffix(json, "--json", ".json")
    tables.page_suffix(html, png)
    options.check_jobs(n_jobs)
    options.check_labels(labels, codes)
    model = source.load()
    decoder = place(model.decoder, device, dtype)
    points = solving.codes_of(model, decoder, codes, codes_key)
    truth = solving.labels_of(model, codes, labels, len(points))
    if html is not None and decoder.latent_dim != 2:
        raise ValueError(f"--html needs a 2-D latent space; {source.path} has {decoder.latent_dim} dimensions")
    if len(points) < clusters:
        raise ValueError(f"--clusters must be at most the number of codes, {len(points)}; got {clusters}")
    shape = tables.image_shape(model, image_shape)
    for path, option in ((out, "--out"), (html, "--html"), (json, "--json")):
        tables.ready(path, option)

    metric = lg.metric(decoder)
    X = points.double().cpu().numpy()
    kind = lg.GeodesicKMeans if method is Method.k_means else lg.GeodesicKMedoids
    how: dict[str, Any] = {"n_init": n_init, "distances": distances.value, "random_state": seed, "n_jobs": n_jobs}
    started = time.perf_counter()
    found, troubles = _fit(kind(metric, clusters, **how), X)
    flat, _ = _fit(kind(None, clusters, n_init=n_init, random_state=seed), X)
    seconds = time.perf_counter() - started

    away = found.transform(X)[np.arange(len(X)), found.labels_.clip(0)]
    away[found.labels_ < 0] = np.inf
    if out.suffix.lower() == ".csv":
        rows = np.empty(len(X), dtype=[("code", "i8"), ("label", "i8"), ("distance", "f8")])
        rows["code"], rows["label"], rows["distance"] = np.arange(len(X)), found.labels_, away
        tables.write_table(out, rows)
    else:
        tables.write_arrays(out, {"labels": found.labels_, "distances": away, "centres": found.cluster_centers_})
    scores = {name: _scores(each, truth) for name, each in (("geodesic", found), ("Euclidean", flat))}

    header = ["distances", *next(iter(scores.values()))]
    body = [[name, *(f"{value:.4g}" for value in each.values())] for name, each in scores.items()]
    typer.echo(f"{len(X)} codes in {clusters} clusters, {seconds:.1f} s\n\n{tables.aligned(header, body)}\n")
    typer.echo(f"wrote {out}")
    if json is not None:
        tables.write_json(json, scores)
    if html is not None:
        figure = plot.clusters(
            metric,
            points,
            found.labels_,
            found.cluster_centers_,
            decoder=decoder if tables.pictured(decoder, shape) else None,
            shape=shape,
            resolution=resolution,
        )
        title = f"Clusters in {source.path.name}"
        tables.write_page(figure, html, png, title=title, intro=_INTRO, table=(header, body))
    if troubles:
        for text in troubles:
            typer.echo(f"latentgeo: {text}", err=True)
        raise typer.Exit(1)


def _fit(model: Any, X: NDArray[Any]) -> tuple[Any, list[str]]:
    """A fitted estimator, and what it warned of."""
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X)
    return model, [str(w.message) for w in caught]


def _scores(model: Any, truth: NDArray[Any] | None) -> dict[str, float]:
    """What is known of a clustering's quality; inertias of different distances are not comparable."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    out = {"inertia": float(model.inertia_)}
    if truth is not None:
        out["F"] = f_measure(truth, model.labels_)
        out["ARI"] = float(adjusted_rand_score(truth, model.labels_))
        out["NMI"] = float(normalized_mutual_info_score(truth, model.labels_))
    return out


def f_measure(truth: NDArray[Any], labels: NDArray[Any]) -> float:
    """F-measure of the best match of clusters with classes, each class weighted by its size.

    Examples
    --------
    >>> import numpy as np
    >>> f_measure(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    1.0
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(truth, labels).astype(float)
    sizes = table.sum(1, keepdims=True)
    F = 2 * table / (sizes + table.sum(0, keepdims=True))
    rows, columns = linear_sum_assignment(-F * sizes)
    return float((F * sizes)[rows, columns].sum() / sizes.sum())


_INTRO = """\
Clusters of latent codes by geodesic distance, over the measure of the metric: what lies across a bright ridge is far.
Discs are the clusters' centres; crosses are the averages of their codes, which the geometry knows nothing of. Beneath
the map: what the decoder shows at each centre, and at each average.

Inertias are sums of squared distances (of distances, for k-medoids), in the units of each geometry: they compare runs,
not geometries."""
