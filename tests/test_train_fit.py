"""The front door: data and their errors, resuming after a kill, early stopping, provenance, curves."""

from __future__ import annotations

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.testing import assert_close

import latentgeo as lg
from latentgeo import train

RECIPE = train.VAE(
    network=train.Dense(hidden=(16,)), likelihood="bernoulli", binarise="dynamic", score_samples=5, score_data=20
)
OPTIONS = {"epochs": 6, "batch_size": 32, "progress": False, "curves": False}


@pytest.fixture(scope="module")
def data():
    digits = lg.datasets.load_digits()
    return train.as_data(digits.data[:400].reshape(-1, 8, 8), digits.labels[:400], name="some digits")


def weights(model):
    parts = {"decoder": model.decoder.module, "encoder": model.encoder}
    return {f"{part}.{name}": v for part, module in parts.items() for name, v in module.state_dict().items()}


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


class Killed(RuntimeError):
    pass


class Kill(Callback):
    """Dies in the middle of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == self.epoch and trainer.global_step % 3 == 2:
            raise Killed


def interrupted(data, out, epoch, recipe=RECIPE, **options):
    with pytest.raises(Killed):
        train.fit(recipe, data, out=out, trainer={"callbacks": [Kill(epoch)]}, **{**OPTIONS, **options})
    return train.fit(recipe, data, out=out, **{**OPTIONS, **options})


# data -----------------------------------------------------------------------------------------------------------------


def test_names_arrays_and_datasets(tmp_path):
    digits = lg.datasets.load_digits()
    for given in ("digits", digits):
        found = train.as_data(given, held_out=0.2)
        assert (len(found), len(found.held_out), found.shape) == (1438, 359, (8, 8))
        assert torch.equal(found.stored.flatten(1), digits.data)  # in the order of the file
        assert torch.equal(found.stored_labels, digits.labels)
    together = torch.cat([found.x, found.held_out]).flatten(1)
    assert_close(together.sum(0), digits.data.sum(0))
    flat = train.as_data(digits.data.numpy(), digits.labels.numpy(), shape=(8, 8), held_out=0)
    assert flat.held_out is None
    assert flat.scored is flat.x
    assert not torch.equal(train.as_data("digits", seed=1).x, train.as_data("digits", seed=2).x)


def test_bytes_are_divided_by_255_and_other_numbers_are_not():
    values = np.array([[0, 255], [51, 102], [0, 0]])
    assert_close(train.as_data(values.astype(np.uint8), held_out=0).stored[1], torch.tensor([0.2, 0.4]))
    assert_close(train.as_data(values, held_out=0).stored[1], torch.tensor([51.0, 102.0]))


def test_numpy_files(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 2
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "xy.npz", data=x, labels=y)
    np.savez(tmp_path / "one.npz", anything=x)
    assert_close(train.as_data(tmp_path / "x.npy").stored, torch.as_tensor(x).float())
    assert train.as_data(tmp_path / "xy.npz").stored_labels.tolist() == y.tolist()
    assert train.as_data(tmp_path / "one.npz").labels is None
    np.savez(tmp_path / "two.npz", a=x, b=x)
    with pytest.raises(ValueError, match="an array named 'data' or 'x'; it has a, b"):
        train.as_data(tmp_path / "two.npz")


@pytest.mark.parametrize("name", ["broken.npy", "broken.npz", "objects.npy", "objects.npz"])
def test_numpy_files_that_cannot_be_read(tmp_path, name):
    """One kind of error, which does not advise to unpickle."""
    path = tmp_path / name
    if name.startswith("broken"):
        path.write_bytes(b"PK\x03\x04" + b"no archive" * 9)
    else:
        objects = np.array([{}, []], dtype=object)
        with path.open("wb") as file:
            np.savez(file, x=objects) if name.endswith("z") else np.save(file, objects)
    with pytest.raises(ValueError, match=f"{name} cannot be read: ") as caught:
        train.as_data(path)
    assert "pickle" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path, suffix):
    values = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    content = struct.pack(">BBBB3I", 0, 0, 8, 3, 5, 2, 3) + values.tobytes()
    labels = struct.pack(">BBBB1I", 0, 0, 8, 1, 5) + bytes([0, 1, 2, 3, 4])
    pack = gzip.compress if suffix else bytes
    (tmp_path / f"a-images-idx3-ubyte{suffix}").write_bytes(pack(content))
    (tmp_path / f"a-labels-idx1-ubyte{suffix}").write_bytes(pack(labels))
    found = train.as_data(tmp_path / f"a-images-idx3-ubyte{suffix}", held_out=0)
    assert_close(found.stored, torch.as_tensor(values) / 255)
    assert found.stored_labels.tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "short-idx3-ubyte").write_bytes(content[:-1])
    with pytest.raises(ValueError, match="announces 30 bytes"):
        train.as_data(tmp_path / "short-idx3-ubyte")


def test_folders_of_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name, shade in (("cats", 10), ("dogs", 200)):
        (tmp_path / name).mkdir()
        for i in range(3):
            image.fromarray(np.full((4, 5), shade + i, dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    found = train.as_data(tmp_path, held_out=0)
    assert (found.shape, found.classes, found.stored_labels.tolist()) == ((4, 5), ("cats", "dogs"), [0, 0, 0, 1, 1, 1])
    assert_close(found.stored[:, 0, 0] * 255, torch.tensor([10.0, 11, 12, 200, 201, 202]))
    colour = tmp_path / "colour"
    colour.mkdir()
    for i in range(2):
        image.fromarray(np.full((4, 5, 3), [1, 2, 3 + i], dtype=np.uint8)).save(colour / f"{i}.png")
    found = train.as_data(colour, held_out=0)
    assert found.shape == (3, 4, 5)
    assert_close(found.stored[0, :, 0, 0] * 255, torch.tensor([1.0, 2, 3]))
    image.fromarray(np.zeros((4, 6, 3), dtype=np.uint8)).save(colour / "odd.png")
    with pytest.raises(ValueError, match="one size"):
        train.as_data(colour)
    deep = tmp_path / "deep"
    deep.mkdir()
    for i in range(2):  # Pillow's conversion to bytes would make all of these 255
        image.fromarray(np.full((4, 5), 1000 + i, dtype=np.uint16)).save(deep / f"{i}.png")
    with pytest.raises(ValueError, match=r"8 bits per channel.*mode I;16"):
        train.as_data(deep)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        train.as_data(tmp_path / "none")


BAD = {
    "finite; 1 of 9 rows have NaN": np.where(
        np.arange(27).reshape(9, 3) == 4, np.nan, 1.0 * np.arange(27).reshape(9, 3)
    ),
    "must not be constant": np.ones((9, 3)),
    r"shape \(N, D\)": np.arange(9.0),
    "at least two data; got 1": np.ones((1, 3)),
    "at least two data; got none": np.ones((0, 3)),
    "must hold numbers": np.array([["a", "b"], ["c", "d"]]),
    "real numbers": torch.ones(4, 2, dtype=torch.complex64),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_data(message):
    with pytest.raises(ValueError, match=message):
        train.as_data(BAD[message])


def test_bad_labels_paths_and_fractions(tmp_path, data):
    x = np.random.default_rng(0).normal(size=(10, 3))
    with pytest.raises(ValueError, match=r"integers of shape \(10,\)"):
        train.as_data(x, np.zeros(9, dtype=int))
    with pytest.raises(ValueError, match="integers of shape"):
        train.as_data(x, np.zeros(10))
    for more in ({"labels": np.zeros(3, dtype=int)}, {"shape": (784,)}, {"name": "other"}):
        with pytest.raises(TypeError, match="are part of 'mnist' already"):
            train.as_data("mnist", **more)
    with pytest.raises(FileNotFoundError, match="'nowhere' does not exist"):
        train.as_data("nowhere")
    with pytest.raises(ValueError, match="held_out must be a fraction"):
        train.as_data(x, held_out=1.0)
    with pytest.raises(ValueError, match="as many entries"):
        train.as_data(x, shape=(2, 2))
    with pytest.raises(TypeError, match="part of a TrainData already"):
        train.as_data(data, held_out=0.5)
    (tmp_path / "x.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"must be a \.npy"):
        train.as_data(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("likelihood", "x", "message"),
    [
        (lg.Bernoulli(), np.array([[0.0, 2.0], [1.0, 0.0]]), r"lie in \[0, 1\]"),
        (lg.Poisson(), np.array([[0.5, 2.0], [1.0, 0.0]]), "not whole"),
        (lg.NegativeBinomial(), np.array([[-1.0, 2.0], [1.0, 0.0]]), "counts"),
        (lg.Categorical(), np.array([[1.0, 1.0], [1.0, 0.0]]), "one-hot along axis -1"),
        (lg.Exponential(), np.array([[1.0, 1.0], [1.0, 0.0]]), "likelihood must be"),
    ],
)
def test_data_that_do_not_suit_the_likelihood(likelihood, x, message):
    with pytest.raises(ValueError, match=message):
        train.fit(train.VAE(likelihood=likelihood), x, held_out=0, **OPTIONS)


# the run --------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights(data):
    first, second, other = (train.fit(RECIPE, data, seed=s, **OPTIONS).model for s in (0, 0, 1))
    assert same(weights(first), weights(second))
    assert torch.equal(first.codes, second.codes)
    assert first.metadata["scores"] == second.metadata["scores"]
    assert not same(weights(first), weights(other))


def test_global_generator_is_left_as_it_was(data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train.fit(RECIPE, data, **{**OPTIONS, "epochs": 1})
    assert torch.equal(torch.rand(3), expected)


class Dropped(train.Dense):
    """A network whose layers use torch's own generator."""

    def encoder(self, shape, latent_dim, transform=None):
        encoder = super().encoder(shape, latent_dim, transform)
        encoder.trunk.append(nn.Dropout(0.2))
        return encoder


