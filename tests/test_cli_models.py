"""A user's own network on the command line: weights, the function that builds it, its likelihood; what is refused."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run
from numpy.testing import assert_allclose
from safetensors.torch import save_file

import latentgeo as lg
from latentgeo._cli import likelihood as families
from latentgeo._cli.builder import builder
from latentgeo.decoders.likelihoods import LIKELIHOODS

NETS = textwrap.dedent('''
    """Networks that somebody wrote before latentgeo."""
    import torch
    from torch import nn

    def conv(channels=4, activation="relu"):
        act = {"relu": nn.ReLU, "silu": nn.SiLU}[activation]
        return nn.Sequential(
            nn.Linear(2, channels * 16), nn.Unflatten(1, (channels, 4, 4)), nn.BatchNorm2d(channels), act(),
            nn.ConvTranspose2d(channels, channels, 4, 2, 1), nn.BatchNorm2d(channels), act(),
            nn.Conv2d(channels, 1, 3, padding=1),
        )

    class Norm(nn.Module):
        def __init__(self, width=16):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, width), nn.LayerNorm(width), nn.GELU())
            self.mean, self.log_var = nn.Linear(width, 5), nn.Linear(width, 5)

        def forward(self, z):
            h = self.body(z)
            return self.mean(h), self.log_var(h)

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(5, 4), Norm()

        def decode(self, z):
            return self.decoder(z)

    def plain(latent_dim=2, size=6):
        return nn.Sequential(nn.Linear(latent_dim, 8), nn.Tanh(), nn.Linear(8, size))

    def sigmoid():
        return nn.Sequential(nn.Linear(2, 40), nn.Sigmoid())

    class Noisy(nn.Linear):
        def forward(self, z):
            return super().forward(z) + torch.randn(5)

    class Fails(nn.Linear):
        def forward(self, z):
            return {}["never there"]

    class Encoder(nn.Linear):
        pass

    def noisy(): return Noisy(2, 5)
    def fails(): return Fails(2, 5)
    def encoder(): return Encoder(6, 2)
    def raises(): raise KeyError("no")
    def leaves(): raise SystemExit(3)
    def text(): return "a network"
    instance = nn.Linear(2, 2)
''')


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """A folder with somebody's module, and the module."""
    folder = tmp_path_factory.mktemp("somebody")
    (folder / "somebodys_nets.py").write_text(NETS, encoding="utf-8")
    (folder / "broken_syntax.py").write_text("def (", encoding="utf-8")
    (folder / "broken_import.py").write_text("import a_module_that_is_not_there", encoding="utf-8")
    (folder / "leaves.py").write_text("raise SystemExit('usage: leaves')", encoding="utf-8")
    path, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder))
    module = __import__("somebodys_nets")
    yield folder, module
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if name.startswith(("somebodys_", "broken_", "leaves")):
            del sys.modules[name]


@pytest.fixture
def here(nets, monkeypatch):
    """The working directory of somebody whose module is not on the path but in this folder."""
    monkeypatch.chdir(nets[0])
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(nets[0])])
    monkeypatch.delitem(sys.modules, "somebodys_nets")
    return nets[0]


def made(nets, name, **arguments):
    torch.manual_seed(0)
    module = getattr(nets[1], name)(**arguments)
    with torch.no_grad():
        if name == "conv":  # statistics that are not the initial ones, logits that are no probabilities
            module(torch.randn(64, 2))
            module[-1].weight.mul_(4)
    return module.eval()


@pytest.fixture
def weights(nets, tmp_path):
    """A function that trains somebody's network, as it were, and writes its state dict."""

    def write(name, suffix=".pt", **arguments):
        path = tmp_path / f"{name}{suffix}"
        state = made(nets, name, **arguments).state_dict()
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        return path

    return write


def own(path, name, latent_dim=2):
    return ("--weights", path, "--builder", f"somebodys_nets:{name}", "--latent-dim", latent_dim)


@pytest.fixture
def codes(tmp_path):
    path = tmp_path / "codes.npy"
    np.save(path, np.random.default_rng(0).normal(size=(8, 2)))
    return path


def compare(out, decoder, codes):
    """The distances of a table against those that Python gives."""
    rows, z = np.load(out), torch.as_tensor(np.load(codes)).to(decoder.dtype)
    path = lg.connect(lg.metric(decoder), z[rows["from"]], z[rows["to"]], solver=lg.Newton(rtol=1e-2), throw=False)
    assert rows["converged"].all()
    assert_allclose(rows["length"], path.length.detach(), rtol=1e-4)


