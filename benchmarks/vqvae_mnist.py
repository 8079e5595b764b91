r"""Vector-quantised autoencoders of MNIST: one level of codes against two, at the same networks and epochs.

    python benchmarks/vqvae_mnist.py --device cuda --epochs 100 --json vqvae.json
    python benchmarks/vqvae_mnist.py --device cpu --epochs 4 --train 6400 --test 2000 --batch 64 --rate 2e-3 \
        --width 32 --prior-width 64 --prior-layers 2

Prints, for each: how many codes an image has and what they could cost at most, codebook perplexity, squared error of
reconstructions, the prior's bits per code, the bound on minus log p(x), and scores of samples on the features of the
shipped classifier: reconstructions, samples of the prior, and codes drawn uniformly. All are of the 10,000 test images
unless `--test` says otherwise. MNIST must be at hand (see `latentgeo.datasets.load_mnist`).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

import latentgeo as lg
from latentgeo.train import scores

ROOT = Path(__file__).resolve().parent.parent
FEATURES = ROOT / "checkpoints" / "features" / "mnist-classifier.safetensors"


def run(levels: int, given: argparse.Namespace, data: lg.train.TrainData, folder: Path | None) -> dict[str, Any]:
    prior = lg.train.Transformer(given.prior_width, given.prior_layers, share=given.share)
    recipe = lg.train.VQVAE(given.codes, given.code_dim, levels, given.width, prior=prior)
    out = None if folder is None else folder / f"mnist-vqvae-{levels}.safetensors"
    start = time.perf_counter()
    result = lg.train.fit(
        recipe,
        data,
        epochs=given.epochs,
        batch_size=given.batch,
        learning_rate=given.rate,
        seed=given.seed,
        device=given.device,
        out=out,
        curves=False,
        progress=False,
    )
    seconds = time.perf_counter() - start
    network: Any = result.model.decoder.module.to(given.device)
    x = data.held_out.to(given.device)
    with torch.no_grad():
        encoder: Any = result.model.encoder.to(given.device)
        again = torch.cat([network(network.quantise(encoder(part))) for part in x.split(500)]).cpu()
        n = len(x) if given.samples is None else given.samples
        drawn = network.sample(n, random_state=given.seed).cpu()
        generator = torch.Generator(given.device).manual_seed(given.seed)
        shape = (n, sum(network.positions))
        uniform = torch.randint(network.n_codes, shape, generator=generator, device=given.device)
        random = torch.cat([network(network.embed(part)) for part in uniform.split(500)]).cpu()
    features = lg.train.load_features(FEATURES)
    real = data.held_out[:n].clamp(0, 1)
    found: dict[str, Any] = {"levels": levels, "seconds": round(seconds, 1), **result.scores, "samples": {}}
    for name, made in (("reconstructions", again[:n]), ("prior", drawn), ("uniform codes", random)):
        made = made.clamp(0, 1)
        parts = {
            "frechet": scores.frechet_distance(real, made, features),
            "kernel": scores.kernel_distance(real, made, features),
            "precision_recall": scores.precision_recall(real, made, features),
            "density_coverage": scores.density_coverage(real, made, features),
        }
        found["samples"][name] = {key: value.to_dict() for key, value in parts.items()}
    found["history"] = result.history
    if given.pictures is not None:
        from latentgeo import plot

        shown = {"data": real[:64], "reconstructions": again[:64], "samples of the prior": drawn[:64]}
        figure = plot.samples(shown, n=64, shape=(28, 28), title=f"VQ-VAE of MNIST, {levels} level(s)")
        plot.write_figure(figure, given.pictures / f"vqvae-{levels}.png")
    return found


def show(found: dict[str, Any]) -> None:
    names = [""] if found["levels"] == 1 else ["_top", "_bottom"]
    bits = found["log2_n_codes"]
    most = found["codes_per_datum"] * bits
    print(f"{found['levels']} level(s), {found['seconds']:.0f} s, {found['n']} images of {found['of']}")
    print(
        f"  codes per image {found['codes_per_datum']}: at most {most:.0f} bits at log2 K = {found['log2_n_codes']:g}"
    )
    for name in names:
        print(
            f"  {name.strip('_') or 'codes':8s} perplexity {found['perplexity' + name]:.1f}, "
            f"prior {found['bits_per_code' + name]:.3f} bits per code"
        )
    print(f"  squared error {found['squared_error']:.5f} per pixel; all codes {found['rate'] / math.log(2):.1f} bits")
    print(f"  -log p(x) <= {found['bound']:.1f} nats = {found['distortion']:.1f} + {found['rate']:.1f}")
    for name, parts in found["samples"].items():
        pr, dc = parts["precision_recall"], parts["density_coverage"]
        print(
            f"  {name:16s} Fréchet {parts['frechet']['value']:.2f}, kernel {parts['kernel']['value']:.4f} "
            f"± {parts['kernel']['error']:.4f}, precision {pr['precision']:.3f}, recall {pr['recall']:.3f}, "
            f"density {dc['density']:.3f}, coverage {dc['coverage']:.3f}"
        )
    print(f"  on {parts['frechet']['features']}; {parts['frechet']['n_generated']} samples", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codes", type=int, default=128)
    parser.add_argument("--code-dim", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--prior-width", type=int, default=96)
    parser.add_argument("--prior-layers", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.5, help="the prior's share of the epochs")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--train", type=int, help="so many training images only")
    parser.add_argument("--test", type=int, help="so many test images only")
    parser.add_argument("--samples", type=int, help="so many samples, instead of as many as test images")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, help="folder for the checkpoints")
    parser.add_argument("--pictures", type=Path, help="folder for pictures")
    given = parser.parse_args()
    train, test = lg.datasets.load_mnist("train"), lg.datasets.load_mnist("test")
    data = lg.train.TrainData(
        x=train.data[: given.train].reshape(-1, 28, 28),
        stored=test.data[:100].reshape(-1, 28, 28),
        held_out=test.data[: given.test].reshape(-1, 28, 28),
        name="mnist",
    )
    found = []
    for levels in given.levels:
        found.append(run(levels, given, data, given.out))
        show(found[-1])
        if given.json is not None:
            settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items()}
            given.json.write_text(json.dumps({"settings": settings, "models": found}, indent=1))


if __name__ == "__main__":
    main()
