"""What the shipped models' geometry looks like: the rim, the barrier around the codes, and the precision's scores.

Along rays from the codes' mean the standard deviation must rise, beyond every centre's projection, until it saturates
at ζ^(-1/2), and the log-measure must peak in a rim and fall beyond (Arvanitidis, Hansen, Hauberg 2018, section 4).

    python benchmarks/shipped_models.py [checkpoint ...]
"""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import latentgeo as lg
from latentgeo.decoders.fit import edge_ratio

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
N_RAYS, N_STEPS, REACH = 32, 2001, 4.0  # rays, points on each, and how many times the codes' radius they go out


@dataclass(frozen=True)
class Rays:
    """Straight rays from the codes' mean; arrays of shape (rays, steps) unless said otherwise."""

    z: Tensor
    radius: Tensor  # (steps,)
    last_center: Tensor  # (rays,) largest projection of a centre on the ray
    code_radius: float  # the 99th percentile of the codes' distance from their mean
    sigma: Tensor  # mean standard deviation over coordinates
    log_volume: Tensor
    to_saturation: Tensor  # (rays,) first radius where sigma is within 1 % of its limit


def shoot_rays(model: lg.LatentModel, metric: lg.Metric) -> Rays:
    precision, codes = model.decoder.precision, model.codes
    origin = codes.mean(0)
    far = float((codes - origin).norm(dim=-1).max())
    angle = torch.arange(N_RAYS, dtype=codes.dtype) * (2 * math.pi / N_RAYS)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    radius = torch.linspace(0, REACH * far, N_STEPS, dtype=codes.dtype)
    z = origin + radius[:, None] * direction[:, None]
    with torch.no_grad():
        sigma = model.decoder.std(z).mean(-1)
        log_volume = metric.log_volume(z)
    saturated = sigma >= 0.99 * precision.saturation
    first = torch.where(saturated.any(-1), saturated.int().argmax(-1), N_STEPS - 1)
    last_center = ((precision.centers - origin) @ direction.T).amax(0)
    typical = float((codes - origin).norm(dim=-1).quantile(0.99))
    return Rays(z, radius, last_center, typical, sigma, log_volume, radius[first])


def rank_deficiency(model: lg.LatentModel, metric: lg.Metric) -> float:
    """The least radius at which the metric has lost a rank to rounding, over rays that go 100 times as far."""
    codes = model.codes
    angle = torch.arange(N_RAYS, dtype=codes.dtype) * (2 * math.pi / N_RAYS)
    radius = torch.logspace(0, 2, 201) * float((codes - codes.mean(0)).norm(dim=-1).max())
    z = codes.mean(0) + radius[:, None, None] * torch.stack([angle.cos(), angle.sin()], -1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log_volume = metric.log_volume(z)
    if bool(torch.isnan(log_volume).any()):
        raise SystemExit("the log-measure is NaN far from the codes")
    lost = (log_volume == -torch.inf).any(-1)
    return float(radius[lost].min()) if bool(lost.any()) else math.inf


def measure(path: Path, n_pairs: int = 100, seed: int = 0) -> dict[str, float]:
    model = lg.load(path)
    decoder, codes = model.decoder, model.codes
    metric = lg.metric(model)
    rays = shoot_rays(model, metric)
    saturation = decoder.precision.saturation

    beyond = rays.radius >= rays.last_center[:, None]
    steps = rays.sigma.diff(dim=-1)
    drop = float((-steps / saturation)[beyond[:, :-1]].max())  # how much sigma ever falls out there, relative
    finite = torch.isfinite(rays.log_volume)
    peak_at = torch.where(finite, rays.log_volume, -torch.inf).argmax(-1)
    rows = torch.arange(N_RAYS)
    peak = rays.log_volume[rows, peak_at]
    at_codes = float(metric.log_volume(codes).median())
    outside = [rays.log_volume[i, k:] for i, k in enumerate(peak_at.tolist())]
    climbs = torch.stack([(v - v.cummin(0).values).nan_to_num(neginf=0.0).max() for v in outside])
    end = rays.log_volume[:, -1]

    rng = np.random.RandomState(seed)
    i, j = (torch.as_tensor(rng.choice(len(codes), n_pairs, replace=False)) for _ in range(2))
    keep = i != j
    a, b = codes[i[keep]], codes[j[keep]]
    t = torch.linspace(0, 1, N_STEPS, dtype=codes.dtype)[:, None]
    straight = lg.curve_length(metric, a[:, None] + t * (b - a)[:, None])
    geodesics = lg.connect(metric, a, b, solver=lg.Newton(rtol=1e-2), throw=False)
    crossing = torch.stack(
        [
            lg.curve_length(metric, z[: int((rays.radius <= r).sum())])
            for z, r in zip(rays.z, rays.to_saturation.tolist(), strict=True)
        ]
    )
    distance = geodesics.length[torch.as_tensor(np.asarray(geodesics.converged))]
    scores = model.metadata["scores"]
    return {
        "sigma limit (1/sqrt floor)": saturation,
        "sigma at the codes (median)": float(decoder.std(codes).mean(-1).median()),
        "sigma at the rays' ends (least)": float(rays.sigma[:, -1].min()),
        "largest fall of sigma beyond the centres (relative)": 0.0 if drop <= 0 else drop,
        "radius of the codes (99 %)": rays.code_radius,
        "radius of saturation (median)": float(rays.to_saturation.median()),
        "radius of the rim (median)": float(rays.radius[peak_at].median()),
        "radius of the rim (least)": float(rays.radius[peak_at].min()),
        "radius of the rim (greatest)": float(rays.radius[peak_at].max()),
        "log-measure at the codes (median)": at_codes,
        "log-measure at the rim (least, over rays)": float(peak.min()),
        "log-measure at the rays' ends (greatest)": float(end.max()),
        "fall from the rim to the ray's end (least)": float((peak - end).min()),
        "largest climb on the way down": float(climbs.max()),
        "radius of rank deficiency (-inf; least)": rank_deficiency(model, metric),
        "NaN on rays": float(torch.isnan(rays.log_volume).sum()),
        "straight length between codes (median)": float(straight.median()),
        "geodesic distance between codes (median)": float(distance.median()),
        "geodesics converged": float(len(distance)) / len(a),
        "length of a ray through the rim (least)": float(crossing.min()),
        "barrier: ray (median) / straight (median)": float(crossing.median() / straight.median()),
        "barrier: ray (median) / geodesic (median)": float(crossing.median() / distance.median()),
        "barrier: ray (least) / geodesic (median)": float(crossing.min() / distance.median()),
        "median edge ratio (sigma / mean) of the codes": edge_ratio(decoder, codes),
        "held-out log-likelihood, RBF": scores["log_likelihood"],
        "held-out log-likelihood, constant": scores["log_likelihood_constant"],
        "held-out log-likelihood, constant per coordinate": scores["log_likelihood_per_coordinate"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", type=Path, help="default: every shipped one")
    for path in parser.parse_args().checkpoints or sorted(CHECKPOINTS.glob("*.safetensors")):
        print(f"\n{path.name}")
        for name, value in measure(path).items():
            print(f"  {name:<55}{value:>14.5g}")


if __name__ == "__main__":
    main()