# --- what works -----------------------------------------------------------------------------------------------------


def test_convolutions_with_batch_norm(nets, here, weights, codes, tmp_path):
    arguments = (*own(weights("conv", channels=3, activation="silu"), "conv"), "--likelihood", "bernoulli")
    arguments += ("--builder-arg", "channels=3", "--builder-arg", "activation=silu")
    text = run("info", *arguments).stdout
    for expected in ("1×8×8", "Bernoulli(output='logits')", "FisherRaoMetric", "first: "):
        assert expected in text
    assert re.search(r"^codes +none$", text, flags=re.MULTILINE)
    run("distances", *arguments, "--codes", codes, "--pairs", 4, "--out", tmp_path / "o.npy")
    decoder = lg.wrap(made(nets, "conv", channels=3, activation="silu"), 2, lg.Bernoulli(output="logits"))
    compare(tmp_path / "o.npy", decoder, codes)
    result = run("heatmap", *arguments, "--codes", codes, "--resolution", 8, "--out", tmp_path / "m.html")
    assert "4 curves, 4 converged" in result.stdout
    assert "geodesic" in (tmp_path / "m.html").read_text(encoding="utf-8")
    result = run("heatmap", *arguments, "--resolution", 8, "--out", tmp_path / "m.html")
    assert "curves" not in result.stdout


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
def test_layer_norm(nets, here, weights, codes, tmp_path, suffix):
    arguments = (*own(weights("Norm", suffix), "Norm"), "--likelihood", "gaussian", "--scale", "log_var")
    out = tmp_path / "o.npy"
    run("distances", *arguments, "--codes", codes, "--pairs", 3, "--out", out, "--dtype", "float64")
    decoder = lg.wrap(made(nets, "Norm"), 2, lg.Gaussian(scale="log_var"))
    compare(out, decoder.to(torch.float64), codes)


def test_a_whole_vae_is_reached_by_decode(here, weights):
    text = run("info", *own(weights("VAE"), "VAE"), "--likelihood", "gaussian", "--scale", "log_var").stdout
    assert "Decoder(2 → 5" in text


@pytest.mark.parametrize(
    ("options", "likelihood"),
    [
        ("gaussian --sigma 0.1", lg.Gaussian(sigma=0.1)),
        ("gaussian --sigma sigma.npy", lg.Gaussian(sigma=tuple(np.linspace(0.1, 0.6, 6)))),
        ("deterministic", lg.Deterministic()),
        ("bernoulli --output logits", lg.Bernoulli(output="logits")),
        ("categorical --class-axis 1", lg.Categorical(axis=1)),
        ("poisson --output log_rate", lg.Poisson(output="log_rate")),
        ("exponential --output log_rate", lg.Exponential(output="log_rate")),
        (
            "negative-binomial --output log_mean --inverse-dispersion 2",
            lg.NegativeBinomial(inverse_dispersion=2.0, output="log_mean"),
        ),
    ],
)
def test_every_likelihood(nets, here, weights, codes, tmp_path, options, likelihood, monkeypatch):
    np.save(tmp_path / "sigma.npy", np.linspace(0.1, 0.6, 6))
    options = options.replace("sigma.npy", str(tmp_path / "sigma.npy")).split()
    out = tmp_path / "o.npy"
    run("distances", *own(weights("plain"), "plain"), "--likelihood", *options, "--codes", codes, "--pairs", 2,
        "--out", out)  # fmt: skip
    compare(out, lg.wrap(made(nets, "plain"), 2, likelihood), codes)


def test_the_command_line_knows_every_likelihood_and_option():
    assert {family.value for family in families.Family} == set(LIKELIHOODS)
    for family, options in families.OPTIONS.items():
        fields = set(LIKELIHOODS[family.value]().to_dict()) - {"name"}
        assert set(options.values()) == fields
    kinds = {kind for cls in LIKELIHOODS.values() for kind in getattr(cls, "kinds", ())}
    assert {output.value for output in families.Output} == kinds


