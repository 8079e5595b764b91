"""`latentgeo cluster`: geodesic k-means or k-medoids of codes, with scores and a page."""

from __future__ import annotations

import json
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentgeo._cli import arrays, solving, tables
from latentgeo._cli.source import Source, place

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from latentgeo.io import LatentModel


class Method(str, Enum):
    """Which clustering."""

    k_means = "k-means"
    k_medoids = "k-medoids"


class Distances(str, Enum):
    """How distances are measured."""

    graph = "graph"
    exact = "exact"


def cluster(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder to write to; made if need be.")],
    clusters: Annotated[int, typer.Option("--clusters", "-k", help="Number of clusters.", min=1)] = 10,
    method: Annotated[
        Method, typer.Option(help="k-means (centres are Fréchet means) or k-medoids (centres are codes).")
    ] = Method.k_means,
    codes: Annotated[Path | None, typer.Option(help="Codes, one per row (.npy, .npz, .csv, .parquet).")] = None,
    codes_key: Annotated[
        str | None,
        typer.Option(help="Which array of a .npz file holds the codes, if there are several.", metavar="NAME"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="True classes of --codes, one whole number per row, to score the clusters against."),
    ] = None,
    distances: Annotated[
        Distances, typer.Option(help="Shortest paths in a graph, or refined geodesics (a few hundred codes).")
    ] = Distances.graph,
    n_init: Annotated[int, typer.Option(help="Runs from different seeds; the best is kept.", min=1)] = 10,
    n_jobs: Annotated[int, typer.Option(help="Processes; -1 for one per processor. The result is the same.")] = 1,
    png: Annotated[
        bool, typer.Option("--png", help="Write a .png beside the page (needs Chromium or Chrome).")
    ] = False,
    image_shape: Annotated[
        str | None,
        typer.Option(help="Shape of one decoded image; the decoder's own if not given.", metavar="28x28|3x32x32"),
    ] = None,
    resolution: Annotated[int, typer.Option(help="Grid points along the map's shorter side.", min=8, max=2000)] = 160,
    seed: Annotated[int, typer.Option(help="Seed of the random choices.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, …")] = "cpu",
) -> None:
    """Clusters of codes by geodesic distance: their labels, centres and scores, and for a 2-D latent space a picture.

    The codes are those of --codes, or the checkpoint's own. Writes into the folder --out:

    labels.csv (each code's cluster and its distance to the centre), centres.csv, scores.json (also for Euclidean
    clusters of the same codes; F-measure, ARI and NMI where the true classes are known) and, for 2-D codes, index.html.

    Exit code 0: done; 1: it did not converge, or some codes cannot be reached (all is written); 2: bad input.
    """
    import numpy as np

    import latentgeo as lg

    if png:
        tables.need_browser()
    if n_jobs == 0:
        raise ValueError("--n-jobs must be a number of processes, or -1; got 0")
    if labels is not None and codes is None:
        raise ValueError("--labels must go with --codes, whose classes they are; a checkpoint's own codes bring theirs")
    model = source.load()
    decoder = place(model.decoder, device, None)
    if codes is None:
        points = solving.own_codes(model, decoder, "give yours with --codes FILE")
    else:
        points = arrays.read_codes(codes, decoder, codes_key)
    truth = _classes(model, labels, len(points)) if codes is None or labels is not None else None
    if png and decoder.latent_dim != 2:
        raise ValueError(f"--png needs a 2-D latent space; {source.path} has {decoder.latent_dim} dimensions")
    if len(points) < clusters:
        raise ValueError(f"--clusters must be at most the number of codes, {len(points)}; got {clusters}")
    shape = tables.image_shape(model, image_shape)
    tables.ready(out / "labels.csv")

    metric = lg.metric(decoder)
    X = points.double().cpu().numpy()
    kind = lg.GeodesicKMeans if method is Method.k_means else lg.GeodesicKMedoids
    options: dict[str, Any] = {"n_init": n_init, "distances": distances.value, "random_state": seed, "n_jobs": n_jobs}
    started = time.perf_counter()
    found, troubles = _fit(kind(metric, clusters, **options), X)
    flat, _ = _fit(kind(None, clusters, n_init=n_init, random_state=seed), X)
    seconds = time.perf_counter() - started

    away = found.transform(X)[np.arange(len(X)), found.labels_.clip(0)]
    away[found.labels_ < 0] = np.inf
    rows = np.empty(len(X), dtype=[("code", "i8"), ("cluster", "i8"), ("distance", "f8")])
    rows["code"], rows["cluster"], rows["distance"] = np.arange(len(X)), found.labels_, away
    tables.write_table(out / "labels.csv", rows)
    tables.write_matrix(out / "centres.csv", found.cluster_centers_)
    scores = {name: _scores(each, truth) for name, each in (("geodesic", found), ("Euclidean", flat))}
    (out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    written = ["labels.csv", "centres.csv", "scores.json"]

    header = ["distances", *next(iter(scores.values()))]
    body = [[name, *(f"{value:.4g}" for value in each.values())] for name, each in scores.items()]
    typer.echo(f"{len(X)} codes in {clusters} clusters, {seconds:.1f} s\n\n{tables.aligned(header, body)}\n")
    if decoder.latent_dim == 2:
        written += _page(out, source, metric, decoder, points, found, shape, resolution, (header, body), png)
    typer.echo(f"wrote {', '.join(written)} in {out}")
    if troubles:
        for text in troubles:
            typer.echo(f"latentgeo: {text}", err=True)
        raise typer.Exit(1)


def _classes(model: LatentModel, path: Path | None, count: int) -> NDArray[Any] | None:
    """The true classes of the codes, from a file or from the checkpoint."""
    import numpy as np

    if path is None:
        return None if model.labels is None else np.asarray(model.labels)
    read = arrays.read_array(path, what="classes")
    if read.size != count or max(read.shape) != count:
        raise ValueError(f"{path} must hold one class for each of the {count} codes; got {read.shape}")
    if not np.array_equal(read, np.round(read)):
        raise ValueError(f"{path} must hold whole numbers, one class for each code")
    return read.ravel().astype(np.int64)


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


def _page(
    out: Path,
    source: Source,
    metric: Any,
    decoder: Any,
    points: Any,
    found: Any,
    shape: tuple[int, ...] | None,
    resolution: int,
    table: tuple[list[str], list[list[str]]],
    png: bool,
) -> list[str]:
    """The picture, as a page and if asked for as a .png: the names of the files."""
    from latentgeo import plot

    figure = plot.clusters(
        metric,
        points,
        found.labels_,
        found.cluster_centers_,
        decoder=decoder if tables.pictured(decoder, shape) else None,
        shape=shape,
        resolution=resolution,
    )
    plot.write_html(figure, out / "index.html", title=f"Clusters in {source.path.name}", intro=_INTRO, table=table)
    if png:
        plot.write_figure(figure, out / "clusters.png")
    return ["index.html", *(["clusters.png"] if png else [])]