@pytest.mark.parametrize("epoch", [1, 4])
def test_resuming_gives_bitwise_the_same_weights(data, tmp_path, epoch):
    recipe = train.VAE(network=Dropped((16,)), likelihood="bernoulli", binarise="dynamic", score_samples=2)
    whole = train.fit(recipe, data, **OPTIONS)
    found = interrupted(data, tmp_path / "m.safetensors", epoch, recipe)
    assert same(weights(found.model), weights(whole.model))
    assert found.history == whole.history
    assert found.scores == whole.scores
    assert not (tmp_path / "m.ckpt").exists()


class Interrupt(Callback):
    """Ctrl-C in the middle of an epoch."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_an_interrupt_is_the_callers_to_handle_and_keeps_the_last_epoch(data, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train.fit(RECIPE, data, out=tmp_path / "m.safetensors", trainer={"callbacks": [Interrupt()]}, **OPTIONS)
    assert signal.getsignal(signal.SIGINT) is before
    assert [file.name for file in tmp_path.iterdir()] == ["m.ckpt"]


SCRIPT = """
import torch, latentgeo as lg
from latentgeo import train
torch.set_num_threads(1)
recipe = train.VAE(network=train.LeNet(width=4), likelihood="bernoulli", binarise="dynamic", score_samples=2)
digits = lg.datasets.load_digits()
data = train.as_data(digits.data[:400].reshape(-1, 8, 8))
train.fit(recipe, data, epochs=25, batch_size=32, out={out!r}, progress=False, curves=False)
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_to_bitwise_the_same_weights(tmp_path):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    subprocess.run([sys.executable, "-c", SCRIPT.format(out=str(whole))], check=True)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT.format(out=str(cut))])
    state = cut.with_suffix(".ckpt")
    deadline = time.monotonic() + 300
    seen: set[float] = set()
    while len(seen) < 3 and process.poll() is None and time.monotonic() < deadline:
        if state.exists():
            seen.add(state.stat().st_mtime)
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(torch.load(state, weights_only=True)["books"]["history"])
    assert 2 <= done < 25
    assert not cut.exists()
    subprocess.run([sys.executable, "-c", SCRIPT.format(out=str(cut))], check=True)
    a, b = lg.load(whole), lg.load(cut)
    assert same(weights(a), weights(b))
    assert torch.equal(a.codes, b.codes)
    assert a.metadata["scores"] == b.metadata["scores"]
    assert a.metadata["training"] == b.metadata["training"]


