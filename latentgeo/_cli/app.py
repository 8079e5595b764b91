"""The program: one group of commands, each with a module of its own, and what they share of options and errors."""

from __future__ import annotations

from typing import Annotated

import typer

from latentgeo._cli.cluster import cluster
from latentgeo._cli.demo import demo
from latentgeo._cli.diagnose import diagnose
from latentgeo._cli.distances import distances
from latentgeo._cli.fit_land import fit_land
from latentgeo._cli.group import Group
from latentgeo._cli.heatmap import heatmap
from latentgeo._cli.info import info
from latentgeo._cli.pairwise import pairwise
from latentgeo._cli.source import takes_model
from latentgeo._cli.train import app as train
from latentgeo._cli.walk import walk

app = typer.Typer(
    cls=Group,
    help="The geometry that a trained generative model gives its latent space: distances, geodesics, maps.",
    epilog="Exit codes: 0 success; 1 something failed or did not converge (results are written, with their status); "
    "2 bad input (`--traceback` shows where in the program an error arose); 130 interrupted; 143 terminated.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _common(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="On an error, show where in the program it arose.")
    ] = False,
) -> None:
    if version:
        import latentgeo as lg

        typer.echo(f"latentgeo {lg.__version__}")
        raise typer.Exit


for command in (info, distances, heatmap, pairwise, cluster, fit_land, walk, diagnose):
    app.command()(takes_model(command))
app.command()(demo)
app.add_typer(train, name="train")
