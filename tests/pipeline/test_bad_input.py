"""Bad input: one clear sentence that names the file and what to do, exit code 2, or left out and listed; never a wrong number."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from astropy.io import fits
from astropy.table import Table

from permil import cli
from permil.beam import stage
from permil.products import RunFolder, read_image, read_table, write_hdus, write_table

from .conftest import DETECTOR, POINTED, SCANNED, TINY, Permil, edit_header, edit_primary, raw_files, replace_bytes

SCAN, POINTINGS = "6840D/BOT_acq/v0/*/ccob_*", "6841D/BOT_acq/v0/*/ccob_*"
ONE = "pipeline.workers=1"


def _refused(result: tuple[int, str, str], *patterns: str) -> None:
    """Check exit code 2 and one sentence with all that is asked for on its last line."""
    code, _, messages = result
    last = messages.strip().splitlines()[-1]
    assert code == 2, messages
    assert last.startswith("permil: ")
    assert "Traceback" not in messages
    for pattern in patterns:
        assert re.search(pattern, last), f"{pattern!r} not in {last!r}"


INPUTS = {
    "assemble": ("assemble", "a.fits"),
    "beam fit": ("beam", "fit", "a.ecsv"),
    "beam predict": ("beam", "predict", "a.fits", "a.ecsv"),
    "flat apply": ("flat", "apply", "a.fits", "b.fits"),
    "flat diff": ("flat", "diff", "a.fits", "b.fits"),
    "spots grid": ("spots", "grid", "a.fits"),
    "spots calibrate": ("spots", "calibrate", "a.fits", "b.fits"),
    "config import": ("config", "import", "a.yaml", "b.yaml"),
    "index": ("index", "raw"),
    "plot": ("plot", "a.fits"),
    "trend": ("trend", "raw"),
}
"""Commands that write a file, with the files that they are given."""


def test_every_command_that_writes_a_file_is_listed_here() -> None:
    group = typer.main.get_command(cli.app)
    commands = dict(group.commands.items())  # type: ignore[attr-defined]
    for outer, inner in list(commands.items()):
        commands |= {f"{outer} {name}": command for name, command in getattr(inner, "commands", {}).items()}
    writing = {name for name, command in commands.items() if any(p.name == "out" for p in command.params)}
    # Those two write into a folder.
    assert writing - {"demo", "plan write"} == set(INPUTS)


@pytest.mark.parametrize("command", list(INPUTS))
def test_no_result_takes_the_place_of_an_input(
    permil: Permil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Neither by its name nor by a link, and never that of a folder, a device or a raw file."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_hdus(Path(f"{name}.fits"), [fits.PrimaryHDU(np.ones((2, 2)))])
        write_table(Path(f"{name}.ecsv"), Table({"x_mm": [1.0], "y_mm": [2.0]}))
        Path(f"{name}.yaml").write_text("{led_name: red}")
    fits.PrimaryHDU(np.ones((2, 2))).writeto("raw.fits")
    Path("raw").mkdir()
    Path("null").symlink_to("/dev/null")
    inputs = [name for name in INPUTS[command] if "." in name]
    links = [f"link{Path(name).suffix}" for name in inputs]
    for name, link in zip(inputs[:1], links, strict=False):
        os.link(name, link)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and not path.is_symlink()}
    for out in (*inputs, *links[:1]):
        _refused(permil(*INPUTS[command], "--out", out), f"{out}: is an input of this product", "copy the input elsewhere")
    for out, what in (("raw", "is a folder"), ("null", "is a device"), ("raw.fits", "is a FITS file that permil did not write")):
        _refused(permil(*INPUTS[command], "--out", out), f"{out}: {what}")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and not path.is_symlink()} == before
    assert Path("null").is_char_device()


def test_paths_that_are_left_out_have_their_defaults(permil: Permil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _refused(permil("trend"), "trends.sqlite")
    _refused(permil("plan", "write", "missing.yaml"), "missing.yaml")
    asked: list[tuple[Path, int]] = []
    monkeypatch.setattr("permil.demo.run_demo", lambda out, *, seed: asked.append((out, seed)))
    assert permil("demo")[0] == 0
    assert asked == [(Path("demo"), 1)]


def test_home_folder_after_an_equals_sign(permil: Permil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells leave the ~ of --out=~/x and output=~/x to the program."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.yaml").write_text("{led_name: red}")
    assert permil("config", "import", "~/old.yaml", "--out=~/new.yaml")[0] == 0
    assert (tmp_path / "new.yaml").is_file()
    code, _, messages = permil("config", "import", "old.yaml", "--out=$HOME/new.yaml")
    assert code == 2
    assert "environment variables such as $HOME are not expanded" in " ".join(messages.split())
    _refused(permil("run", "new.yaml", "output=~/out", "output=~/other"), "'output=~/out' and 'output=~/other' set the same key")
    assert {path.name for path in tmp_path.iterdir()} == {"old.yaml", "new.yaml"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("flat", "diff", "a", "b", "--super-pixel-mm", "nan"),
        ("flat", "diff", "a", "b", "--super-pixel-mm", "inf"),
        ("flat", "diff", "a", "b", "--super-pixel-mm", "0"),
        ("flat", "diff", "a", "b", "--super-pixel-mm", "1e9"),
        ("spots", "grid", "a", "--out", "b", "--columns", "0"),
        ("spots", "grid", "a", "--out", "b", "--degree", "99"),
        ("spots", "calibrate", "a", "--out", "b", "--rows", "-1"),
        ("demo", "a", "--seed", "-1"),
    ],
)
def test_numbers_that_make_no_sense(
    permil: Permil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, messages = permil(*arguments)
    assert code == 2
    assert "not possible" in messages or "Invalid value for" in messages
    assert list(tmp_path.iterdir()) == []


def test_full_disk_while_the_nodes_are_noted(permil: Permil, spoiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal of the nodes grows until the disk is full, with a line cut in its middle; then the command goes on where it was."""
    options = (ONE, "isr.bias=none")
    assert permil("index", spoiled / "config.yaml", *options)[0] == 0
    real_open = Path.open
    opened: list[str] = []

    def full(path: Path, mode: str = "r", **arguments: Any) -> Any:
        if path.name == "nodes_red.jsonl" and mode == "a":
            opened.append(mode)
            if len(opened) == 5:
                with real_open(path, "a") as stream:
                    stream.write('\n[{"x_mm": 1')
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real_open(path, mode, **arguments)

    monkeypatch.setattr(Path, "open", full)
    _refused(
        permil("beam", spoiled / "config.yaml", *options),
        r"nodes_red\.jsonl: cannot be written \(No space left",
        "free some space",
    )
    monkeypatch.setattr(Path, "open", real_open)
    journal = RunFolder(spoiled).state / "nodes_red.jsonl"
    noted = journal.read_text().splitlines()
    assert len(noted) == 1 + 4 + 1
    code, _, messages = permil("beam", spoiled / "config.yaml", *options)
    assert code == 0, messages
    again = journal.read_text().splitlines()
    assert again[: len(noted)] == noted
    assert len(again) == 1 + 4 + 1 + (SCANNED - 4 * 4) // 4
    assert len(read_table(RunFolder(spoiled).beam_nodes("red"))) == SCANNED


