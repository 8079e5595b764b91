"""Decoders of every kind that users bring, float64, R² → R^D; what the probe must do with each. For tests and docs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

KINDS: dict[str, Kind] = {}


@dataclasses.dataclass(frozen=True)
class Kind:
    """How to build one decoder, and what must become of it."""

    name: str
    make: Callable[[], Any]  # a callable or module from (B, 2) to (B, ...)
    refused: str | None = None  # words of the refusal; None if the decoder must work
    warns: str | None = None  # words of the warning when it is wrapped
    smooth: bool = True


def kind(name: str, **expected: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def add(make: Callable[[], Any]) -> Callable[[], Any]:
        def build() -> Any:
            torch.manual_seed(0)
            return make()

        KINDS[name] = Kind(name, build, **expected)
        return make

    return add


def dense(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 16), *middle, nn.Linear(16, 12)).double().eval()


for activation in (nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus, nn.ELU, nn.Sigmoid, nn.Mish):
    kind(activation.__name__)(lambda activation=activation: dense(activation()))


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(4 * x)


kind("sine layers")(lambda: dense(Sine(), nn.Linear(16, 16), Sine()))
kind("LayerNorm")(lambda: dense(nn.Tanh(), nn.LayerNorm(16)))
kind("RMSNorm")(lambda: dense(nn.Tanh(), nn.RMSNorm(16)))
kind("GroupNorm")(lambda: dense(nn.Tanh(), nn.GroupNorm(4, 16)))
kind("InstanceNorm")(
    lambda: (
        nn.Sequential(
            nn.Linear(2, 36),
            nn.Unflatten(1, (4, 3, 3)),
            nn.InstanceNorm2d(4, affine=True),
            nn.Tanh(),
            nn.Conv2d(4, 1, 3, padding=1),
        )
        .double()
        .eval()
    )
)


def batch_norm() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Linear(16, 12)).double()
    for _ in range(20):
        net(torch.randn(64, 2, dtype=torch.float64))
    return net


kind("BatchNorm, eval")(lambda: batch_norm().eval())
kind("BatchNorm, train", warns="train mode")(batch_norm)
kind("Dropout, train", warns="train mode")(lambda: dense(nn.Tanh(), nn.Dropout(0.5)).train())
kind("ReLU", smooth=False)(lambda: dense(nn.ReLU(), nn.Linear(16, 16), nn.ReLU()))
kind("LeakyReLU", smooth=False)(lambda: dense(nn.LeakyReLU(0.2), nn.Linear(16, 16), nn.LeakyReLU(0.2)))
kind("max pooling", smooth=False)(lambda: dense(nn.Tanh(), nn.Unflatten(1, (16, 1)), nn.Flatten(), Pool()))


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool1d(x[:, None], 2, stride=1, padding=1)[:, 0, :16]


class Attention(nn.Module):
    """Four tokens from a code, attended to, read out."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.tokens = nn.Linear(2, 32)
        self.layer = layer
        self.out = nn.Linear(8, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.tokens(z).unflatten(1, (4, 8))
        y = self.layer(x, x, x)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        return self.out(y).flatten(1)


class FunctionalAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (x.unflatten(-1, (2, 4)).transpose(1, 2) * s for s in (1.5, 1.0, 0.7))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)


kind("MultiheadAttention")(lambda: Attention(nn.MultiheadAttention(8, 2, batch_first=True)).double().eval())
kind("scaled_dot_product_attention")(lambda: Attention(FunctionalAttention()).double().eval())
kind("TransformerEncoderLayer")(lambda: Attention(transformer()).double().eval())


class Sampled(nn.Module):
    """Features of a code sampled on a fixed warped grid, or a fixed picture on a grid that the code moves."""

    def __init__(self, moves: bool, mode: str) -> None:
        super().__init__()
        self.moves, self.mode = moves, mode
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 6 if moves else 16))
        grid = F.affine_grid(torch.tensor([[[0.8, 0.2, 0.1], [-0.3, 0.7, 0.05]]]), [1, 1, 4, 4], align_corners=False)
        self.register_buffer("grid", grid)
        self.register_buffer("picture", torch.randn(1, 1, 4, 4))

    def forward(self, z: Tensor) -> Tensor:
        x = self.net(z)
        if self.moves:
            grid = F.affine_grid(0.4 * x.unflatten(1, (2, 3)), [len(z), 1, 4, 4], align_corners=False)
            picture = self.picture.expand(len(z), -1, -1, -1)
        else:
            grid, picture = self.grid.expand(len(z), -1, -1, -1), x.unflatten(1, (1, 4, 4))
        return F.grid_sample(picture, grid, mode=self.mode, align_corners=False).flatten(1)


