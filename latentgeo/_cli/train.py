"""`latentgeo train`: the group of trainers, one command each."""

from __future__ import annotations

import typer

from latentgeo._cli.group import Group
from latentgeo._cli.train_flow import flow
from latentgeo._cli.train_gan import gan
from latentgeo._cli.train_vae import vae
from latentgeo._cli.train_vqvae import vqvae

app = typer.Typer(
    cls=Group,
    help="Train a small model to analyse: data in, checkpoint out (needs the extra `train`).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.command()(vae)
app.command()(vqvae)
app.command()(gan)
app.command()(flow)
