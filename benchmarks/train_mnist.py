"""VAEs on MNIST: importance-sampled log p(x), the order of importance-weighted bounds, and the two-stage Gaussian.

    export LATENTGEO_DATA=/path/to/data
    python benchmarks/train_mnist.py nll --importance-samples 1 --epochs 60 --json nll.json
    python benchmarks/train_mnist.py ordering --epochs 100 --device cuda --json ordering.json
    python benchmarks/train_mnist.py two-stage --json two-stage.json

Bernoulli models are trained on dynamically binarised training images and scored on one binarised draw (seed 0) of the
10,000 test images, by default with 500 importance samples each. Weights come from the training images alone; the number
of epochs behind the figure in docs/training.md was settled after a look at a shorter run's score on 1,000 test images.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch

import latentgeo as lg
from latentgeo import train


def placed(model: lg.LatentModel, device: str) -> lg.LatentModel:
    """The same model on a device."""
    if device == "cpu":
        return model
    return lg.LatentModel(model.decoder.to(device), copy.deepcopy(model.encoder).to(device))


def nll(given: argparse.Namespace, k: int, seed: int) -> dict[str, Any]:
    """Train a Bernoulli VAE with K importance samples; its negative log p(x) on the test images."""
    recipe = train.VAE(
        latent_dim=given.latent_dim,
        network=train.Dense(hidden=tuple(given.hidden), activation=given.activation),
        likelihood=lg.Bernoulli(),
        binarise="dynamic",
        warmup=given.warmup,
        importance_samples=k,
        score_data=100,
        score_samples=10,
    )
    data = train.as_data("mnist")
    started = time.perf_counter()
    result = train.fit(
        recipe,
        data,
        epochs=given.epochs,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        seed=seed,
        out=None if given.out is None else given.out / f"mnist-nll-k{k}-seed{seed}.safetensors",
        device=given.device,
        precision=given.precision,
        curves=False,
        trainer=None if given.limit is None else {"max_time": given.limit},
    )
    trained = result.model.metadata["seconds"]
    model = placed(result.model, given.device)
    found = train.log_evidence(
        model,
        data.held_out[: given.test_data],
        n_samples=given.test_samples,
        binarise="dynamic",
        max_bytes=2**26 if given.device == "cpu" else 2**31,
    )
    report = {
        "importance_samples_in_training": k,
        "seed": seed,
        "epochs": result.model.metadata["epochs"],
        "nll": -found.log_likelihood,
        **found.to_dict(),
        "active_axes": given.latent_dim - len(result.model.metadata["collapsed_axes"]),
        "latent_dim": given.latent_dim,
        "hidden": given.hidden,
        "activation": given.activation,
        "batch_size": given.batch_size,
        "learning_rate": given.learning_rate,
        "training_seconds": trained,
        "training_cpu_seconds": result.model.metadata["cpu_seconds"],
        "seconds": round(time.perf_counter() - started, 1),
        "device": result.model.metadata["device"],
        "versions": result.model.metadata["versions"],
    }
    print(
        f"K = {k}, seed {seed}: NLL {report['nll']:.2f} ± {found.standard_error:.2f} nats ({found.n_data} test images, "
        f"{found.binarisation}, {found.n_samples} importance samples); ELBO {found.elbo:.2f}; "
        f"{report['active_axes']} of {given.latent_dim} axes active; {report['epochs']} epochs, trained in "
        f"{trained:.0f} s ({report['training_cpu_seconds']:.0f} s of CPU time) on {report['device']}",
        flush=True,
    )
    return report


def ordering(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The same network and number of updates with K = 1, 5, 50 (Burda et al. 2016, table 1)."""
    found = []
    for seed in given.seeds:
        for k in given.samples:
            found.append(nll(given, k, seed))
            write(given.json, found)  # a run that is cut short keeps what it had
    for k in given.samples:
        values = torch.tensor([row["nll"] for row in found if row["importance_samples_in_training"] == k])
        spread = f", standard deviation {values.std():.3f}" if len(values) > 1 else ""
        print(f"K = {k}: mean NLL {values.mean():.2f} over {len(values)} seeds{spread}")
    return found


