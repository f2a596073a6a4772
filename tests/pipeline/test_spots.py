"""Artificial stars through the command line: from raw files to throughput, and what the user sees when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.config.simulate import SimulateSpotsConfig
from permil.products.folder import SpotsFolder
from permil.simulate.spots import simulate_spots

Permil = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def stars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stars")
    simulate_spots(SimulateSpotsConfig.model_validate({"seed": 3, "campaign": {"exposures": 8, "biases": 3}}), folder, workers=1)
    return folder


@pytest.mark.usefixtures("no_pictures")
def test_run_of_stars_alone(permil: Permil, stars: Path) -> None:
    code, _, messages = permil("run", stars / "config.yaml", "pipeline.workers=1")
    assert code == 0, messages
    assert "8 spot exposures" in messages
    assert "225 spots, 8 exposures" in messages
    assert SpotsFolder(stars).summary.is_file()
    assert (stars / "report" / "index.html").is_file()
    code, _, messages = permil("run", stars / "config.yaml", "pipeline.workers=1")
    assert "spots: 0 done" in messages


def test_grid_of_the_real_catalog(permil: Permil, shared_data: Path, tmp_path: Path) -> None:
    catalog = shared_data / "spot_catalog_R02_S02_20191031.fits"
    out = tmp_path / "grid.fits"
    code, text, messages = permil("spots", "grid", catalog, "--out", out)
    assert code == 0, messages
    assert "22 rejected" in text
    with fits.open(out) as hdus:
        header = hdus[0].header
        table = Table(hdus[1].data)
    stored = Table.read(catalog, hdu=1)
    assert len(table) == len(stored)
    assert abs(header["X0"] - 2211.855678819312) < 1e-3
    assert abs(header["Y0"] - 2255.341911191493) < 1e-3
    labelled = np.asarray(table["grid_i"]) >= 0
    # The labels that the catalog brings (index = 49 i + j) are those of another program.
    known = np.asarray(stored["spotgrid_index"], dtype=float)
    np.testing.assert_array_equal(labelled, np.isfinite(known))
    np.testing.assert_array_equal(49 * table["grid_i"][labelled] + table["grid_j"][labelled], known[labelled])


def test_empty_catalog_is_one_sentence(permil: Permil, tmp_path: Path) -> None:
    catalog = tmp_path / "empty.fits"
    Table({"x": np.zeros(0), "y": np.zeros(0), "xx": np.zeros(0), "yy": np.zeros(0), "flux": np.zeros(0)}).write(catalog)
    code, _, messages = permil("spots", "grid", catalog, "--out", tmp_path / "grid.fits")
    assert code == 2
    assert "empty.fits" in messages
    assert not (tmp_path / "grid.fits").exists()
