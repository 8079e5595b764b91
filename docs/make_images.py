"""Make the pictures of docs/pictures.md again: `python docs/make_images.py [NAME ...] [--theme dark] [--out DIR]`.

From the shipped checkpoints alone; needs Chromium or Chrome. Each picture has at most 256 colours, to stay small.
The first page's picture, images/demo.png, is what `latentgeo demo` writes to demo/index.png.
"""

# ruff: noqa: D103 - each function is one entry of the gallery, and says what in its name
from __future__ import annotations

import argparse
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.mixture import GaussianMixture

import latentgeo as lg
from latentgeo import plot

HERE = Path(__file__).resolve().parent
FIGURES: dict[str, Callable[[], go.Figure]] = {}


def figure(function: Callable[[], go.Figure]) -> Callable[[], go.Figure]:
    """Add to the gallery."""
    FIGURES[function.__name__] = function
    return function


@cache
def shipped(name: str) -> lg.LatentModel:
    return lg.load(HERE.parent / "checkpoints" / f"{name}.safetensors")


def digits() -> lg.LatentModel:
    return shipped("digits-2d")


@cache
def metric() -> lg.Metric:
    return lg.metric(digits())


@cache
def graph() -> lg.LatentGraph:
    return lg.LatentGraph(metric()).fit(digits().codes)


@cache
def path() -> lg.Geodesic:
    z, label = digits().codes, digits().labels
    a, b = (torch.stack([z[label == k][0] for k in ks]) for ks in ((2, 4), (7, 0)))
    return lg.connect(metric(), a, b, init=graph(), throw=False)


