"""Displays: every function returns a plotly ``Figure`` that holds the numbers it draws, and never shows it.

The measure heatmap follows Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018), figure 4.
"""

from __future__ import annotations

from latentgeo.plot.measure import length_units, log_measure, measure
from latentgeo.plot.page import browser, write_html, write_png
from latentgeo.plot.strips import strip
from latentgeo.plot.theme import LABELS, MEASURE, template

__all__ = [
    "LABELS",
    "MEASURE",
    "browser",
    "length_units",
    "log_measure",
    "measure",
    "strip",
    "template",
    "write_html",
    "write_png",
]
