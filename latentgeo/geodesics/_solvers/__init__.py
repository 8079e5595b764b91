"""Boundary-value solvers: frozen values that turn starting curves into geodesics."""