@pytest.mark.parametrize("first", ["", "{", '{"fingerprint": "of another"}', "\x00\x00", "[]"])
def test_journal_of_another_measurement_is_not_used(tmp_path: Path, first: str) -> None:
    record = dict.fromkeys(("obsid", "detector", "amp", "row", "column", "box"), 1)
    journal = tmp_path / "nodes.jsonl"
    journal.write_text(f"{first}\n{json.dumps([record])}")
    assert stage._read_journal(journal, "expected") == []
    journal.write_bytes(b'{"fingerprint": "expected"}\n' + json.dumps([record]).encode() + b'\n[{"obsid": 2\n\xff\xfe\n3\n[')
    assert stage._read_journal(journal, "expected") == [record]


def test_products_below_a_root_are_not_indexed(permil: Permil, spoiled: Path) -> None:
    """The output of a run may be a folder among the raw files, or the folder of the raw files itself."""
    product = spoiled / "out" / "calib" / "superbias_R22_S11.fits"
    write_hdus(product, [fits.PrimaryHDU(np.ones((2, 2)))])
    config = spoiled / "config.yaml"
    for output in ("out", "."):
        code, _, messages = permil("index", config, "exposures.roots=[.]", f"output={output}", ONE)
        assert code == 0, messages
        folder = RunFolder(spoiled / output)
        assert len(read_table(folder.unreadable)) == 0
        assert len(read_table(folder.exposures)) == SCANNED + POINTED + TINY["biases"]
    _refused(permil("index", config, "exposures.roots=[out]", ONE), "all 1 FITS files are products of this program")