def test_three_dimensions(here, weights, tmp_path):
    np.save(tmp_path / "z.npy", np.random.default_rng(0).normal(size=(3, 3)))
    arguments = (*own(weights("plain", latent_dim=3), "plain", 3), "--builder-arg", "latent_dim=3")
    arguments += ("--likelihood", "deterministic")
    run("distances", *arguments, "--codes", tmp_path / "z.npy", "--out", tmp_path / "o.npy")
    assert np.load(tmp_path / "o.npy").shape == (3, 3)
    run("heatmap", *arguments, "--out", tmp_path / "o.html", "--resolution", 8, "--pairs", 0, "--plane", "axes:2,0")
    assert "the others fixed" in (tmp_path / "o.html").read_text(encoding="utf-8")


def test_native_checkpoint_of_a_network_of_ones_own(nets, here, tmp_path):
    path = tmp_path / "mine.safetensors"
    decoder = lg.wrap(made(nets, "plain"), 2, lg.Deterministic())
    lg.save(lg.LatentModel(decoder, encoder=made(nets, "encoder"), codes=torch.zeros(3, 2)), path)
    message = refused("info", path)
    assert "pass --builder MODULE:FUNCTION" in message
    message = refused("info", path, "--builder", "somebodys_nets:plain")
    assert "--encoder-builder MODULE:FUNCTION" in message
    arguments = ("--builder", "somebodys_nets:plain", "--encoder-builder", "somebodys_nets:encoder")
    assert "3×2" in run("info", path, *arguments).stdout