kind("grid_sample of features")(lambda: Sampled(False, "bilinear").double().eval())
kind("grid_sample, moving grid", smooth=False)(lambda: Sampled(True, "bilinear").double().eval())


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.rnn = cell(2, 6, **options)
        self.out = nn.Linear(6, 3)

    def forward(self, z: Tensor) -> Tensor:
        steps = torch.arange(1, 5, dtype=z.dtype)[None, :, None]
        return self.out(self.rnn(z[:, None, :] * steps)[0]).flatten(1)


kind("GRU")(lambda: Recurrent(nn.GRU, batch_first=True).double().eval())
kind("LSTM")(lambda: Recurrent(nn.LSTM, batch_first=True, num_layers=2).double().eval())


def normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(norm(nn.Linear(2, 16)), nn.Tanh(), norm(nn.Linear(16, 12))).double().eval()


kind("spectral norm")(lambda: normed(nn.utils.parametrizations.spectral_norm))
kind("weight norm")(lambda: normed(nn.utils.parametrizations.weight_norm))


class InPlace(nn.Module):
    def __init__(self, saved: bool) -> None:
        super().__init__()
        self.net, self.saved = dense(nn.Tanh()), saved

    def forward(self, z: Tensor) -> Tensor:
        z.mul_(1.5).add_(0.1)  # the caller's own tensor
        x = self.net(z)
        if self.saved:  # overwrites what reverse mode needs
            x = x.tanh_()
            x[:, :3] += x[:, 3:6].square()
        x[:, 6:] *= 0.5
        return F.softplus(x).add_(1.0)


kind("in-place operations")(lambda: InPlace(False).eval())
kind("in-place on saved tensors")(lambda: InPlace(True).eval())


class Decorated(nn.Module):
    def __init__(self, guard: Any) -> None:
        super().__init__()
        self.net = dense(nn.Tanh(), nn.LayerNorm(16))
        self.guard = guard

    def forward(self, z: Tensor) -> Tensor:
        return self.guard()(self.net)(z)


kind("inference_mode decorator")(lambda: Decorated(torch.inference_mode).eval())
kind("no_grad decorator")(lambda: Decorated(torch.no_grad).eval())


class Branches(nn.Module):
    """Every row goes through the branch that its own code chooses; the two meet smoothly."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense(nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        rows = []
        for row in z:
            x = self.net(row[None])[0]
            rows.append(x + row[0] ** 4 if bool(row[0] > 0) else x)
        return torch.stack(rows)


kind("data-dependent control flow")(lambda: Branches().eval())
kind("random outputs", refused="is random")(lambda: lambda z: z.sin() + 1e-3 * torch.randn_like(z))
kind("batch coupling", refused="couples the rows")(lambda: dense(nn.Tanh(), Standardise()))
kind("rows as a sequence", refused="couples the rows")(lambda: Sequence().double().eval())
kind("quantised (argmin)", refused="no useful derivative")(lambda: Codebook().double().eval())


class Standardise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0) + 1)


class Sequence(nn.Module):
    """A recurrent net that takes a batch of codes for one sequence: every row depends on those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 6)

    def forward(self, z: Tensor) -> Tensor:
        return self.rnn(z)[0]


