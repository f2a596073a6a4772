"""The same measurement given twice counts once; a catalog that cannot be used does not end the run; sensors are kept apart."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from campaigns import draw_campaign

from permil.camera import load_camera
from permil.config import Config
from permil.config.spots import SpotsConfig
from permil.context import Run
from permil.errors import CameraError, InputError, PermilError, SpotError
from permil.products import RunFolder
from permil.products.folder import SpotsFolder
from permil.spots.catalog import write_catalog
from permil.spots.inputs import CatalogFile, catalog_files, label_file
from permil.spots.measurements import gather, repeated_catalogs
from permil.spots.stage import calibrate_files, run_spots

OPTIONS = SpotsConfig(columns=15, rows=15, method="mean", cell_px=128)
COUNT = 4


@pytest.fixture(scope="module")
def cutout():
    return load_camera("spots-cutout")


@pytest.fixture(scope="module")
def catalogs():
    return draw_campaign(np.random.default_rng(8), exposures=COUNT).catalogs


def _write(folder, catalogs, *, labels=True, suffix=""):
    paths = []
    for catalog in catalogs:
        none = np.full(len(catalog), -1)
        paths.append(folder / f"{catalog.exposure or 'unnamed'}{suffix}.fits")
        write_catalog(paths[-1], catalog if labels else catalog.with_labels(none, none))
    return paths


@pytest.fixture(scope="module")
def once(tmp_path_factory, cutout, catalogs):
    folder = tmp_path_factory.mktemp("once")
    calibrate_files(_write(folder / "in", catalogs), folder / "once.fits", options=OPTIONS, camera=cutout)
    return folder / "once.fits"


def _flux_error(path):
    spots = fits.getdata(path, "SPOTS")
    return np.nanmedian(spots["flux_err"] / spots["flux"])


def _copy(path):
    shutil.copy(path, path.with_name(f"copy_of_{path.name}"))
    return [path.parent]


def _link(path):
    path.with_name(f"link_{path.name}").symlink_to(path)
    return [path.parent]


def _hard_link(path):
    path.with_name(f"link_{path.name}").hardlink_to(path)
    return [path.parent]


def _folder_and_file(path):
    return [path.parent, path]


def _same_path_in_another_spelling(path):
    return [path.parent, path.parent / ".." / path.parent.name / path.name]


def _packed(path):
    path.with_suffix(".fits.gz").write_bytes(gzip.compress(path.read_bytes()))
    return [path.parent]


def _rewritten(path, *, cards=None, kind=None, order=None, names=None):
    with fits.open(path) as hdus:
        table = Table(hdus[1].data)
        header = hdus[0].header.copy()
    for card, value in (cards or {}).items():
        header[card] = value
    if order is not None:
        table = table[order]
    if kind is not None:
        for name in table.colnames:
            if table[name].dtype.kind == "f":
                table[name] = table[name].astype(kind)
    hdu = fits.BinTableHDU(table[names or table.colnames], name="SPOTS")
    fits.HDUList([fits.PrimaryHDU(header=header), hdu]).writeto(path.with_name(f"again_{path.name}"))
    return [path.parent]


def _other_header(path):
    return _rewritten(path, cards={"EXPTIME": 3.0, "OPERATOR": "someone"})


def _other_order_of_columns(path):
    return _rewritten(path, names=list(reversed(fits.getdata(path, 1).names)))


def _other_order_of_rows(path):
    return _rewritten(path, order=np.random.default_rng(1).permutation(len(fits.getdata(path, 1))))


def _single_precision(path):
    return _rewritten(path, kind=np.float32)


def _under_another_exposure(path):
    return _rewritten(path, cards={"EXPOSURE": f"another_{path.stem}"})


def _other_spelling_of_the_detector(path):
    return _rewritten(path, cards={"DETECTOR": "r22-s11"})


@pytest.mark.parametrize("again", [
    _copy, _link, _hard_link, _folder_and_file, _same_path_in_another_spelling, _packed, _other_header, _other_order_of_columns,
    _other_order_of_rows, _single_precision, _under_another_exposure, _other_spelling_of_the_detector,
])  # fmt: skip
def test_a_catalog_given_twice_counts_once(tmp_path, cutout, catalogs, once, again):
    # Names that say nothing, so that headers decide.
    paths = [path.rename(path.with_name(f"e{number}.fits")) for number, path in enumerate(_write(tmp_path / "in", catalogs))]
    given = paths
    for path in paths:
        given = again(path)
    text = calibrate_files(
        given if len(given) == 1 else [*given, *paths], tmp_path / "twice.fits", options=OPTIONS, camera=cutout
    )
    assert f"{COUNT} exposures" in text
    assert "counted once" in text
    assert _flux_error(tmp_path / "twice.fits") == pytest.approx(_flux_error(once), rel=1e-4)
    np.testing.assert_allclose(
        fits.getdata(tmp_path / "twice.fits", "SPOTS")["flux"], fits.getdata(once, "SPOTS")["flux"], rtol=1e-6
    )


def test_run_names_what_counts_once(tmp_path, cutout, catalogs):
    paths = _write(tmp_path / "in", catalogs)
    _copy(paths[1])
    options = OPTIONS.model_copy(update={"catalogs": [str(tmp_path / "in")]})
    report = run_spots(Run(Config(spots=options), cutout, RunFolder(tmp_path / "out")))
    assert any(f"repeats {paths[1]}" in message or f"copy_of_{paths[1].name}" in message for message in report.messages)
    remarks = Table.read(SpotsFolder(tmp_path / "out").remarks)
    assert len(remarks) == 1
    assert "counted once" in remarks["remark"][0]


def _other_program(catalog):
    return replace(catalog, flux=catalog.flux * 1.01)


def _other_centroids(catalog):
    return replace(catalog, x=catalog.x + 0.001)


def _half(catalog):
    return catalog.select(np.arange(len(catalog)) % 2 == 0)


@pytest.mark.parametrize("other", [_other_program, _other_centroids, _half])
def test_two_catalogs_of_one_exposure_that_differ_are_refused(tmp_path, cutout, catalogs, other):
    first = _write(tmp_path / "a", catalogs)
    second = _write(tmp_path / "b", [other(catalogs[2])])
    with pytest.raises(SpotError, match="differ, although both hold R22_S11 of exposure MC_C_20191030_000002") as caught:
        calibrate_files([*first, *second], tmp_path / "c.fits", options=OPTIONS, camera=cutout)
    assert str(first[2]) in str(caught.value)
    assert str(second[0]) in str(caught.value)
    assert not (tmp_path / "c.fits").exists()


def test_one_exposure_of_two_detectors_and_repeated_images_are_no_repetition(catalogs):
    elsewhere = replace(catalogs[0], detector="R02_S02", flux=catalogs[0].flux + 1)
    again = replace(catalogs[0], exposure="another", flux=catalogs[0].flux + 2)
    names = ["a", "b", "c"]
    assert repeated_catalogs([catalogs[0], elsewhere, again], names) == {}
    with pytest.raises(SpotError, match=r"b and a have equal values, but one is of R02_S02, the other of R22_S11"):
        repeated_catalogs([catalogs[0], replace(catalogs[0], detector="R02_S02")], names)


def test_one_exposure_given_twice_is_no_calibration(tmp_path, cutout, catalogs):
    path = _write(tmp_path / "in", catalogs[:1])[0]
    _copy(path)
    with pytest.raises(SpotError, match=r"at least two exposures of the mask; .*counted once"):
        calibrate_files([tmp_path / "in"], tmp_path / "c.fits", options=OPTIONS, camera=cutout)


def test_part_of_a_catalog_under_another_name_is_refused(catalogs):
    part = replace(catalogs[0].select(np.arange(0, len(catalogs[0]), 2)), exposure="a part")
    with pytest.raises(SpotError, match=rf"{len(part)} rows of b are identical to rows of a"):
        repeated_catalogs([catalogs[0], part], ["a", "b"])
    few = replace(catalogs[1], exposure="few", x=np.where(np.arange(len(catalogs[1])) < 4, catalogs[1].x, catalogs[1].x + 1))
    assert repeated_catalogs([catalogs[1], few], ["a", "b"]) == {}


def test_numbers_of_exposures_are_their_names(catalogs):
    first = replace(catalogs[0], exposure="MC_C_20191030_000363")
    with pytest.raises(SpotError, match="differ, although both hold R22_S11 of exposure 3019103000363"):
        repeated_catalogs([first, replace(_other_program(first), exposure="3019103000363")], ["a", "b"])


def test_arrays_given_twice_are_refused(catalogs):
    with pytest.raises(SpotError, match=r"catalog 2 \(MC_C_20191030_000000\) repeats catalog 0"):
        gather([*catalogs[:2], catalogs[0]], columns=15, rows=15)
    with pytest.raises(SpotError, match="differ, although both hold R22_S11 of exposure"):
        gather([*catalogs[:2], _other_program(catalogs[0])], columns=15, rows=15)
    with pytest.raises(SpotError, match=r"different sensors \(A-1, A-2"):
        gather([replace(catalogs[0], serial="A-1"), replace(catalogs[1], serial="A-2")], columns=15, rows=15)


def test_rows_given_twice_count_once(tmp_path, cutout, catalogs, once):
    twice = [entry.select(np.concatenate([np.arange(len(entry)), np.arange(0, len(entry), 3)])) for entry in catalogs]
    paths = _write(tmp_path / "rows", twice, labels=False)
    text = calibrate_files(paths, tmp_path / "twice.fits", options=OPTIONS, camera=cutout)
    assert "rows repeat others exactly and count once" in text
    assert f"(and {COUNT - 1} more like this)" in text
    for name in ("flux", "flux_err"):
        np.testing.assert_allclose(
            fits.getdata(tmp_path / "twice.fits", "SPOTS")[name], fits.getdata(once, "SPOTS")[name], rtol=1e-9
        )


def test_files_of_one_name_in_several_folders_are_several_exposures(tmp_path, cutout, catalogs):
    for number, catalog in enumerate(catalogs):
        write_catalog(tmp_path / "in" / f"exposure{number}" / "catalog.fits", replace(catalog, exposure=""))
    options = OPTIONS.model_copy(update={"catalogs": [str(tmp_path / "in")]})
    run_spots(Run(Config(spots=options), cutout, RunFolder(tmp_path / "out")))
    with fits.open(SpotsFolder(tmp_path / "out").calibration("R22_S11", "red")) as hdus:
        assert list(hdus["EXPOSURES"].data["exposure"]) == [f"exposure{number}_catalog" for number in range(COUNT)]


def test_files_in_folders(tmp_path):
    for name in (
        "a.fits",
        "b.FITS",
        "c.fits.gz",
        "d.cat",
        "e.fit",
        "f.fts.bz2",
        ".g.fits",
        "._h.fits",
        "i.txt",
        "j.txt.gz",
        "k.png",
    ):
        (tmp_path / name).write_bytes(b"")
    assert [entry.path.name for entry in catalog_files([tmp_path])[0]] == [
        "a.fits",
        "b.FITS",
        "c.fits.gz",
        "d.cat",
        "e.fit",
        "f.fts.bz2",
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"no catalogs were found.*end in \.fits"):
        catalog_files([tmp_path / "none"])


def _spoiled(folder, catalogs):
    """Write catalogs that cannot be used, each for another reason; return the message about each."""
    good = _write(folder, [replace(catalogs[0], exposure="spoiled")], suffix="_cut")[0]
    good.write_bytes(good.read_bytes()[:-5760])
    (folder / "text.fits").write_text("no FITS")
    fits.PrimaryHDU(np.zeros((30, 30))).writeto(folder / "image.fits")
    none = catalogs[0].select(np.zeros(len(catalogs[0]), dtype=bool))
    write_catalog(folder / "zero.fits", replace(none, exposure="zero"))
    write_catalog(folder / "nan.fits", replace(catalogs[0], exposure="nan", x=np.full(len(catalogs[0]), np.nan)))
    write_catalog(folder / "dark.fits", replace(catalogs[0], exposure="dark", flux=np.full(len(catalogs[0]), np.nan)))
    write_catalog(folder / "whose.fits", replace(catalogs[0], exposure="whose", detector=""))
    write_catalog(folder / "foreign.fits", replace(catalogs[0], exposure="foreign", detector="R99_S11"))
    write_catalog(folder / "far.fits", replace(catalogs[0], exposure="far", y=catalogs[0].y + 400))
    return {
        "spoiled_cut.fits": "cut short", "text.fits": "not FITS", "image.fits": "no table of spots", "zero.fits": "empty",
        "nan": "all positions", "nan.fits": "all positions", "dark.fits": "all fluxes", "whose": "do not identify their detector",
        "foreign": "is not in camera spots-cutout", "far": "lie outside R22_S11",
    }  # fmt: skip


def test_catalogs_that_cannot_be_used_do_not_end_the_run(tmp_path, cutout, catalogs):
    _write(tmp_path / "in", catalogs)
    reasons = _spoiled(tmp_path / "in", catalogs)
    options = OPTIONS.model_copy(update={"catalogs": [str(tmp_path / "in")]})
    report = run_spots(Run(Config(spots=options), cutout, RunFolder(tmp_path / "out")))
    left_out = Table.read(SpotsFolder(tmp_path / "out").left_out)
    assert len(left_out) == 9
    for row in left_out:
        assert reasons[row["exposure"]] in row["reason"]
    assert f"{COUNT} exposures" in report.messages[0]
    assert "9 exposures left out" in report.messages[-1]


def test_if_all_catalogs_fail_one_sentence_says_so(tmp_path, cutout, catalogs):
    (tmp_path / "in").mkdir()
    _spoiled(tmp_path / "in", catalogs)
    options = OPTIONS.model_copy(update={"catalogs": [str(tmp_path / "in")]})
    with pytest.raises(PermilError, match=r"no exposure has a usable grid \(9 catalogs\); the first: dark\.fits: .*all fluxes"):
        run_spots(Run(Config(spots=options), cutout, RunFolder(tmp_path / "out")))
    assert not SpotsFolder(tmp_path / "out").summary.exists()


@pytest.mark.parametrize("label", ["R22-S11", "r22_s11", "94", "det094", "E2V-CCD250-382"])
def test_detectors_in_any_spelling(tmp_path, cutout, catalogs, label):
    detector = cutout["R22_S11"]
    label = {"94": str(detector.id), "det094": f"det{detector.id:03d}", "E2V-CCD250-382": detector.serial}.get(label, label)
    paths = _write(tmp_path / "in", [replace(catalogs[0], detector=label), *catalogs[1:]])
    text = calibrate_files(paths, tmp_path / "c.fits", options=OPTIONS.model_copy(update={"detectors": [label]}), camera=cutout)
    assert text.startswith(f"R22_S11 red: 225 spots, {COUNT} exposures")
    assert "left out" not in text


def test_misspelt_detector_of_the_options(tmp_path, cutout, catalogs):
    paths = _write(tmp_path / "in", catalogs[:1])
    with pytest.raises(CameraError, match="no detector 'R22_S1'"):
        calibrate_files(paths, tmp_path / "c.fits", options=OPTIONS.model_copy(update={"detectors": ["R22_S1"]}), camera=cutout)


def test_detectors_and_bands_are_kept_apart(tmp_path, cutout, catalogs):
    others = draw_campaign(np.random.default_rng(9), exposures=3).catalogs
    others = [replace(entry, detector="R02-S02", exposure=entry.exposure.replace("_00000", "_00001")) for entry in others]
    single = replace(
        draw_campaign(np.random.default_rng(10), exposures=1).catalogs[0], band="blue", exposure="MC_C_20191030_000020"
    )
    _write(tmp_path / "in", [*catalogs, *others, single])
    options = OPTIONS.model_copy(update={"catalogs": [str(tmp_path / "in")]})
    report = run_spots(Run(Config(spots=options), cutout, RunFolder(tmp_path / "out")))
    assert [line.split(":")[0] for line in report.messages if "exposures (dithered)" in line] == ["R02_S02 red", "R22_S11 red"]
    products = SpotsFolder(tmp_path / "out")
    assert fits.getheader(products.calibration("R02_S02", "red"))["DETECTOR"] == "R02_S02"
    # A band with one exposure cannot be calibrated; the others can.
    left_out = Table.read(products.left_out)
    assert [(row["exposure"], row["reason"].split(";")[0]) for row in left_out] == [
        ("MC_C_20191030_000020", "a calibration needs at least two exposures of the mask")
    ]
    with pytest.raises(SpotError, match=r"exposures of different detectors \(R02_S02, R22_S11"):
        calibrate_files([tmp_path / "in"], tmp_path / "c.fits", options=OPTIONS, camera=cutout)


def test_another_sensor_at_the_same_place_is_reported_and_two_are_refused(tmp_path, cutout, catalogs):
    serial = cutout["R22_S11"].serial
    paths = _write(tmp_path / "in", [replace(entry, serial="E2V-CCD250-999") for entry in catalogs])
    text = calibrate_files(paths, tmp_path / "c.fits", options=OPTIONS, camera=cutout)
    assert f"of sensor E2V-CCD250-999, but R22_S11 of camera spots-cutout is sensor {serial} (and {COUNT - 1} more" in text
    paths = _write(
        tmp_path / "two", [replace(catalogs[0], serial="E2V-CCD250-999"), *(replace(c, serial=serial) for c in catalogs[1:])]
    )
    with pytest.raises(SpotError, match="different sensors"):
        calibrate_files(paths, tmp_path / "c.fits", options=OPTIONS, camera=cutout)


def test_few_sources_off_the_detector_are_not_used(tmp_path, cutout, catalogs):
    x = catalogs[0].x.copy()
    x[3], x[7] = -250.0, 1500.0
    path = _write(tmp_path, [replace(catalogs[0], x=x)])[0]
    labelled = label_file(CatalogFile(path), options=OPTIONS, camera=cutout)
    assert np.flatnonzero(np.isnan(labelled.catalog.x)).tolist() == [3, 7]
    first = f"(-250.0, {catalogs[0].y[3]:.1f})"
    assert labelled.catalog.remarks == (f"2 sources lie outside R22_S11 (1024 x 1024 pixels), the first at {first}: not used",)


def test_names_of_exposures_stay_inside_the_folder(tmp_path, cutout, catalogs):
    odd = replace(catalogs[0], exposure="../../up: 1/2")
    write_catalog(tmp_path / "odd.fits", odd.with_labels(np.full(len(odd), -1), np.full(len(odd), -1)))
    label_file(CatalogFile(tmp_path / "odd.fits"), options=OPTIONS, camera=cutout, products=SpotsFolder(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out" / "spots" / "grids").iterdir()] == ["..-..-up--1-2_R22_S11.fits"]


def test_second_grid_is_reported(tmp_path, cutout, catalogs):
    i, j = catalogs[0].grid_i, catalogs[0].grid_j
    near = (i < 14) & (j > 3) & (j < 9) & (i > 2)
    none = np.full(len(i) + near.sum(), -1)
    rows = np.concatenate([np.arange(len(i)), np.flatnonzero(near)])
    saddles = catalogs[0].select(rows).with_labels(none, none)
    shift = np.where(np.arange(len(rows)) >= len(i), 20.0, 0.0)
    path = _write(tmp_path, [replace(saddles, x=saddles.x + shift)])[0]
    labelled = label_file(CatalogFile(path), options=OPTIONS, camera=cutout)
    assert labelled.error is None
    assert labelled.catalog.labelled.sum() == len(i)
    assert f"{near.sum()} sources lie on a second, weaker grid" in labelled.warnings[0]


@pytest.mark.parametrize("method", ["mean", "joint"])
def test_every_spot_saturated_or_without_light(tmp_path, cutout, catalogs, method):
    dark = replace(catalogs[0], flux=-np.abs(catalogs[0].flux))
    saturated = replace(catalogs[1], flags=np.full(len(catalogs[1]), 4))
    paths = _write(tmp_path / "in", [dark, saturated, *catalogs[2:]])
    options = OPTIONS.model_copy(update={"method": method})
    text = calibrate_files(paths, tmp_path / "c.fits", options=options, camera=cutout)
    assert "R22_S11 red: 225 spots, 2 exposures" in text
    assert "left out: MC_C_20191030_000000: most spots have no positive flux: the median flux is -" in text
    assert "left out: MC_C_20191030_000001: no spot is good: all are saturated" in text
    with pytest.raises(SpotError, match=r"no exposure has a usable grid \(2 catalogs\)"):
        calibrate_files(paths[:2], tmp_path / "none.fits", options=options, camera=cutout)


def test_calibration_of_another_sensor_or_mask_is_refused(tmp_path, cutout, catalogs):
    serial = cutout["R22_S11"].serial
    paths = _write(tmp_path / "in", [replace(entry, serial=serial) for entry in catalogs])
    calibration = tmp_path / "calibration.fits"
    calibrate_files(paths, calibration, options=OPTIONS, camera=cutout)
    assert fits.getheader(calibration)["LSST_NUM"] == serial
    other = _write(tmp_path / "other", [replace(entry, serial="E2V-CCD250-999") for entry in catalogs[:2]])
    options = OPTIONS.model_copy(update={"catalogs": [str(path) for path in other], "calibration": str(calibration)})
    with pytest.raises(SpotError, match=f"the calibration is of sensor {serial}, but the exposures are of E2V-CCD250-999"):
        run_spots(Run(Config(spots=options), cutout, RunFolder(tmp_path / "out")))
    for change, sentence in ((_cut, "damaged|cannot be read"), (_fewer_rows, "has 224 rows, but a mask of 15 x 15 has 225")):
        change(calibration)
        with pytest.raises(InputError, match=sentence):
            run_spots(Run(Config(spots=options), cutout, RunFolder(tmp_path / "out")))
        calibrate_files(paths, calibration, options=OPTIONS, camera=cutout)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20000])


def _fewer_rows(path):
    with fits.open(path) as hdus:
        fits.HDUList([hdus[0].copy(), fits.BinTableHDU(Table(hdus["SPOTS"].data)[:-1], name="SPOTS")]).writeto(
            path, overwrite=True
        )


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize(
    "turned",
    [
        lambda x, y: (4095 - x, 4095 - y), lambda x, y: (4095 - x, y), lambda x, y: (x, 4095 - y), lambda x, y: (y, 4095 - x),
        lambda x, y: (y, x)],
    ids=["by 180 degrees", "mirrored in x", "mirrored in y", "by 90 degrees", "transposed"],
)  # fmt: skip
def test_an_exposure_that_is_rotated_is_refused(catalogs, which, turned):
    x, y = turned(catalogs[which].x, catalogs[which].y)
    others = [replace(catalog, x=x, y=y) if number == which else catalog for number, catalog in enumerate(catalogs)]
    with pytest.raises(SpotError, match=f"the grid of {catalogs[which].exposure} is rotated or mirrored"):
        gather(others, columns=OPTIONS.columns, rows=OPTIONS.rows)


def test_a_slight_rotation_is_no_fault(catalogs):
    angle = np.deg2rad(3.0)
    x, y = (
        catalogs[1].x * np.cos(angle) - catalogs[1].y * np.sin(angle),
        catalogs[1].x * np.sin(angle) + catalogs[1].y * np.cos(angle),
    )
    found = gather([catalogs[0], replace(catalogs[1], x=x, y=y), *catalogs[2:]], columns=OPTIONS.columns, rows=OPTIONS.rows)
    assert found.exposures == COUNT