def test_the_state_of_another_run_is_not_taken(data, tmp_path):
    out = tmp_path / "m.safetensors"
    with pytest.raises(Killed):
        train.fit(RECIPE, data, out=out, trainer={"callbacks": [Kill(2)]}, **OPTIONS)
    with pytest.raises(train.TrainingError, match="state of another run"):
        train.fit(RECIPE, data, out=out, **{**OPTIONS, "learning_rate": 1e-2})
    anew = train.fit(RECIPE, data, out=out, resume=False, **{**OPTIONS, "learning_rate": 1e-2})
    assert len(anew.history) == 6
    out.with_suffix(".ckpt").write_bytes(b"rubbish")
    with pytest.raises(train.TrainingError, match="cannot be read"):
        train.fit(RECIPE, data, out=out, **OPTIONS)


class Worsening(train.Learner):
    """Its held-out loss falls to epoch 4 and rises after it; its one parameter counts the steps."""

    def __init__(self):
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(()))

    def losses(self, x, progress, generator):
        return {"loss": (self.steps - 4 * 12).square()}

    def training_step(self, x, progress, optimizers, generator):
        with torch.no_grad():
            self.steps += 1
        optimizers[0].step()
        return {name: value.detach() for name, value in self.losses(x, progress, generator).items()}

    def finish(self, data, generator):
        decoder = lg.wrap(lg.decoders.MLP([2, 3]).eval(), 2, "deterministic")
        return lg.LatentModel(decoder, metadata={"scores": {"steps": self.steps.item()}})


