"""`latentgeo info`: what a checkpoint holds."""

from __future__ import annotations

from collections import Counter

import typer

from latentgeo._cli import tables
from latentgeo._cli.source import Source


def info(source: Source) -> None:
    """Say what a checkpoint holds: the decoder, its likelihood, codes, labels and how it was trained."""
    import latentgeo as lg

    model = source.load()
    decoder = model.decoder
    lines = [
        ("file", f"{source.path} ({source.path.stat().st_size / 1e6:.2f} MB)"),
        ("decoder", repr(decoder)),
        ("latent dim", f"{decoder.latent_dim}"),
        ("data", f"{decoder.data_dim} numbers, shape {'×'.join(map(str, decoder.data_shape))}"),
        ("likelihood", repr(decoder.likelihood)),
        ("weights", f"{decoder.dtype} on {decoder.device}".replace("torch.", "")),
    ]
    if decoder.precision is not None:
        bound = float(decoder.precision.floor) ** -0.5
        lines.append(("σ", f"RBF precision of {decoder.precision.n_centers} centres; σ is at most {bound:.3g}"))
    lines.append(("encoder", "none" if model.encoder is None else type(model.encoder).__name__))
    lines.append(("codes", "none" if model.codes is None else "×".join(map(str, model.codes.shape))))
    if model.labels is not None:
        counts = Counter(model.labels.tolist())
        shown = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())[:12])
        lines.append(("labels", shown + (", …" if len(counts) > 12 else "")))
    lines.append(("metric", repr(lg.metric(decoder))))
    lines.append(("derivatives", tables.derivatives(decoder)))
    lines += [(f"no {name} metric", reason) for name, reason in sorted(decoder.missing.items())]
    lines += [(str(key), tables.brief(value)) for key, value in model.metadata.items()]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        typer.echo(f"{name:<{width}}  {text}")