@cache
def ten() -> tuple[lg.Metric, torch.Tensor, torch.Tensor]:
    """A made-up map of ten latent dimensions, its codes, and which of three clusters each is of."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(240) % 3
    spread = torch.linspace(1.0, 0.2, 10)
    codes = spread * (torch.randn(3, 10, generator=generator)[label] * 1.5 + torch.randn(240, 10, generator=generator))
    first, second = (torch.randn(n, m, generator=generator) / m**0.5 for n, m in ((24, 10), (30, 24)))
    return lg.PullbackMetric(lambda z: torch.sin(z @ first.to(z).T) @ second.to(z).T, dim=10), codes, label


@figure
def measure() -> go.Figure:
    m = digits()
    return plot.measure(metric(), codes=m.codes, labels=m.labels, paths=path(), strips=True)


@figure
def condition() -> go.Figure:
    return plot.measure(metric(), codes=digits().codes, term="condition", resolution=120)


@figure
def curvature() -> go.Figure:
    return plot.measure(metric(), codes=digits().codes, labels=digits().labels, term="curvature", resolution=100)


@figure
def plane() -> go.Figure:
    metric, codes, labels = ten()
    paths = lg.connect(metric, codes[:2], codes[4:6], throw=False)
    where = plot.Plane.principal(metric, codes)
    return plot.measure(metric, codes=codes, labels=labels, paths=paths, plane=where, resolution=80)


@figure
def geodesic() -> go.Figure:
    return plot.geodesic(metric(), path())


@figure
def strip() -> go.Figure:
    return plot.strip(digits().decoder, path())


@figure
def distance_contours() -> go.Figure:
    m = digits()
    return plot.distance_contours(metric(), m.codes[0], codes=m.codes, labels=m.labels, resolution=120)


@figure
def distance_matrix() -> go.Figure:
    m = digits()
    D = lg.pairwise_distances(metric(), m.codes[:200], graph=graph())
    return plot.distance_matrix(D, m.labels[:200], units=plot.length_units(metric()))


@cache
def gan() -> lg.LatentModel:
    return lg.load(HERE.parent / "checkpoints" / "mnist-wgan.safetensors")


@figure
def gan_samples() -> go.Figure:
    again = gan().decoder.mean(gan().codes[:36]).unflatten(1, gan().decoder.data_shape)
    return plot.samples({"generated": gan().decoder, "test images, inverted and generated again": again})


@figure
def gan_geodesic() -> go.Figure:
    z, label = gan().codes[:400], gan().labels[:400]
    geometry = lg.metric(gan())
    a, b = (torch.stack([z[label == k][0] for k in ks]) for ks in ((2, 4), (7, 0)))
    return plot.geodesic(geometry, lg.connect(geometry, a, b, init=lg.LatentGraph(geometry).fit(z), throw=False))


@figure
def clusters() -> go.Figure:
    codes = digits().codes[:500].numpy()
    found = lg.GeodesicKMeans(metric(), n_clusters=10, graph=graph(), random_state=0).fit(codes)
    return plot.clusters(metric(), codes, found.labels_, found.cluster_centers_)


@figure
def walks() -> go.Figure:
    start = path().z[:, 0]
    steps: dict[str, Any] = {"n_steps": 400, "step_size": 1e-2, "random_state": 0}
    kinds = {"Euclidean": lg.EuclideanWalk(), "inverse metric": lg.InverseMetric(), "Brownian": lg.Brownian()}
    found = {name: lg.random_walk(metric(), start, kind=kind, **steps) for name, kind in kinds.items()}
    return plot.walks(metric(), found, codes=digits().codes)


@figure
def land() -> go.Figure:
    codes = digits().codes[digits().labels == 0][:60].numpy()
    model = lg.LAND(metric(), graph=graph(), random_state=0, max_iter=15).fit(codes)
    mixture = GaussianMixture(1, random_state=0).fit(codes)
    return plot.land(model, mixture=mixture, codes=codes, resolution=120, contour_resolution=32)


@figure
def manifold() -> go.Figure:
    return plot.manifold(digits().decoder, n=14)


@figure
def samples() -> go.Figure:
    names = {"digits, d = 2": "digits-2d", "MNIST, d = 2": "mnist-2d", "MNIST, d = 10": "mnist-conv-10d"}
    return plot.samples({name: shipped(file).decoder for name, file in names.items()})


@figure
def traversals() -> go.Figure:
    return plot.traversals(shipped("mnist-conv-10d").decoder, axes=range(5))


@figure
def interpolations() -> go.Figure:
    return plot.interpolations(digits().decoder, path())


@figure
def indicatrix() -> go.Figure:
    return plot.indicatrix(metric(), codes=digits().codes, resolution=120)


@figure
def surface() -> go.Figure:
    m = digits()
    return plot.surface(metric(), codes=m.codes, labels=m.labels, paths=path())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FIGURES)}; all if none is given")
    parser.add_argument("--out", type=Path, default=HERE / "images")
    parser.add_argument("--width", type=int, default=720)
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--whole", action="store_true", help="all colours")
    arguments = parser.parse_args()
    for name in arguments.names or FIGURES:
        file = arguments.out / f"{name}{'-dark' if arguments.theme == 'dark' else ''}.png"
        plot.write_figure(FIGURES[name](), file, width=arguments.width, theme=arguments.theme)
        if not arguments.whole:
            file.write_bytes(reduced(file.read_bytes()))
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB", flush=True)


def reduced(png: bytes, colours: int = 192) -> bytes:
    """The same picture with few colours: an 8-bit palette, the nearest of k-means centres for each pixel."""
    pixels = decoded(png)
    flat = pixels.reshape(-1, 3)
    distinct, place, count = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    if len(distinct) > colours:
        means = MiniBatchKMeans(colours, random_state=0, n_init=1, batch_size=4096, max_iter=20)
        labels = means.fit(distinct, sample_weight=np.sqrt(count)).predict(distinct)
        palette = means.cluster_centers_.round().clip(0, 255).astype(np.uint8)
        common = np.argsort(count)[-8:]  # the page, the ink: exactly
        palette[labels[common]] = distinct[common]
    else:
        labels, palette = np.arange(len(distinct)), distinct
    height, width, _ = pixels.shape
    index = labels[place.reshape(-1)].astype(np.uint8).reshape(height, width)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), index], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", head),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return png[:8] + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def decoded(png: bytes) -> np.ndarray:
    """Pixels (height, width, 3) of a PNG of 8 bits per channel, RGB or RGBA, not interlaced (PNG 1.2, section 6)."""
    place, body, width, height, kind = 8, b"", 0, 0, 0
    while place < len(png):
        size, name = struct.unpack(">I4s", png[place : place + 8])
        data = png[place + 8 : place + 8 + size]
        if name == b"IHDR":
            width, height, depth, kind, *rest = struct.unpack(">IIBBBBB", data)
            if depth != 8 or kind not in (2, 6) or rest[-1]:
                raise ValueError(f"cannot read a PNG of depth {depth}, colour type {kind}")
        body += data if name == b"IDAT" else b""
        place += size + 12
    step = 3 if kind == 2 else 4
    lines = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, 1 + width * step)
    out = np.zeros((height + 1, width + 1, step), np.int32)  # a row and a column of zeros around
    for row, line in enumerate(lines, start=1):
        method, raw = int(line[0]), line[1:].reshape(width, step).astype(np.int32)
        above = out[row - 1, 1:]
        if method == 0:
            out[row, 1:] = raw
        elif method == 1:
            out[row, 1:] = np.cumsum(raw, axis=0) % 256
        elif method == 2:
            out[row, 1:] = (raw + above) % 256
        else:
            _predicted(out, row, raw, method)
    return out[1:, 1:, :3].astype(np.uint8)


def _predicted(out: np.ndarray, row: int, raw: np.ndarray, method: int) -> None:
    """Undo filters 3 and 4, whose guesses need the pixel before."""
    for column in range(1, out.shape[1]):
        a, b, c = out[row, column - 1], out[row - 1, column], out[row - 1, column - 1]
        if method == 3:
            guess = (a + b) // 2
        else:
            p = a + b - c
            da, db, dc = abs(p - a), abs(p - b), abs(p - c)
            guess = np.where((da <= db) & (da <= dc), a, np.where(db <= dc, b, c))
        out[row, column] = (raw[column - 1] + guess) % 256


if __name__ == "__main__":
    main()
