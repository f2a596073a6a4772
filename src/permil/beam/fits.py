"""Beam models as FITS."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning

from permil.arrays import FloatArray
from permil.beam.likelihood import Kernel, KernelFamily, Variances
from permil.beam.mixture import BeamPosition, Mixture
from permil.beam.model import BeamModel
from permil.beam.nodes import (
    NODE_ARRAYS,
    BeamNodes,
)
from permil.beam.parameters import BeamParameters, Hull, Member
from permil.errors import InputError
from permil.products import provenance
from permil.products.fits import check_sums

IMAGE_SIZE = 161
_PARTS = ("BEAM", "BEAM_ERR", "NODES", "KERNELS", "GAINS")


def model_to_hdus(model: BeamModel, *, header: Mapping[str, Any] | None = None) -> list[Any]:
    """Return the HDUs of a beam model.

    ``BEAM`` and ``BEAM_ERR`` are images on a lattice with a linear WCS in mm (position minus projector); ``NODES``, ``KERNELS`` and, with
    several bunches, ``EXPOSURES`` rebuild the model; ``GAINS`` holds the gain of each bunch.

    Parameters
    ----------
    header
        Further cards of the primary header.
    """
    axes = [np.linspace(low, high, IMAGE_SIZE) for low, high in zip(model.hull.lower, model.hull.upper, strict=True)]
    beam, error = model.evaluate(axes[0][None, :], axes[1][:, None])
    wcs = _wcs_cards(axes)
    primary = provenance({**_model_cards(model), **(header or {})})
    gains = [(bunch, *gain_and_error) for bunch, gain_and_error in model.gains.items()]
    hdus: list[Any] = [
        fits.PrimaryHDU(header=primary),
        fits.ImageHDU(beam.astype(np.float32), header=wcs.copy(), name="BEAM"),
        fits.ImageHDU(error.astype(np.float32), header=wcs.copy(), name="BEAM_ERR"),
        fits.BinTableHDU(_nodes_table(model), name="NODES"),
        fits.BinTableHDU(_kernels_table(model), name="KERNELS"),
        fits.BinTableHDU(Table(rows=gains, names=("bunch", "gain", "gain_err")), name="GAINS"),
    ]
    if model.parameters.exposure_weight.size:
        hdus.append(fits.BinTableHDU(Table({"weight": model.parameters.exposure_weight}), name="EXPOSURES"))
    reasons = [(row, reason) for reason, rows in model.nodes.dropped.items() for row in rows]
    if reasons:
        hdus.append(fits.BinTableHDU(Table(rows=reasons, names=["row", "reason"]), name="DROPPED"))
    return hdus


def model_from_hdus(path: str | Path) -> BeamModel:
    """Read a beam model from a FITS file; it is identical to the written one.

    Raises
    ------
    InputError
        If the file is missing, damaged or not a beam model.
    """
    try:
        with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
            warnings.simplefilter("ignore", AstropyUserWarning)  # about a truncated file, which the checks below detect
            missing = [name for name in _PARTS if name not in hdus]
            if missing:
                raise InputError(
                    f"not a beam model: extension {', '.join(missing)} is missing",
                    path=path,
                    remedy="give a file written by permil beam fit or permil run",
                )
            check_sums(hdus, path)
            header = hdus[0].header
            tables = {hdu.name: Table(hdu.data) for hdu in hdus if isinstance(hdu, fits.BinTableHDU)}
        nodes = _nodes(tables, str(header["SIGUNIT"]))
        weights = np.array(tables["EXPOSURES"]["weight"], dtype=float) if "EXPOSURES" in tables else np.zeros(0)
        parameters = BeamParameters(_members(tables["KERNELS"], tables["NODES"]), weights)
        covariance = np.array([[header["MAXVARX"], header["MAXCOVXY"]], [header["MAXCOVXY"], header["MAXVARY"]]])
        maximum = BeamPosition(header["MAXUX"], header["MAXUY"], covariance)
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot be read as a beam model ({error})", path=path, remedy="check the path, or fit it again"
        ) from error
    return BeamModel(nodes, parameters, Mixture.of(nodes, parameters, Hull.of(nodes.u)), maximum)


def _model_cards(model: BeamModel) -> dict[str, Any]:
    maximum, centroid = model.maximum, model.centroid
    return {
        "MAXUX": (maximum.ux, "[mm] u of the maximum, CCS X"),
        "MAXUY": (maximum.uy, "[mm] the same, CCS Y"),
        "MAXVARX": (float(maximum.covariance[0, 0]), "[mm2] variance of MAXUX"),
        "MAXVARY": (float(maximum.covariance[1, 1]), "[mm2] variance of MAXUY"),
        "MAXCOVXY": (float(maximum.covariance[0, 1]), "[mm2] covariance of MAXUX and MAXUY"),
        "CENUX": (centroid.ux, "[mm] centroid above 0.9 of the maximum, CCS X"),
        "CENUY": (centroid.uy, "[mm] the same, CCS Y"),
        "CENUXERR": (centroid.ux_err, "[mm] error of CENUX"),
        "CENUYERR": (centroid.uy_err, "[mm] error of CENUY"),
        "NODENOIS": (model.node_noise, "relative noise of a node, not in BEAM_ERR"),
        "EXPNOIS": (model.exposure_noise, "relative noise common to an exposure"),
        "NOUTLIER": (len(model.outliers), "nodes that were down-weighted"),
        "SIGUNIT": (model.nodes.unit, "unit of the fitted signal"),
    }


def _wcs_cards(axes: list[FloatArray]) -> fits.Header:
    header = fits.Header()
    for number, (name, axis) in enumerate(zip(("UX", "UY"), axes, strict=True), start=1):
        header[f"CTYPE{number}"] = (name, "position minus projector, CCS")
        header[f"CUNIT{number}"] = "mm"
        header[f"CRPIX{number}"] = 1.0
        header[f"CRVAL{number}"] = float(axis[0])
        header[f"CDELT{number}"] = float(axis[1] - axis[0])
    return header


def _nodes_table(model: BeamModel) -> Table:
    units = {name: "mm" for name in NODE_ARRAYS if name.endswith("_mm")}
    table = Table({name: getattr(model.nodes, name) for name in NODE_ARRAYS}, units=units)
    deviation, pull = model.left_out_pulls()
    table["outlier_probability"] = model.parameters.outlier_probability
    table["extra_variance"] = np.column_stack([member.extra_variance for member in model.parameters.members])
    table["roughness"] = np.column_stack([member.roughness for member in model.parameters.members])
    table["left_out_deviation"] = deviation
    table["left_out_pull"] = pull
    return table


def _kernels_table(model: BeamModel) -> Table:
    rows = [
        {
            "member": number,
            "family": member.family.name,
            "degree": member.family.degree,
            "centre_x": member.family.centre[0],
            "centre_y": member.family.centre[1],
            "extent": member.family.extent,
            "shape": kernel.shape,
            "length": kernel.length,
            "variance": variance,
            "node_variance": member.variances.node,
            "exposure_variance": member.variances.exposure,
            "weight": member.weight,
        }
        for number, member in enumerate(model.parameters.members)
        for kernel, variance in zip(member.family.kernels, member.variances.kernels, strict=True)
    ]
    return Table(rows=rows)


def _nodes(tables: dict[str, Table], unit: str) -> BeamNodes:
    kinds = {"bunch": str, "exposure": np.int64, "rows": np.int64}
    columns: dict[str, Any] = {name: np.array(tables["NODES"][name]).astype(kinds.get(name, float)) for name in NODE_ARRAYS}
    columns["bunch"] = np.char.strip(columns["bunch"])
    dropped: dict[str, list[int]] = {}
    for row in tables.get("DROPPED", ()):
        dropped.setdefault(str(row["reason"]), []).append(int(row["row"]))
    return BeamNodes(**columns, dropped=dropped, unit=unit)


def _members(kernels: Table, nodes: Table) -> tuple[Member, ...]:
    members = []
    columns = (np.array(nodes[name], dtype=float).T.copy() for name in ("extra_variance", "roughness"))
    for number, (extra_variance, roughness) in enumerate(zip(*columns, strict=True)):
        part = kernels[np.array(kernels["member"]) == number]
        first = part[0]
        rungs = tuple(Kernel(str(row["shape"]).strip(), float(row["length"])) for row in part)
        family = KernelFamily(
            str(first["family"]).strip(),
            int(first["degree"]),
            rungs,
            (float(first["centre_x"]), float(first["centre_y"])),
            float(first["extent"]),
        )
        variances = Variances(
            np.array(part["variance"], dtype=float), float(first["node_variance"]), float(first["exposure_variance"])
        )
        members.append(Member(family, variances, float(first["weight"]), extra_variance, roughness))
    return tuple(members)