class WorseningRecipe:
    kind = "worsening"

    def __init__(self, warmup=0.0):
        self.warmup = warmup

    def learner(self, data, generator):
        learner = Worsening()
        learner.warmup = self.warmup
        return learner


def test_early_stopping_keeps_the_best_weights(data, tmp_path):
    options = {**OPTIONS, "epochs": 40, "batch_size": 27, "patience": 3}
    assert len(train.as_data(data).split(0.1, 0)[0]) == 324  # 12 steps per epoch
    found = train.fit(WorseningRecipe(), data, **options)
    assert found.scores["steps"] == 48.0
    assert len(found.history) == 7
    assert found.model.metadata["stopped"] == "after epoch 7; the weights are those of epoch 4"
    assert found.model.metadata["n_train"] == 324
    again = interrupted(data, tmp_path / "m.safetensors", 5, WorseningRecipe(), **options)
    assert again.history == found.history
    assert again.scores == found.scores
    later = train.fit(WorseningRecipe(warmup=0.5), data, **options)  # does not count before epoch 20
    assert len(later.history) == 23


class Exploding(Worsening):
    def losses(self, x, progress, generator):
        return {"loss": self.steps / (1 - self.steps) if self.steps == 1 else self.steps}


def test_divergence_is_an_error(data):
    recipe = WorseningRecipe()
    recipe.learner = lambda data, generator: Exploding()
    with pytest.raises(train.TrainingError, match=r"diverged in epoch 1, step 1: loss is not finite"):
        train.fit(recipe, data, **OPTIONS)


class Two(Worsening):
    """Two optimisers, stepped by hand."""

    def __init__(self):
        super().__init__()
        self.other = nn.Parameter(torch.ones(()))

    def losses(self, x, progress, generator):
        return {"loss": self.steps + self.other}

    def optimizers(self, learning_rate, n_steps):
        return [torch.optim.SGD([self.steps], lr=learning_rate), torch.optim.SGD([self.other], lr=2 * learning_rate)]

    def rate(self, progress):
        return 1.0 if progress < 0.5 else 0.0

    def training_step(self, x, progress, optimizers, generator):
        found = self.losses(x, progress, generator)
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.backward(found["loss"])
        for optimizer in optimizers:
            optimizer.step()
        return found

    def finish(self, data, generator):
        model = super().finish(data, generator)
        values = {"first": self.steps.item(), "second": self.other.item()}
        return lg.LatentModel(model.decoder, metadata={"scores": values})


def test_several_optimisers_and_the_rate(data):
    recipe = WorseningRecipe()
    recipe.learner = lambda data, generator: Two()
    found = train.fit(recipe, data, **{**OPTIONS, "epochs": 4, "learning_rate": 0.01, "batch_size": 36})
    steps = 2 * 10  # the rate is zero in the second half
    assert found.scores["first"] == pytest.approx(-0.01 * steps, rel=1e-5)
    assert found.scores["second"] == pytest.approx(1 - 0.02 * steps, rel=1e-5)


def test_a_learner_needs_no_lightning(data):
    learner = RECIPE.learner(data, torch.Generator())
    optimizers, g = learner.optimizers(1e-2, 30), torch.Generator().manual_seed(0)
    losses = [float(learner.training_step(data.x, i / 30, optimizers, g)["elbo"].detach()) for i in range(30)]
    assert losses[-1] > losses[0] + 0.5


