"""Displays: every function returns a plotly ``Figure`` that holds the numbers it draws, and never shows it.

The measure heatmap follows Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018), figure 4.
"""

from __future__ import annotations

from latentgeo.plot.clusters import clusters
from latentgeo.plot.contours import distance_contours
from latentgeo.plot.curvature import curvature
from latentgeo.plot.distance_matrix import distance_matrix
from latentgeo.plot.fields import condition_number, length_units, log_measure
from latentgeo.plot.generated import interpolations, manifold, samples, traversals
from latentgeo.plot.geodesic import geodesic
from latentgeo.plot.indicatrix import indicatrix
from latentgeo.plot.land import land
from latentgeo.plot.measure import measure
from latentgeo.plot.page import browser, write_figure, write_html
from latentgeo.plot.planes import Plane
from latentgeo.plot.strips import strip
from latentgeo.plot.surface import surface
from latentgeo.plot.theme import LABELS, MEASURE, template, themed
from latentgeo.plot.training import training
from latentgeo.plot.truncation import truncation
from latentgeo.plot.walks import walks

__all__ = [
    "LABELS",
    "MEASURE",
    "Plane",
    "browser",
    "clusters",
    "condition_number",
    "curvature",
    "distance_contours",
    "distance_matrix",
    "geodesic",
    "indicatrix",
    "interpolations",
    "land",
    "length_units",
    "log_measure",
    "manifold",
    "measure",
    "samples",
    "strip",
    "surface",
    "template",
    "themed",
    "traversals",
    "truncation",
    "training",
    "walks",
    "write_figure",
    "write_html",
]
