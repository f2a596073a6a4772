"""Beam on a whole detector beside SciPy's spline; fit and prediction beside SciPy's radial basis function."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import RBFInterpolator, RectBivariateSpline

from harness import compare, print_rows
from permil.beam import BeamModel, BeamNodes

SHAPE = (4004, 4096)
PIXEL_MM = 0.01
SCAN = 12
NOISE = 3e-4
POINTS = 10_000


def simulated_scan() -> tuple[BeamNodes, RectBivariateSpline]:
    """Return a 12 x 12 scan of a smooth beam, and the cubic spline through its nodes as a function of ``u``."""
    axis = np.linspace(-40.0, 40.0, SCAN)
    ux, uy = np.meshgrid(axis, axis, indexing="ij")
    signal = np.exp(-(((ux**2 + uy**2) / 60.0**2) ** 1.5))
    signal *= 1.0 + NOISE * np.random.default_rng(0).standard_normal(signal.shape)
    return BeamNodes.from_columns(-ux.ravel(), -uy.ravel(), signal.ravel()), RectBivariateSpline(axis, axis, signal, s=0)


def main() -> None:
    """Print the comparisons."""
    nodes, spline = simulated_scan()
    model = BeamModel.from_nodes(nodes)
    # CCS runs across the pixel frame: X with the row, Y with the column.
    origin, matrix = np.array([-20.0, -20.5]), PIXEL_MM * np.array([[0.0, 1.0], [1.0, 0.0]])
    rows, columns = np.indices(SHAPE)
    ux, uy = origin[0] + PIXEL_MM * rows.ravel(), origin[1] + PIXEL_MM * columns.ravel()
    u = np.random.default_rng(1).uniform(-40.0, 40.0, (POINTS, 2))
    radial = RBFInterpolator(nodes.u, np.log(nodes.signal), kernel="cubic")
    print_rows(
        [
            compare(
                "beam and error on 16.4 Mpixel",
                ("evaluate_image", lambda: model.evaluate_image(SHAPE, origin, matrix)),
                ("RectBivariateSpline.ev (beam alone)", lambda: spline.ev(ux, uy)),
            ),
            compare(
                "beam and error at 10,000 places",
                ("evaluate", lambda: model.evaluate(*u.T)),
                ("RBFInterpolator (beam alone)", lambda: np.exp(radial(u))),
            ),
            compare(
                "fit of 144 nodes",
                ("BeamModel.from_nodes (smoothing, errors, maximum)", lambda: BeamModel.from_nodes(nodes)),
                ("RBFInterpolator", lambda: RBFInterpolator(nodes.u, np.log(nodes.signal), kernel="cubic")),
            ),
        ]
    )


if __name__ == "__main__":
    main()