def test_the_checkpoint_carries_its_provenance(data, tmp_path):
    out = tmp_path / "sub" / "m.safetensors"
    found = train.fit(RECIPE, data, out=out, command="make model", seed=3, **{**OPTIONS, "curves": True})
    model = lg.load(out)
    about = model.metadata
    assert same(weights(model), weights(found.model))
    assert about["command"] == "make model"
    assert about["dataset"] == "some digits"
    assert (about["seed"], about["epochs"], about["batch_size"], about["n_train"]) == (3, 6, 32, 360)
    assert about["recipe"]["network"] == {"is": "Dense", "hidden": [16], "activation": "tanh"}
    assert about["scores"] == found.scores
    assert about["scores"]["importance_samples"] == 5
    assert about["scores"]["data"] == "dynamically binarised (one draw for scores, seed 0)"
    assert about["training"].keys() >= {"elbo", "kl", "reconstruction", "held_out_elbo"}
    assert about["device"] == "cpu, 1 threads"
    assert about["versions"].keys() == {"python", "latentgeo", "torch", "lightning", "numpy"}
    assert about["seconds"] > 0
    assert torch.equal(model.labels, data.stored_labels)
    assert_close(model.encode(data.stored), model.codes)
    assert found.curves == tmp_path / "sub" / "m-training.html"
    assert "held out" in found.curves.read_text(encoding="utf-8")
    assert "6 epochs" in repr(found)
    json.dumps(about, allow_nan=False)


def test_last_batch_is_trained_on_unless_it_is_a_single_datum(data):
    seen: list[int] = []
    recipe = WorseningRecipe()

    class Counting(Worsening):
        def training_step(self, x, progress, optimizers, generator):
            seen.append(len(x))
            return super().training_step(x, progress, optimizers, generator)

    recipe.learner = lambda data, generator: Counting()
    for size, expected in ((100, [100, 100, 100, 60]), (359, [359]), (1000, [360])):
        seen.clear()
        train.fit(recipe, data, **{**OPTIONS, "epochs": 1, "batch_size": size})
        assert seen == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive integer"),
        ({"batch_size": 1.5}, "batch_size must be a positive integer"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"seed": -1}, "seed must be a non-negative integer; got -1"),
        ({"device": "bogus"}, "device must be the name of one, such as 'cpu'"),
        ({"patience": 0}, "patience must be"),
        ({"out": "model.pt"}, "out must end in .safetensors"),
    ],
)
def test_bad_arguments(data, change, message):
    with pytest.raises(ValueError, match=message):
        train.fit(RECIPE, data, **{**OPTIONS, **change})


def test_what_is_not_a_recipe(data):
    for wrong in ("vae", train.VAE):
        with pytest.raises(TypeError, match="recipe must be a recipe"):
            train.fit(wrong, data)


def test_without_lightning_the_error_names_the_command(data):
    code = (
        "import sys; sys.modules['lightning'] = None\n"
        "import latentgeo as lg\n"
        "try:\n    lg.train.fit(lg.train.VAE(), 'digits')\n"
        "except ImportError as error:\n    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'latentgeo[train]'" in result.stdout


def test_importing_the_trainers_imports_no_lightning():
    code = "import sys, latentgeo.train; print({'lightning', 'zuko', 'torchmetrics', 'plotly'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_curves_hold_the_history():
    from latentgeo.plot.training import training

    history = [{"epoch": 1.0, "loss": 3.0, "kl": 1.0, "held_out_loss": 4.0}, {"epoch": 2.0, "loss": 2.0, "kl": 1.5}]
    figure = training(history)
    assert [(t.name, t.x, t.y) for t in figure.data] == [
        ("training data", (1.0, 2.0), (3.0, 2.0)),
        ("data held out", (1.0,), (4.0,)),
        ("training data", (1.0, 2.0), (1.0, 1.5)),
    ]
    assert [a.text for a in figure.layout.annotations] == ["loss", "KL divergence (nats)"]
    with pytest.raises(ValueError, match="at least one epoch"):
        training([])


def test_no_path_leaves_no_files(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train.fit(RECIPE, data, **{**OPTIONS, "epochs": 1})
    assert list(Path(tmp_path).iterdir()) == []


def test_losses_that_only_some_steps_have_are_means_over_those_steps(data):
    class Sometimes(Worsening):
        def training_step(self, x, progress, optimizers, generator):
            found = super().training_step(x, progress, optimizers, generator)
            return {**found, "extra": torch.tensor(2.0)} if int(self.steps) % 3 == 0 else found

    recipe = WorseningRecipe()
    recipe.learner = lambda data, generator: Sometimes()
    assert train.fit(recipe, data, **{**OPTIONS, "epochs": 1}).history[0]["extra"] == 2.0
