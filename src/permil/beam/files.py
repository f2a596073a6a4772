"""Beam models as FITS, and the commands `permil beam fit` and `predict` on tables."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from permil.arrays import FloatArray
from permil.beam.likelihood import Kernel, KernelFamily, Variances
from permil.beam.mixture import BeamPosition, Mixture
from permil.beam.model import BeamModel
from permil.beam.nodes import (
    BUNCH_COLUMNS,
    NODE_ARRAYS,
    PLACE_COLUMNS,
    REQUIRED_COLUMNS,
    BeamNodes,
    bunch_labels,
    nodes_from_table,
)
from permil.beam.parameters import BeamParameters, Hull, Member
from permil.camera import Camera
from permil.errors import BeamError, InputError, PermilError
from permil.products import Description, check_output, provenance, read_table, write_hdus, write_table
from permil.products.fits import check_sums
from permil.products.tables import numbers, recognise

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
        "MAXUX": (maximum.ux, "[mm] maximum, place minus projector, CCS X"),
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
        header[f"CTYPE{number}"] = (name, "place minus projector, CCS")
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


ADDED_COLUMNS = ("beam", "beam_err")


def fit_table(
    path_in: str | Path, path_out: str | Path, *, amp: str | int | None = None, camera: Camera | None = None
) -> Description:
    """Fit a beam model to a table of nodes and write it; return its description.

    Parameters
    ----------
    path_in
        Table of nodes (see `nodes_from_table`).
    path_out
        FITS file of the model.
    amp
        Use only the rows of this amplifier.
    camera
        Camera with the positions of the amplifiers, for tables that name detector and box.

    Raises
    ------
    PermilError
        If the table cannot be used, or the model cannot be fitted or written.
    """
    check_output(path_out, inputs=[path_in])
    try:
        table = read_table(path_in, columns=REQUIRED_COLUMNS, purpose="node table")
        model = BeamModel.from_nodes(nodes_from_table(table, amp=amp, camera=camera))
    except PermilError as error:
        error.path = error.path or str(path_in)
        raise
    write_hdus(path_out, model_to_hdus(model))
    return Description(model.describe(), {"out": path_out} | model.facts())


def predict_table(path_model: str | Path, path_in: str | Path, path_out: str | Path) -> Description:
    """Add the columns ``beam`` and ``beam_err`` to a table of projector positions and write it; return a summary sentence.

    Both are in the unit of the fitted signal and NaN outside the hull of the nodes. ``beam_err`` is the error of the model: a measurement
    also has the node noise, which is given in the metadata of the table.

    Parameters
    ----------
    path_model
        FITS file of the model.
    path_in
        Table with ``x_mm``, ``y_mm``; the position is that of the fitted bunch unless ``ref_x_mm``, ``ref_y_mm`` give another.
    path_out
        Table to write: the same rows and columns plus the two columns.

    Raises
    ------
    PermilError
        If the model or the table cannot be used, or the result cannot be written.
    """
    check_output(path_out, inputs=[path_model, path_in])
    model = model_from_hdus(path_model)
    table = read_table(path_in, columns=("x_mm", "y_mm"), purpose="table of positions")
    try:
        table = predict(model, table)
    except PermilError as error:
        error.path = error.path or str(path_in)
        raise
    write_table(path_out, table)
    outside = int(np.isnan(np.asarray(table["beam"])).sum())
    return Description(
        f"{len(table)} positions, {outside} of them without data (nan); node noise {model.node_noise:.2e} is not in beam_err",
        {"out": path_out, "positions": len(table), "without_data": outside, "node_noise": model.node_noise},
    )


def predict(model: BeamModel, table: Table) -> Table:
    """Return a copy of a table of positions with the predicted signal and its error.

    Positions in other units than mm are converted; a masked position has the signal NaN.

    Raises
    ------
    InputError
        If the table already has one of the added columns, lacks or misspells a column, or a position is not a number in a unit of length.
    BeamError
        If the model has several bunches and the table does not give positions.
    """
    present = [name for name in ADDED_COLUMNS if name in table.colnames]
    if present:
        raise InputError(f"the table already has a column {', '.join(present)}", remedy="rename or remove it", value=present)
    places = recognise(table, needed=("x_mm", "y_mm"), optional=BUNCH_COLUMNS, purpose="table of positions")
    bunches = _bunches(model, places)
    ref_x_mm, ref_y_mm = _places(model, places, bunches)
    ux, uy = ref_x_mm - numbers(places, "x_mm", unit="mm"), ref_y_mm - numbers(places, "y_mm", unit="mm")
    beam, beam_err = np.full(len(table), np.nan), np.full(len(table), np.nan)
    for bunch in np.unique(bunches):
        members = bunches == bunch
        known = str(bunch) if bunch in model.gains else None
        beam[members], beam_err[members] = model.predict_signal(ux[members], uy[members], bunch=known)
    result = table.copy()
    for name, column in zip(ADDED_COLUMNS, (beam, beam_err), strict=True):
        result[name] = column
        result[name].unit = model.nodes.unit or None
    result.meta["beam_node_noise"] = model.node_noise
    return result


def _bunches(model: BeamModel, table: Table) -> NDArray[np.str_]:
    """Return the bunch of each row: the only one, the one named in the row, or none (mean gain)."""
    if len(model.gains) == 1:
        return np.full(len(table), next(iter(model.gains)))
    return bunch_labels(table)


def _places(model: BeamModel, table: Table, bunches: NDArray[np.str_]) -> tuple[FloatArray, FloatArray]:
    if set(PLACE_COLUMNS) <= set(table.colnames):
        return numbers(table, "ref_x_mm", unit="mm"), numbers(table, "ref_y_mm", unit="mm")
    unknown = sorted(set(bunches.tolist()) - set(model.gains))
    if unknown:
        raise BeamError(
            "the model was fitted to several bunches and the table does not give the position of each row",
            remedy="add columns ref_x_mm and ref_y_mm, or the columns that name the bunch",
            value=unknown,
            allowed=list(model.gains),
        )
    first = {bunch: int(np.flatnonzero(model.nodes.bunch == bunch)[0]) for bunch in np.unique(bunches).tolist()}
    index = np.array([first[bunch] for bunch in bunches.tolist()], dtype=int)
    return model.nodes.ref_x_mm[index], model.nodes.ref_y_mm[index]