def test_gains_that_the_run_would_write_itself(permil: Permil, spoiled: Path) -> None:
    config, gains = spoiled / "config.yaml", RunFolder(spoiled).gains
    gains.parent.mkdir()
    shutil.copy(spoiled / "gains.ecsv", gains)
    before = gains.read_bytes()
    assert permil("index", config, ONE)[0] == 0
    _refused(permil("isr", config, "isr.gains=calib/gains.ecsv", ONE), r"calib/gains\.ecsv: is an input of this product")
    assert gains.read_bytes() == before


def test_no_files(permil: Permil, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    config = tmp_path / "config.yaml"
    config.write_text("exposures: {roots: [raw]}\noutput: out\n")
    _refused(permil("run", config), "no FITS files", "check exposures.roots")
    config.write_text("output: out\n")
    _refused(permil("run", config), "name the folders of raw files in exposures.roots")
    config.write_text("exposures: {roots: [missing]}\noutput: out\n")
    _refused(permil("run", config), "missing: the folder does not exist")


@pytest.mark.usefixtures("no_pictures")
def test_truncated_files_are_listed_and_the_rest_goes_on(permil: Permil, spoiled: Path) -> None:
    """One pointing is cut within a block, one at a block, one scan exposure at a block, one bias is empty."""
    pointings, scans = raw_files(spoiled, POINTINGS), raw_files(spoiled, SCAN)
    (bias, *_) = raw_files(spoiled, "bias_*")
    within, at_block, scan = pointings[1], pointings[4], scans[20]
    replace_bytes(within, within.read_bytes()[:1_000_001])
    replace_bytes(at_block, at_block.read_bytes()[: 2880 * 400])
    replace_bytes(scan, scan.read_bytes()[: 2880 * 60])
    replace_bytes(bias, b"")
    code, _, messages = permil("run", spoiled / "config.yaml", ONE)
    assert code == 0, messages
    folder = RunFolder(spoiled)
    assert {Path(path).name for path in read_table(folder.unreadable)["path"]} == {within.name, bias.name}
    assert scan.name in messages
    flat = read_image(folder.flat("red", DETECTOR))
    left_out = Table.read(folder.flat("red", DETECTOR), "LEFT_OUT")
    assert {Path(path).name for path in left_out["path"]} == {at_block.name, scan.name}
    assert (flat.header["NSCAN"], flat.header["NEXPOSUR"]) == (SCANNED - 1, SCANNED - 1 + POINTED - 2)
    nodes = read_table(folder.beam_nodes("red"))
    assert np.isnan(nodes["signal"]).sum() == 1


def test_missing_segment(permil: Permil, spoiled: Path, tmp_path: Path) -> None:
    raw = raw_files(spoiled, POINTINGS)[0]
    edit_header(raw, lambda hdus: hdus.__delitem__(5))
    _refused(permil("assemble", raw, "--out", tmp_path / "out.fits", "--camera", "lsstcam-bin8"), raw.name, "Segment14")
    assert not (tmp_path / "out.fits").exists()


def test_wrong_detector_size(permil: Permil, spoiled: Path, tmp_path: Path) -> None:
    raw = raw_files(spoiled, POINTINGS)[0]
    _refused(permil("assemble", raw, "--out", tmp_path / "out.fits"), raw.name, "lsstcam-bin8")
    config = spoiled / "config.yaml"
    code, _, messages = permil("run", config, ONE, "camera=lsstcam", "output=elsewhere")
    assert code == 2, messages
    assert "lsstcam-bin8" in messages.strip().splitlines()[-1]


def test_unknown_led(permil: Permil, spoiled: Path) -> None:
    raw = raw_files(spoiled, POINTINGS)[0]
    edit_header(raw, lambda hdus: hdus[0].header.set("CCOBLED", "green"))
    code, _, messages = permil("index", spoiled / "config.yaml", ONE)
    assert code == 0
    assert "unknown LED 'green'" in messages
    assert "known LEDs are uv, blue, red, nm750, nm850, nm960" in messages
    code, _, messages = permil("run", spoiled / "config.yaml", ONE, "flat.leds=[uv]")
    _refused((code, "", messages), "LED uv has no pointings", "LEDs with pointings: red")


def give_reading(header: fits.Header, reading: str | float | None) -> None:
    """Write a reading of the photodiode, or remove the card for None."""
    if reading is None:
        del header["CCOBADC"]
    else:
        header["CCOBADC"] = reading


# A NaN cannot stand in a FITS card as a number: files of the field hold it as text or as an undefined card.
@pytest.mark.parametrize(
    ("readings", "solver", "exposures"), [(("NaN", 0.0), "divide", POINTED - 2), ((None,), "joint", SCANNED + POINTED)]
)
def test_photodiode_unusable_in_some_exposures(
    make_flats: Permil, spoiled: Path, readings: tuple[str | float | None, ...], solver: str, exposures: int
) -> None:
    chosen = []
    for place, reading in enumerate(readings):
        for raw in (raw_files(spoiled, POINTINGS)[2 + 4 * place], raw_files(spoiled, SCAN)[5 + place]):
            edit_header(raw, lambda hdus, reading=reading: give_reading(hdus[0].header, reading))
            chosen.append(raw)
    code, _, messages = make_flats(spoiled / "config.yaml", f"flat.solver={solver}")
    assert code == 0, messages
    folder = RunFolder(spoiled)
    assert {Path(path).name for path in read_table(folder.left_out)["path"]} == {raw.name for raw in chosen}
    # The joint solution knows the light of an exposure from its signals.
    assert read_image(folder.flat("red", DETECTOR)).header["NEXPOSUR"] == exposures


def test_photodiode_missing_in_all_exposures(permil: Permil, make_flats: Permil, spoiled: Path) -> None:
    for raw in raw_files(spoiled, "6841D/BOT_acq/v0/*/ccob_*"):
        edit_primary(raw, lambda header: header.set("CCOBADC", 0.0))
    config = spoiled / "config.yaml"
    _refused(permil("run", config, ONE), f"none of {POINTED} pointing files has a usable photodiode", "set isr.photodiode=none")
    assert not RunFolder(spoiled).flat("red", DETECTOR).exists()
    code, _, messages = make_flats(config, "isr.photodiode=none")
    assert code == 0, messages
    assert read_image(RunFolder(spoiled).flat("red", DETECTOR)).header["PDNORM"] == "none"


def test_duplicates(permil: Permil, spoiled: Path) -> None:
    raw = raw_files(spoiled, POINTINGS)[0]
    again = spoiled / "raw" / "again" / raw.name
    again.parent.mkdir()
    shutil.copy(raw, again)
    code, _, messages = permil("index", spoiled / "config.yaml", ONE)
    assert code == 0
    assert "left out, same content" in messages
    assert f"{POINTED} pointing red exposures, {POINTED} files" in messages
    with again.open("r+b") as stream:
        stream.seek(1_000_000)
        stream.write(b"\1\2\3\4")
    _refused(permil("index", spoiled / "config.yaml", ONE), raw.name, "differ")


def test_bias_exposures_of_another_sensor(permil: Permil, spoiled: Path) -> None:
    other = "E2V-CCD250-112-09"
    for raw in raw_files(spoiled, "bias_bias*")[1:]:
        edit_header(raw, lambda hdus: hdus[0].header.update({"LSST_NUM": other}))
    mixed = ("index", spoiled / "config.yaml", ONE)
    _refused(permil(*mixed), DETECTOR, "E2V-CCD250-382", other, "in 2 files", "exposures.serials")
    code, _, messages = permil(*mixed, "exposures.serials={R22_S11: E2V-CCD250-382}")
    assert code == 0, messages
    assert re.search(rf"not used: 2 files, for example .*: {DETECTOR} is sensor {other}, requested is E2V-CCD250-382", messages)
    assert "1 bias exposures" in messages


def test_pointing_off_every_detector(make_flats: Permil, spoiled: Path) -> None:
    moved = raw_files(spoiled, POINTINGS)[: TINY["images"]]
    for raw in moved:
        edit_header(raw, lambda hdus: hdus[0].header.update({"BOTXCAM": 500.0, "BOTYCAM": 500.0}))
        raw.parent.rename(raw.parent.with_name(f"ccob_red_500.0_500.0_{raw.parent.name.rsplit('_', 1)[1]}"))
    code, _, messages = make_flats(spoiled / "config.yaml", "flat.solver=divide")
    assert code == 0, messages
    assert f"{TINY['images']} exposures point at no detector and are not used" in messages
    assert read_image(RunFolder(spoiled).flat("red", DETECTOR)).header["NPOINT"] == 4


def test_scan_with_too_few_nodes(permil: Permil, spoiled: Path) -> None:
    for raw in raw_files(spoiled, SCAN)[5:]:
        shutil.rmtree(raw.parent)
    config = spoiled / "config.yaml"
    _refused(
        permil("run", config, ONE, "exposures.scan={runs: [6840D]}", "exposures.pointings={runs: [6841D]}"),
        "red_nodes.ecsv",
        r"5 nodes",
        r"it needs \d+",
    )
    assert not RunFolder(spoiled).beam("red").exists()


def test_no_scan_at_all(permil: Permil, spoiled: Path) -> None:
    shutil.rmtree(spoiled / "raw" / "6840D")
    _refused(permil("run", spoiled / "config.yaml", ONE), "the exposures contain no beam scan", "check exposures.roots")


def test_no_bias(permil: Permil, make_flats: Permil, spoiled: Path) -> None:
    for raw in raw_files(spoiled, "bias_*"):
        raw.unlink()
    config = spoiled / "config.yaml"
    _refused(permil("run", config, ONE), f"there is no bias exposure of {DETECTOR}", "set isr.bias to none")
    code, _, messages = make_flats(config, "isr.bias=none", "flat.solver=divide")
    assert code == 0, messages


def test_gain_table_without_an_amplifier(permil: Permil, spoiled: Path) -> None:
    gains = Table.read(spoiled / "gains.ecsv", format="ascii.ecsv")
    column = "segment" if "segment" in gains.colnames else "amp"
    (spoiled / "gains.ecsv").unlink()
    gains[[not str(name).endswith("14") for name in gains[column]]].write(spoiled / "gains.ecsv", format="ascii.ecsv")
    _refused(permil("run", spoiled / "config.yaml", ONE), r"gains\.ecsv", DETECTOR, "C14|Segment14")


def test_gain_table_missing(permil: Permil, spoiled: Path) -> None:
    (spoiled / "gains.ecsv").unlink()
    _refused(permil("run", spoiled / "config.yaml", ONE), r"gains\.ecsv: the gain table does not exist")


def test_output_that_cannot_be_written(permil: Permil, spoiled: Path) -> None:
    (spoiled / "taken").write_text("a file where the folder should be")
    _refused(permil("run", spoiled / "config.yaml", ONE, "output=taken/out"), "taken/out", "choose")


def test_full_disk_while_writing(permil: Permil, make_flats: Permil, spoiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up when the flat is written; after making space the run goes on."""
    real = fits.HDUList.writeto
    space = [2]

    def limited(hdus: fits.HDUList, *arguments: object, **options: object) -> None:
        space[0] -= 1
        if space[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(hdus, *arguments, **options)

    monkeypatch.setattr(fits.HDUList, "writeto", limited)
    arguments = (spoiled / "config.yaml", "flat.solver=divide")
    full_disk = r"\.fits: cannot be written \(No space left on device\); free some space and run again"
    _refused(permil("run", *arguments, ONE), full_disk)
    assert not list(spoiled.rglob("*.partial*"))
    space[0] = 1000
    code, _, messages = make_flats(*arguments)
    assert code == 0, messages
    assert RunFolder(spoiled).flat("red", DETECTOR).is_file()


def test_disk_too_small_from_the_beginning(permil: Permil, spoiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    _refused(permil("run", spoiled / "config.yaml", ONE), "the products need about", "flat.keep_pointings=false")


def test_detector_that_was_not_read(permil: Permil, spoiled: Path) -> None:
    _refused(permil("run", spoiled / "config.yaml", ONE, "flat.detectors=[R01]"), "R01 was not read", DETECTOR)


def test_reference_that_the_scan_did_not_read(permil: Permil, spoiled: Path) -> None:
    reference = "beam.reference=[{detector: R22_S00, amp: C14, row: 125, column: 32}]"
    _refused(permil("run", spoiled / "config.yaml", ONE, reference), "did not read the reference detector R22_S00")
    outside = "beam.reference=[{detector: R22_S11, amp: C14, row: 125, column: 60}]"
    _refused(permil("run", spoiled / "config.yaml", ONE, outside), "extends beyond amplifier C14")


def test_two_kinds_of_positions_are_not_mixed(permil: Permil, spoiled: Path) -> None:
    """Scan positions from headers that are off the folder names, pointings from folder names of another run: no common origin."""
    for raw in raw_files(spoiled, SCAN):
        edit_primary(raw, lambda header: header.update({"BOTXCAM": header["BOTXCAM"] + 5.0}))
    for raw in raw_files(spoiled, POINTINGS):
        edit_primary(raw, lambda header: (header.remove("BOTXCAM"), header.remove("BOTYCAM")))
    _refused(permil("run", spoiled / "config.yaml", ONE), "position")


def test_scattered_offset_is_an_error(permil: Permil, spoiled: Path) -> None:
    raw = raw_files(spoiled, SCAN)[7]
    edit_header(raw, lambda hdus: hdus[0].header.update({"BOTXCAM": hdus[0].header["BOTXCAM"] + 3.0}))
    _refused(permil("index", spoiled / "config.yaml", ONE), "6840D")


def test_constant_offset_is_named_and_applied(permil: Permil, spoiled: Path) -> None:
    scans = raw_files(spoiled, SCAN)
    for number, raw in enumerate(scans):
        if number == 4:
            edit_primary(raw, lambda header: (header.remove("BOTXCAM"), header.remove("BOTYCAM")))
        else:
            edit_primary(raw, lambda header: header.update({"BOTXCAM": header["BOTXCAM"] + 5.0}))
    code, _, messages = permil("index", spoiled / "config.yaml", ONE)
    assert code == 0, messages
    assert re.search(r"run 6840D: header position = folder position \+ \(5\.0\d+, -?0\.0\d+\) mm", messages)
    index = read_table(RunFolder(spoiled).exposures)
    kinds = set(index["position_kind"][index["purpose"] == "scan"])
    assert kinds == {"folder+offset"}