def test_the_example_of_the_docs(tmp_path, monkeypatch, codes):
    page = (Path(__file__).resolve().parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "nets.py").write_text(source, encoding="utf-8")
    namespace: dict[str, object] = {}
    exec(source, namespace)
    torch.save(namespace["decoder"](width=8, activation="silu").state_dict(), tmp_path / "decoder.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    commands = re.findall(r"^latentgeo (.*--weights.*)$", page, flags=re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["info", "distances", "heatmap"]
    for command in commands:
        run(*command.split())
    sys.modules.pop("nets")
    assert len((tmp_path / "distances.csv").read_text(encoding="utf-8").splitlines()) == 4
    assert (tmp_path / "map.html").exists()


# --- what is refused ------------------------------------------------------------------------------------------------


def test_one_model_and_all_that_it_needs(here, weights, tmp_path):
    path = weights("plain")
    native = tmp_path / "native.safetensors"
    lg.save(lg.LatentModel(lg.wrap(torch.nn.Tanh().eval(), 2, "deterministic")), native)
    for given in ((), ("--builder", "somebodys_nets:plain")):
        assert "a CHECKPOINT, or --weights FILE with --builder" in refused("info", *given)
    assert "either CHECKPOINT or --weights must be given, not both" in refused("info", native, "--weights", path)
    for option, value in (("--latent-dim", 2), ("--likelihood", "gaussian"), ("--sigma", 1)):
        assert f"{option} must go with --weights FILE" in refused("info", native, option, value)
    assert "--builder-arg must go with --builder" in refused("info", native, "--builder-arg", "a=1")
    assert "--weights must go with --builder and --latent-dim and --likelihood" in refused("info", "--weights", path)
    message = refused("info", *own(path, "plain"))
    assert "--weights must go with --likelihood (one of gaussian, deterministic," in message
    assert "give it alone" in refused("info", *own(native, "plain"), "--likelihood", "gaussian")
    message = refused("info", path)
    assert "CHECKPOINT must be a .safetensors file written by latentgeo.save" in message
    assert f"--weights {path}" in message
    foreign = weights("plain", ".safetensors")
    assert f"--weights {foreign} --builder" in refused("info", foreign)
    missing = tmp_path / "missing.pt"
    assert f"no file of weights at {missing}" in refused("info", *own(missing, "plain"), "--likelihood", "gaussian")
    assert "--encoder-builder must go with a CHECKPOINT" in refused(
        "info", *own(path, "plain"), "--likelihood", "deterministic", "--encoder-builder", "somebodys_nets:encoder"
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("plain", "must be package.module:function"),
        ("somebodys_nets:", "must be package.module:function"),
        (":plain", "must be package.module:function"),
        ("somebodys_nets:plain()", "must be package.module:function"),
        ("somebodys_nets.py:plain", "write somebodys_nets:plain"),
        ("sub/nets:plain", "write sub.nets:plain"),
        ("../nets.py:plain", "write nets:plain, from the folder "),
        ("nowhere_at_all:plain", "no module 'nowhere_at_all' is here or installed"),
        ("somebodys_nets.sub:plain", "no module 'somebodys_nets.sub' is here or installed"),
        ("somebodys_nets:plan", "has no 'plan'; it has conv, Norm, VAE, plain, "),
        ("somebodys_nets:instance", "is itself a Linear"),
        ("somebodys_nets:text", "returned a str"),
        ("somebodys_nets:raises", "failed: KeyError: 'no'"),
        ("somebodys_nets:leaves", "failed: SystemExit: 3"),
        ("broken_syntax:f", "cannot be imported: SyntaxError"),
        ("broken_import:f", "cannot be imported: ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("leaves:f", "cannot be imported: SystemExit: usage: leaves"),
        ("torch.nn:Linear", "failed: TypeError: Linear.__init__() missing 2 required"),
    ],
)
def test_bad_builders(here, weights, spec, message):
    path = weights("plain")
    line = refused("info", "--weights", path, "--builder", spec, "--latent-dim", 2, "--likelihood", "deterministic")
    assert line.startswith("latentgeo: --builder ")
    assert message in line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("size", "must be name=value"),
        ("=3", "must be name=value"),
        ("1a=3", "must be name=value"),
        ("size=[1,", "size must be JSON"),
        ("size=two words", "size must be JSON"),
        ("size=", "size must be JSON"),
        ("size=True", "write size=true"),
        ("size=None", "write size=null"),
    ],
)
def test_bad_builder_arguments(given, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        builder("torch.nn:Linear", [given])
    assert str(error.value).startswith("--builder-arg ")
    with pytest.raises(ValueError, match="must give each name once; got a twice"):
        builder("torch.nn:Linear", ["a=1", "a=2"])


def test_builder_arguments(monkeypatch):
    seen = {}
    monkeypatch.setattr(torch.nn, "Identity", lambda **given: seen.update(given) or torch.nn.Linear(1, 1))
    texts = ["a=3", "b=0.5", "c=true", "d=null", "e=[2, 3]", 'f={"x": 1}', 'g="a b"', "h=relu", "i=a.b:c", 'j="3"']
    builder("torch.nn:Identity", texts)()
    assert seen == {
        "a": 3, "b": 0.5, "c": True, "d": None, "e": [2, 3], "f": {"x": 1}, "g": "a b", "h": "relu", "i": "a.b:c",
        "j": "3",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("gauss", "'gauss' is not one of 'gaussian', 'deterministic'"),
        ("deterministic --sigma 1", "--sigma must go with --likelihood gaussian; got --likelihood deterministic"),
        ("bernoulli --class-axis 1", "--class-axis must go with --likelihood categorical"),
        ("bernoulli --output rate", "--output must be 'logits' or 'probs'; got 'rate' (with --likelihood bernoulli)"),
        ("bernoulli --output map.html", "Invalid value for '--output': 'map.html' is not one of 'logits'"),
        ("gaussian --sigma -1", "--sigma must be positive and finite; got -1.0"),
        ("gaussian --sigma nan", "--sigma must be positive and finite; got nan"),
        ("gaussian --sigma none.npy", "no file of numbers for --sigma at none.npy"),
        ("gaussian --sigma x", "--sigma must be a positive number, or a file of numbers"),
        ("gaussian", "pass --likelihood gaussian --sigma ... for a fixed standard deviation"),
        ("poisson", "pass --likelihood poisson --output log_rate"),
        ("negative-binomial --output log_mean", "pass --likelihood negative-binomial --inverse-dispersion ..."),
        ("negative-binomial --inverse-dispersion 0", "--inverse-dispersion must be positive and finite; got 0.0"),
        ("categorical --class-axis 0", "--class-axis must be the axis of the classes"),
        ("categorical --output probs", "pass --likelihood categorical --output logits"),
    ],
)
def test_bad_likelihoods(here, weights, options, message):
    assert message in refused("info", *own(weights("plain"), "plain"), "--likelihood", *options.split())


def test_a_file_of_wrong_numbers(here, weights, tmp_path):
    arguments = (*own(weights("plain"), "plain"), "--likelihood", "gaussian", "--sigma", tmp_path / "s.npy")
    np.save(tmp_path / "s.npy", np.array([1.0, -1.0, np.nan, 1, 1, 1]))
    assert "2 of the 6 numbers in" in refused("info", *arguments)
    np.save(tmp_path / "s.npy", np.ones(5))
    assert "have 6 entries, one per data dimension; got 5" in refused("info", *arguments)