def two_stage(given: argparse.Namespace) -> list[dict[str, Any]]:
    """A Gaussian VAE with d = 2: σ by an RBF precision in a second stage, or by a network trained with the mean.

    The precision's residuals are raised to a hundredth of their mean square before it is fitted, which holds its σ
    above a tenth of the constant σ that fits best. The network gets the same floor, unless --floor says otherwise: what
    always-black pixels are worth depends on nothing else.
    """
    data = train.as_data(given.data, held_out=0.2 if given.data == "digits" else None)
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        floor = given.floor
        for name in ("RBF precision", "σ network"):
            scale = train.RBF() if name == "RBF precision" else train.ScaleNetwork(floor=floor)
            recipe = train.VAE(network=train.Dense(hidden=(64, 32)), scale=scale, score_data=100, score_samples=10)
            result = train.fit(
                recipe,
                data,
                epochs=given.epochs,
                batch_size=64 if given.data == "digits" else 128,
                learning_rate=2e-3,
                seed=seed,
                device=given.device,
            )
            model = placed(result.model, given.device)
            x = data.held_out[: given.test_data].to(given.device)
            evidence = train.log_evidence(model, x, n_samples=given.test_samples)
            g = torch.Generator(x.device).manual_seed(0)
            with torch.no_grad():
                if floor is None:
                    z, seen = codes_and_data(model, data.x)
                    floor = 0.1 * float((seen - model.decoder.mean(z)).square().mean().sqrt())
                mean, std = model.encoder(x)
                z = mean + std * torch.randn(mean.shape, generator=g, device=x.device)
                given_z = model.decoder.log_prob(z, x.flatten(1)).double()
                at_codes = float(model.decoder.std(mean).mean())
                angle = torch.arange(64, device=x.device) * (2 * torch.pi / 64)
                circle = torch.stack([angle.cos(), angle.sin()], -1)
                radius = float((mean - mean.mean(0)).norm(dim=-1).quantile(0.99))
                off = {
                    f"{reach:g}": float(model.decoder.std(mean.mean(0) + reach * radius * circle).mean())
                    for reach in (1.0, 1.5, 2.0, 4.0)
                }
            row = {
                "data": data.name,
                "sigma": name,
                "seed": seed,
                "log_p_x_given_z": float(given_z.mean()),
                **evidence.to_dict(),
                "least_sigma": floor,
                "sigma_at_codes": at_codes,
                "sigma_at_multiples_of_the_codes_radius": off,
                "training_seconds": result.model.metadata["seconds"],
                "epochs": given.epochs,
                "device": result.model.metadata["device"],
            }
            rows.append(row)
            write(given.json, rows)
            print(
                f"{name}, seed {seed}: held-out log p(x | z) {row['log_p_x_given_z']:.1f}, log p(x) "
                f"{evidence.log_likelihood:.1f} ± {evidence.standard_error:.1f} nats per image "
                f"({evidence.n_samples} importance samples); mean σ at the codes {at_codes:.3f}, at 1, 1.5, 2, 4 times "
                f"their radius {', '.join(f'{v:.3f}' for v in off.values())}",
                flush=True,
            )
    return rows


def codes_and_data(model: lg.LatentModel, x: torch.Tensor, n: int = 5_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior samples of some training data, and these data as rows."""
    x = x[:n].to(model.decoder.device)
    mean, std = model.encoder(x)
    noise = torch.randn(mean.shape, generator=torch.Generator(x.device).manual_seed(0), device=x.device)
    return mean + std * noise, x.flatten(1)


def write(path: Path | None, found: Any) -> None:
    """Keep figures as JSON."""
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("nll", "ordering", "two-stage"):
        one = commands.add_parser(name)
        one.add_argument("--epochs", type=int, default=100 if name == "ordering" else 60)
        one.add_argument("--device", default="cpu", help="cpu, cuda, …")
        one.add_argument("--json", type=Path, help="file to write the figures to")
        one.add_argument("--test-samples", type=int, default=500, help="importance samples per test image")
        one.add_argument("--test-data", type=int, default=10_000, help="score so many of the test images")
        if name == "nll":
            one.add_argument("--seed", type=int, default=0)
            one.add_argument("--importance-samples", type=int, default=1, help="K of the bound that is trained")
        else:
            one.add_argument("--seeds", type=int, nargs="+", default=[0])
        if name == "ordering":
            one.add_argument("--samples", type=int, nargs="+", default=[1, 5, 50], help="the Ks")
        if name == "two-stage":
            one.add_argument("--data", choices=["mnist", "digits"], default="mnist")
            one.add_argument("--floor", type=float, help="least σ of the network")
            continue
        one.add_argument("--latent-dim", type=int, default=40)
        one.add_argument("--hidden", type=int, nargs="+", default=[500, 500])
        one.add_argument("--activation", default="silu")
        one.add_argument("--batch-size", type=int, default=100)
        one.add_argument("--learning-rate", type=float, default=1e-3)
        one.add_argument("--warmup", type=float, default=0.1)
        one.add_argument("--precision", default="32-true", help="Lightning's: bf16-mixed, …")
        one.add_argument("--limit", help="Lightning's max_time, e.g. 00:00:55:00")
        one.add_argument("--out", type=Path, help="folder for checkpoints; a run that was killed goes on from there")
    given = parser.parse_args(arguments)
    if given.command == "nll":
        found: Any = nll(given, given.importance_samples, given.seed)
    else:
        found = ordering(given) if given.command == "ordering" else two_stage(given)
    write(given.json, found)


if __name__ == "__main__":
    main()