class Codebook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(64, 2))
        self.net = dense(nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.net(self.codes[torch.cdist(z, self.codes).argmin(-1)])


kind("half precision", warns="float32 copy")(lambda: dense(nn.Tanh(), nn.LayerNorm(16)).half())


def convolutions(memory_format: torch.memory_format) -> nn.Module:
    net = nn.Sequential(
        nn.Linear(2, 32),
        nn.Unflatten(1, (8, 2, 2)),
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.ConvTranspose2d(6, 1, 3, padding=1),
    )
    return net.double().eval().to(memory_format=memory_format)


kind("ConvTranspose")(lambda: convolutions(torch.contiguous_format))
kind("channels last")(lambda: convolutions(torch.channels_last))
kind("up-sampling")(
    lambda: (
        nn.Sequential(
            nn.Linear(2, 16),
            nn.Unflatten(1, (4, 2, 2)),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.GELU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(4, 1, 3, padding=1),
        )
        .double()
        .eval()
    )
)
kind("pixel shuffle")(
    lambda: nn.Sequential(dense(nn.Tanh()), nn.Unflatten(1, (12, 1, 1)), nn.PixelShuffle(2), nn.Tanh()).double().eval()
)


def scripted(how: str) -> nn.Module:
    net = dense(nn.Tanh(), nn.LayerNorm(16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(net, torch.zeros(3, 2).double()) if how == "trace" else torch.jit.script(net)


kind("TorchScript, traced")(lambda: scripted("trace"))
kind("TorchScript, scripted")(lambda: scripted("script"))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 16)
        self.again = nn.Linear(16, 16)
        self.last = self.again

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(self.last(self.again(self.inner(z)).tanh()).tanh(), self.inner.weight.mT)


kind("tied weights")(lambda: Tied().double().eval())


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(2, 6))

    def forward(self, z: Tensor) -> Tensor:
        return torch.cos(z @ self.matrix)


kind("buffers only")(lambda: Buffers().double().eval())


class NumPy:
    def __init__(self, activation: Callable[[Any], Any] = np.tanh) -> None:
        self.activation = activation
        generator = np.random.default_rng(0)
        self.first, self.last = generator.normal(size=(2, 16)), generator.normal(size=(16, 12))

    def __call__(self, z: Tensor) -> Tensor:
        return torch.as_tensor(self.activation(z.detach().numpy() @ self.first) @ self.last, dtype=z.dtype)


def rectified(x: Any) -> Any:
    return np.maximum(x + 0.3, 0)


kind("NumPy inside")(NumPy)
kind("NumPy inside, with kinks", smooth=False)(lambda: NumPy(rectified))


class Cube(torch.autograd.Function):
    """A function of the old style, without forward mode or vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grad


class OnceCube(Cube):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grad


class WrongCube(Cube):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3.003 * ctx.saved_tensors[0] ** 2 * grad


class Custom(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.net, self.function = dense(nn.Tanh()), function

    def forward(self, z: Tensor) -> Tensor:
        return self.function.apply(self.net(z))


kind("custom autograd.Function")(lambda: Custom(Cube).eval())
kind("custom, once differentiable")(lambda: Custom(OnceCube).eval())
kind("custom, backward wrong by 0.1 %")(lambda: Custom(WrongCube).eval())


class DetachedCube(torch.autograd.Function):
    """Right first derivatives; the same wrong second ones in every mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0].detach() ** 2 * grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0].detach() ** 2 * tangent


class DetachedInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = dense(nn.LeakyReLU(0.3))

    def forward(self, z: Tensor) -> Tensor:
        return DetachedCube.apply(self.net(z))


kind("custom, detached backward, kinks", smooth=False)(lambda: DetachedInside().eval())


class Numbers(nn.Module):
    """A net whose gradients are cut off, with kinks: both modes agree on zero."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense(nn.ReLU())

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z.detach())


kind("detached, with kinks", smooth=False)(lambda: Numbers().eval())


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.net, self.reentrant = dense(nn.Tanh(), nn.LayerNorm(16)), reentrant

    def forward(self, z: Tensor) -> Tensor:
        return checkpoint(self.net, z, use_reentrant=self.reentrant)


kind("checkpointed")(lambda: Checkpointed(False).eval())
kind("checkpointed, reentrant")(lambda: Checkpointed(True).eval())


class Distances(nn.Module):
    """An RBF network built on cdist, which has no forward mode."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(16, 2))
        self.out = nn.Linear(16, 12)

    def forward(self, z: Tensor) -> Tensor:
        return self.out(torch.exp(-2 * torch.cdist(z, self.centres).square()))


kind("RBF on cdist")(lambda: Distances().double().eval())


class Matrices(nn.Module):
    """A linear system and a log-determinant, whose forward-mode derivatives have wrong derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 9)

    def forward(self, z: Tensor) -> Tensor:
        A = self.net(z).tanh().unflatten(1, (3, 3)) + 3 * torch.eye(3, dtype=z.dtype)
        return torch.cat([torch.linalg.solve(A, A.mT.square()).flatten(1), torch.logdet(A)[:, None]], 1)


kind("solve and logdet")(lambda: Matrices().double().eval())


class Sharp(nn.Module):
    """Features a hundredth of a unit wide on a slow trend: steps must adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense(nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z) + 0.05 * torch.sin(60 * z[:, :1] + 40 * z[:, 1:])


class Cancelling(nn.Module):
    """Differences of large numbers: round-off a million times that of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense(nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return (self.net(z) + 1e4) - 1e4


kind("sharp features")(lambda: Sharp().eval())
kind("internal cancellation")(lambda: Cancelling().eval())