def test_networks_that_do_not_fit(here, weights):
    path = weights("plain")
    likelihood = ("--likelihood", "deterministic")
    assert "fails on codes of shape (n, 3)" in refused("info", *own(path, "plain", 3), *likelihood)
    assert "tensors are missing" in refused("info", *own(path, "conv"), *likelihood)
    assert "expected (7, 8)" in refused("info", *own(path, "plain"), *likelihood, "--builder-arg", "size=7")
    assert "is random" in refused("info", *own(weights("noisy"), "noisy"), *likelihood)
    message = refused("info", *own(weights("fails"), "fails"), *likelihood)
    assert "--builder somebodys_nets:fails fails on codes" in message
    assert "KeyError: 'never there'" in message


@pytest.mark.filterwarnings("default:every output lies:UserWarning")
def test_a_doubt_is_told_in_options(here, weights):
    result = run("info", *own(weights("sigmoid"), "sigmoid"), "--likelihood", "bernoulli")
    assert result.stderr.startswith("latentgeo: warning: every output lies in [0, 1]")
    assert result.stderr.strip().endswith("pass --likelihood bernoulli --output probs")


# --- hostile weights ------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("old", [False, True])
def test_pickle_bombs_do_not_go_off(here, tmp_path, suffix, old):
    marker, path = tmp_path / "code was run", tmp_path / f"weights{suffix}"
    torch.save({"0.weight": torch.zeros(8, 2), "more": Bomb(marker)}, path, _use_new_zipfile_serialization=not old)
    out = tmp_path / "o.npy"
    arguments = (*own(path, "plain"), "--likelihood", "deterministic")
    for command in (("info",), ("distances", "--out", out), ("heatmap", "--out", tmp_path / "o.html")):
        assert str(path) in refused(*command, *arguments)
    refused("info", path)
    assert not marker.exists()
    assert not out.exists()


def test_a_whole_module_is_refused_with_advice(nets, here, tmp_path):
    torch.save(made(nets, "plain"), tmp_path / "whole.pt")
    message = refused("info", *own(tmp_path / "whole.pt", "plain"), "--likelihood", "deterministic")
    assert "torch.save(module.state_dict(), ...)" in message
    assert "pass --trust if you know" in message


def test_with_trust_a_whole_network_needs_no_builder(nets, here, tmp_path, codes):
    network, meaning = made(nets, "plain"), ("--latent-dim", 2, "--likelihood", "deterministic")
    torch.save(network, tmp_path / "whole.pt")
    torch.jit.trace(network, torch.zeros(3, 2)).save(tmp_path / "program.pt")
    for name in ("whole.pt", "program.pt"):
        path, out = tmp_path / name, tmp_path / f"{name}.npy"
        run("distances", "--weights", path, "--trust", *meaning, "--codes", codes, "--pairs", 3, "--out", out)
        compare(out, lg.wrap(network, 2, "deterministic"), codes)
        assert "must not be given" in refused("info", *own(path, "plain"), "--likelihood", "deterministic", "--trust")
        assert "--trust instead of --builder" in refused("info", "--weights", path, *meaning)
    message = refused("info", *own(tmp_path / "program.pt", "plain"), "--likelihood", "deterministic")
    assert "is a TorchScript program" in message
    assert "pass --trust" in message
    assert "--trust must go with --weights" in refused("info", "checkpoints/digits-2d.safetensors", "--trust")


def test_a_prefix_picks_a_part_of_a_model(nets, here, tmp_path):
    state = {f"net.decoder.{name}": value for name, value in made(nets, "plain").state_dict().items()}
    torch.save({"state_dict": {**state, "net.encoder.weight": torch.zeros(3)}}, tmp_path / "lightning.ckpt")
    given = ("info", *own(tmp_path / "lightning.ckpt", "plain"), "--likelihood", "deterministic")
    assert refused(*given).endswith("pass --prefix net.decoder.")
    assert "Decoder(2 → " in run(*given, "--prefix", "net.decoder.").stdout
    assert "no tensors under 'encoder.'" in refused(*given, "--prefix", "encoder.")
