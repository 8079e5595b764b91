"""What the probe chooses for every kind of decoder, how right it is, what it costs; writes docs/derivatives.md.

python benchmarks/probe_table.py [--out docs/derivatives.md]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from decoder_kinds import KINDS, Kind  # noqa: E402
from problems import normal  # noqa: E402
from test_probe_kinds import Counted, Z, build, relative  # noqa: E402

import latentgeo as lg  # noqa: E402
from latentgeo._calculus import Embedding  # noqa: E402

INTRO = """# Derivatives

Everything rests on derivatives of your decoder, and PyTorch has more than one way to take them. Not all of them are
right for all layers: some forward-mode formulas are missing, and a derivative *of* a forward-mode tangent can be
silently wrong. So an `Embedding` **probes** its function once, on four codes, before the first derivative is taken:

- two calls on the same codes must agree (not random), and a row must not depend on the other rows;
- each way of taking each kind of derivative is tried, from the fastest down, and must agree with finite differences
  that find their own step and know their own error, and with reverse mode to round-off;
- the second derivative must explain how slopes change along lines; where it does not, the function has kinks (ReLU),
  and no certificate of minimality is given.

The first way that passes is used from then on; `repr(decoder.embedding)` names it and `decoder.embedding.report` says
why others were rejected. *finite differences* and *differences of …* are the last resort, and used with a
`DerivativeWarning`; gradients do not reach weights where reverse mode is switched off (`no_grad`, `inference_mode`,
NumPy). Modules in train mode are put in eval mode, half-precision weights are copied to float32; both are said.

Refused is only what has no derivative, couples the rows of a batch, or is random.

## The table

Errors are relative to the largest entry, float64, against differences of the decoder's values extrapolated over
fourteen steps; second derivatives of piecewise linear decoders are zero, and their error relative to the slope.
Cost: calls of the decoder while it is probed, rows in all of them together, seconds (median of {repeats}, one thread).
Written by `python benchmarks/probe_table.py` with PyTorch {torch}.

| decoder | first derivative | second derivative | error of first | error of second | verdict | calls | rows | seconds |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


class Row(NamedTuple):
    name: str
    first: str
    second: str
    first_error: float | None
    second_error: float | None
    verdict: str
    calls: int
    rows: int
    seconds: float

    def __str__(self) -> str:
        errors = ("" if e is None else f"{e:.0e}" for e in (self.first_error, self.second_error))
        cells = (self.name, self.first, self.second, *errors, self.verdict, self.calls, self.rows)
        return f"| {' | '.join(map(str, cells))} | {self.seconds:.3f} |"


def measure(kind: Kind, repeats: int) -> Row:
    seconds, counted = [], None
    for _ in range(repeats):
        made = kind.make()
        if isinstance(made, torch.nn.Module):
            made = made.double().eval()
        counted = Counted(made)
        phi = Embedding(lambda z, f=counted: f(z).flatten(1), dim=2)
        start = time.perf_counter()
        try:
            phi.probe()
        except lg.EmbeddingError as error:
            reason = str(error)
        seconds.append(time.perf_counter() - start)
    cost = counted.calls, counted.rows, sorted(seconds)[repeats // 2]
    if kind.refused is not None:
        short = reason.removeprefix("phi: ").split(" (")[0].split(":")[0]
        return Row(kind.name, "", "", None, None, f"refused: {short}", *cost)
    case = build(kind)
    report, ref = case.phi.probe(Z), case.ref
    J = ref.J.abs().amax()
    u, v, w = normal(5, 2, seed=1), normal(5, 2, seed=3), normal(5, ref.J.shape[1], seed=2)
    first = relative(case.phi.jacobian(Z), ref.J)
    second = max(
        relative(case.phi.second(Z, u, v), torch.einsum("bDij,bi,bj->bD", ref.H, u, v), float(J)),
        relative(case.phi.hessian(Z, w), torch.einsum("bDij,bD->bij", ref.H, w), float(J)),
    )
    verdict = "right" if first < 1e-6 and second < 1e-5 else "WRONG"
    if not report.smooth:
        verdict += ", has kinks"
    if kind.warns is not None:
        verdict += f", warns: {kind.warns}"
    return Row(kind.name, report.first, report.hessian, first, second, verdict, *cost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "derivatives.md")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Embedding(torch.tanh, dim=2).probe()  # PyTorch loads its function transforms at first use
        for kind in KINDS.values():
            rows.append(measure(kind, args.repeats))
            print(rows[-1], flush=True)
    refused = [row for row in rows if row.verdict.startswith("refused")]
    right = [row for row in rows if row.verdict.startswith("right")]
    wrong = len(rows) - len(refused) - len(right)
    worst = [max(values) for values in zip(*((r.first_error, r.second_error) for r in right), strict=True)]
    cost = [max(values) for values in zip(*((r.calls, r.rows, r.seconds) for r in rows), strict=True)]
    summary = (
        f"{len(rows)} kinds of decoder: {len(right)} right, {len(refused)} refused, {wrong} wrong. Worst errors "
        f"{worst[0]:.0e} (first) and {worst[1]:.0e} (second); at most {cost[0]} calls, {cost[1]} rows and "
        f"{cost[2]:.2f} s."
    )
    print(summary)
    text = INTRO.format(torch=torch.__version__.split("+")[0], repeats=args.repeats) + "\n".join(map(str, rows))
    args.out.write_text(f"{text}\n\n{summary}\n", encoding="utf-8")
    print(f"wrote {args.out}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
