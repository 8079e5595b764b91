"""Displays: every function returns a plotly ``Figure`` that holds the numbers it draws, and never shows it.

The measure heatmap follows Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018), figure 4.
"""

from __future__ import annotations

from latentgeo.plot.clusters import clusters
from latentgeo.plot.curvature import curvature
from latentgeo.plot.indicatrix import indicatrix
from latentgeo.plot.land import land
from latentgeo.plot.measure import length_units, log_measure, measure
from latentgeo.plot.page import browser, write_html, write_png
from latentgeo.plot.strips import strip
from latentgeo.plot.theme import LABELS, MEASURE, template
from latentgeo.plot.walks import walks

__all__ = [
    "LABELS",
    "MEASURE",
    "browser",
    "clusters",
    "curvature",
    "indicatrix",
    "land",
    "length_units",
    "log_measure",
    "measure",
    "strip",
    "template",
    "walks",
    "write_html",
    "write_png",
]
