"""Values of the configuration: what YAML makes of a word is what the key declares, or one sentence."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from permil.camera import load_camera
from permil.config import Config, load_config
from permil.config.base import located
from permil.config.example import example_yaml
from permil.errors import CameraError, ConfigError

ROOT = Path(__file__).resolve().parents[2]


def _load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path, list(overrides))


def _at(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _keys(model: type[BaseModel], where: str = "") -> dict[str, Any]:
    """Return the annotation of each key of the configuration."""
    keys: dict[str, Any] = {}
    for name, entry in model.model_fields.items():
        annotation: Any = entry.annotation
        sections = [
            kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if sections:
            prefix = f"{where}{name}." if get_origin(annotation) is not list else f"{where}{name}[]."
            keys |= _keys(sections[0], prefix)
        else:
            keys[f"{where}{name}"] = Annotated[annotation, *entry.metadata] if entry.metadata else annotation
    return keys


KEYS = _keys(Config)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("pipeline: {jobs: {walltime: 12:00:00}}", "pipeline.jobs.walltime", "12:00:00"),
        ("pipeline: {jobs: {walltime: 2-04:00:00}}", "pipeline.jobs.walltime", "2-04:00:00"),
        ("pipeline: {jobs: {memory: 4000}}", "pipeline.jobs.memory", "4000"),
        ("pipeline: {jobs: {options: {queue: 0123, n: 1e2, m: [1, {a: 2}]}}}", "pipeline.jobs.options",
         {"queue": "0123", "n": 100.0, "m": [1, {"a": 2}]}),
        ("exposures: {scan: {runs: [0123, 13260, 6840D, 1e3, 12:00:00, 2019-10-28, 0x1F, 1_000, 3.10]}}", "exposures.scan.runs",
         ["0123", "13260", "6840D", "1e3", "12:00:00", "2019-10-28", "0x1F", "1_000", "3.10"]),
        ("exposures: {pointings: {runs: 0123}}", "exposures.pointings.runs", ["0123"]),
        ("compare: {led_of: {960: nm960, on: red, y: uv}}", "compare.led_of", {"960": "nm960", "on": "red", "y": "uv"}),
        ("flat: {leds: red}", "flat.leds", ["red"]),
        ("flat: {keep_pointings: no}", "flat.keep_pointings", False),
        ("flat: {solver: Divide}", "flat.solver", "divide"),
        ("flat: {mosaic_mm: 1e0}", "flat.mosaic_mm", 1.0),
        ("isr: {saturation: None}", "isr.saturation", "none"),
        ("isr: {saturation: 9e4}", "isr.saturation", 90000.0),
        ("isr: {rejection_threshold: .inf}", "isr.rejection_threshold", math.inf),
        ("isr: {edge_mm: null}", "isr.edge_mm", None),
        ("seed: 1e3", "seed", 1000),
        ("seed: 1_000", "seed", 1000),
        ("spots: {band: N}", "spots.band", "N"),
        ("plan: {scan: {amp: 5}}", "plan.scan.amp", 5),
        ("isr:\nflat:\nsimulate: {sensor: }", "simulate.sensor.prnu_rms", 2e-3),
        ("simulate: {leds: [red], detectors: R22_S11}", "simulate.detectors", ("R22_S11",)),
    ],
)  # fmt: skip
def test_values_that_are_understood(tmp_path: Path, text: str, key: str, value: Any) -> None:
    found = _at(_load(tmp_path, text), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("isr: {saturation: true}", "truth values in YAML; write a number"),
        ("seed: yes", "seed = True: yes, no, on"),
        ("flat: {leds: [no]}", "truth values in YAML; put the text in quotes"),
        ("spots: {band: off}", "put the text in quotes"),
        ("flat: {keep_pointings: 1}", "write true or false"),
        ("simulate: {light: 1}", "write true or false"),
        ("flat: {joint: {reflection: 'no'}}", "reflection = 'no': write true or false"),
        ("seed: 010", "octal in YAML; write 10"),
        ("beam: {reference: [{detector: R22_S11, amp: C14, row: 0100, column: 2}]}", "write 100"),
        ("seed: 12:00:00", "key seed = '12:00:00'"),
        ("pipeline: {jobs: {walltime: 4}}", r"write hours, minutes and seconds, 04:00:00"),
        ("pipeline: {jobs: {walltime: 4:00}}", r"write hours, minutes and seconds"),
        ("isr: {gains: }", "key isr.gains: it is empty"),
        ("exposures: {leds: }", "key exposures.leds: it is empty"),
        ("flat: {leds: 'red, blue'}", r"write a list: \[red, blue\]"),
        ("isr: {saturation: abc}", "'nominal' or 'none', or .* number"),
        ("seed: " + "9" * 5000, r"key seed = '9+ \.\.\.: "),
        ("isr: {edge_mm: 1e999}", "finite number"),
        ("flat: {super_pixel_mm: 1e9}", "less than or equal to 100"),
        ("plan: {pointings: {points: [[1, .inf]]}}", r"plan\.pointings\.points\.0\.1 = inf: .*finite"),
        ("compare: {rings: [.nan, 3]}", r"compare\.rings = \[nan, 3\]: .* finite number"),
    ],
)
def test_values_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        _load(tmp_path, text)
    assert "`permil config example` explains every key" in str(caught.value)


@pytest.mark.parametrize("written", [".inf", "-.inf", ".nan"])
def test_no_key_takes_what_is_not_finite(tmp_path: Path, written: str) -> None:
    """Of all numeric keys, also in lists, only the threshold that documents it takes infinity."""
    takes: list[str] = []
    numeric = [key for key, annotation in KEYS.items() if re.search(r"\b(int|float)\b", str(annotation)) and "[]" not in key]
    assert len(numeric) > 100
    for key in numeric:
        *sections, last = key.split(".")
        annotation = str(KEYS[key])
        value = f"[[{written}, 1]]" if "list[tuple" in annotation else f"[1, {written}]" if "tuple" in annotation else written
        text = f"{last}: {value}"
        for section in reversed(sections):
            text = f"{section}: {{{text}}}"
        try:
            _load(tmp_path, text)
        except ConfigError:
            continue
        takes.append(key)
    # Text is not read as a number: an amplifier or an option of that name is looked for.
    assert [key for key in takes if key not in ("plan.scan.amp", "pipeline.jobs.options")] == (
        ["isr.rejection_threshold"] if written == ".inf" else []
    )


PATHS = {key for key, annotation in KEYS.items() if "ConfigPath" in str(annotation)}


def test_every_key_that_names_a_file_is_a_path() -> None:
    assert {
        "camera", "output", "exposures.roots", "exposures.butler.repo",
        "isr.bias", "isr.gains", "isr.linearity", "isr.crosstalk", "isr.defects",
        "spots.catalogs", "spots.calibration", "compare.flats", "compare.stars", "compare.with_runs",
        "plan.acquisition", "plan.taken", "plan.beam",
        "simulate.camera", "simulate_spots.camera",
    } == PATHS  # fmt: skip
    for key, annotation in KEYS.items():
        if str(annotation) == "<class 'str'>":
            assert key in {
                "beam.reference[].detector", "exposures.butler.where", "exposures.butler.dataset_type",
                "isr.temperature_card", "pipeline.jobs.memory", "pipeline.scheduler", "plan.led",
                "plan.scan.detector", "simulate_spots.campaign.filter", "simulate_spots.detector", "spots.band", "spots.flux",
            }, f"is {key} a path?"  # fmt: skip


@pytest.mark.parametrize("key", sorted(PATHS))
def test_home_folder_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for written, meant in (("~/x.yaml", "home/x.yaml"), ("sub/x.yaml", "sub/x.yaml"), ("./none", "none"), ("../x", "../x")):
        found = _at(_load(tmp_path, "", f"{key}={written}"), key)
        assert str(found[0] if isinstance(found, list) else found) == str(tmp_path / meant)


def test_words_are_no_paths_in_any_letter_case(tmp_path: Path) -> None:
    config = _load(tmp_path, "isr: {bias: None, gains: NOMINAL, defects: none}\nspots: {calibration: ''}")
    assert (config.isr.bias, config.isr.gains, config.isr.defects, config.spots.calibration) == ("none", "nominal", "none", "")
    # Elsewhere the same words are files.
    assert _load(tmp_path, "isr: {defects: nominal}").isr.defects == str(tmp_path / "nominal")


def test_camera_by_name_or_file(tmp_path: Path) -> None:
    (tmp_path / "lsstcam").write_text("")
    (tmp_path / "stand").write_text("")
    assert _load(tmp_path, "camera: lsstcam").camera == "lsstcam"
    assert _load(tmp_path, "camera: ./lsstcam").camera == str(tmp_path / "lsstcam")
    assert _load(tmp_path, "camera: stand").camera == str(tmp_path / "stand")
    assert _load(tmp_path, "simulate: {camera: stand.yaml}").simulate.camera == str(tmp_path / "stand.yaml")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("~nobody-of-this-name/x", "home folder is unknown"),
        ("$HOME/out", r"environment variables such as \$HOME are not expanded"),
        ("/data/${RUN}/out", r"environment variables such as \$\{RUN\}"),
        ("''", "a path is expected"),
        ('"a\\0b"', "a path is expected|U\\+0000"),
        ("s3://bucket/raw", "a URL is not a path"),
        ("file:///data", "a URL is not a path"),
        ("~", "it is empty"),
    ],
)
def test_paths_that_are_refused(tmp_path: Path, written: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, "", f"output={written}")


def test_dollar_that_is_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "$tmp").mkdir()
    assert located("$tmp", tmp_path) == tmp_path / "$tmp"
    assert located("a$b/c~d", tmp_path) == tmp_path / "a$b" / "c~d"


@pytest.mark.parametrize(
    "overrides",
    [
        ("isr.gains=a", "isr.gains=b"),
        ("isr.gains=a", "isr.gains=a"),
        ("isr={gains: a}", "isr.gains=b"),
        ("isr.gains=b", "isr={bias: none}"),
    ],
)
def test_contradicting_overrides_are_both_named(tmp_path: Path, overrides: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, "", *overrides)
    assert all(repr(override) in str(caught.value) for override in overrides)
    with pytest.raises(ConfigError, match=r"the value of isr: key gains is given twice"):
        _load(tmp_path, "", "isr={gains: a, gains: b}")


def test_override_of_a_section_keeps_the_other_keys(tmp_path: Path) -> None:
    text = "isr: {gains: gains.ecsv, bias: none}\nflat: {beam_of: {uv: blue}, joint: {drift: false}}\nplan:\n"
    config = _load(tmp_path, text, "isr={bias: auto}", "flat={beam_of: {red: uv}, joint: {modes: 5}}", "plan.led=red")
    assert (config.isr.gains, config.isr.bias, config.plan.led) == (str(tmp_path / "gains.ecsv"), "auto", "red")
    assert (config.flat.joint.drift, config.flat.joint.modes) == (False, 5)
    # A map that is a value is replaced as a whole.
    assert config.flat.beam_of == {"red": "uv"}


def test_configuration_that_the_run_would_write_over(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("output: .")
    (tmp_path / "link.yaml").symlink_to("run.yaml")
    for name in ("run.yaml", "link.yaml"):
        with pytest.raises(ConfigError, match=r"the run would write run\.yaml over this file; rename it"):
            load_config(tmp_path / name)
    assert load_config(path, ["output=out"]).output == tmp_path / "out"


def test_infinite_threshold_comes_back(tmp_path: Path) -> None:
    config = _load(tmp_path, "isr: {rejection_threshold: .inf}")
    assert math.isinf(_load(tmp_path, config.as_yaml()).isr.rejection_threshold)
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_every_page_that_is_named_exists() -> None:
    """Messages and docstrings name no page of the documentation that is not there."""
    named = {
        (path.name, page)
        for path in (ROOT / "src").rglob("*.py")
        for page in re.findall(r"docs/[\w/-]+\.\w+", path.read_text(encoding="utf-8"))
    }
    assert [entry for entry in sorted(named) if not (ROOT / entry[1]).is_file()] == []


def test_example_is_the_documented_one() -> None:
    assert (ROOT / "docs" / "example.yaml").read_text(encoding="utf-8") == example_yaml()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("flat: {detectors: [r22-s11, 94, det000, E2V-CCD250-382, r01, R22S12]}", "flat.detectors",
         ["R22_S11", "R22_S11", "R01_S00", "R22_S11", "R01", "R22_S12"]),
        ("flat: {leds: [Red, NM960]}", "flat.leds", ["red", "nm960"]),
        ("beam: {leds: UV}", "beam.leds", ["uv"]),
        ("flat: {beam_of: {UV: Blue}}", "flat.beam_of", {"uv": "blue"}),
        ("compare: {led_of: {r: RED, z: lamp}, detectors: r22/s11}", "compare.led_of", {"r": "red", "z": "lamp"}),
        ("compare: {detectors: r22.s11}", "compare.detectors", ["R22_S11"]),
        ("spots: {detectors: [94]}", "spots.detectors", ["R22_S11"]),
        ("plan: {detectors: [r22, 93], led: Red}", "plan.detectors", ["R22", "R22_S10"]),
        ("plan: {scan: {detector: r22s11}}", "plan.scan.detector", "R22_S11"),
        ("plan: {pointings: {aim: [r22 s11]}}", "plan.pointings.aim", ["R22_S11"]),
        ("simulate: {rafts: [r22], detectors: [r22_s11]}", "simulate.rafts", ("R22",)),
        ("simulate_spots: {detector: r22_s11}", "simulate_spots.detector", "R22_S11"),
        ("exposures: {leds: [Halo, red]}\nflat: {leds: [halo]}", "flat.leds", ["Halo"]),
    ],
)  # fmt: skip
def test_names_in_every_spelling(tmp_path: Path, text: str, key: str, value: Any) -> None:
    assert _at(_load(tmp_path, text), key) == value


def test_name_of_the_reference(tmp_path: Path) -> None:
    (box,) = _load(tmp_path, "beam: {reference: {detector: 94, amp: c14, row: 1, column: 2}}").beam.reference
    assert box.detector == "R22_S11"
    camera = load_camera("lsstcam")
    assert {camera["R22_S11"].amplifier(name).name for name in ("C14", "c14", "Segment14", "5", "05", 5)} == {"C14"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flat: {detectors: [R22_S91]}", r"flat\.detectors = 'R22_S91': camera lsstcam has no detector or raft .*did you mean R22_S"),
        ("flat: {detectors: [R22_S11_C10]}", r"flat\.detectors = 'R22_S11_C10'"),
        ("spots: {detectors: [R22]}", r"spots\.detectors = 'R22': camera lsstcam has no detector with this name"),
        ("compare: {detectors: [205]}", r"compare\.detectors = '205'"),
        ("plan: {pointings: {aim: [S11]}}", r"plan\.pointings\.aim = 'S11'"),
        ("beam: {reference: [{detector: R99_S00, amp: C14, row: 1, column: 2}]}", r"beam\.reference\.detector = 'R99_S00'"),
        ("simulate: {rafts: [r99]}", r"simulate\.rafts = 'r99': camera lsstcam-bin8 has no raft"),
        ("flat: {leds: [rde]}", r"flat\.leds = 'rde': it is not in exposures\.leds; did you mean red\?"),
        ("flat: {beam_of: {uvv: blue}}", r"flat\.beam_of = 'uvv'.*did you mean uv\?"),
        ("flat: {beam_of: {uv: blue, UV: red}}", r"key flat\.beam_of lists uv twice"),
        ("beam: {leds: [lamp]}", r"names are uv, blue, red, nm750, nm850, nm960$"),
    ],
)  # fmt: skip
def test_names_that_match_nothing(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        _load(tmp_path, text)
    assert "config.yaml" in str(caught.value)


def test_camera_is_loaded_only_where_a_detector_is_named(tmp_path: Path) -> None:
    assert _load(tmp_path, "camera: nothing.yaml\nflat: {leds: [red]}").camera == str(tmp_path / "nothing.yaml")
    assert _load(tmp_path, "simulate: {camera: nothing.yaml, rafts: [R22], detectors: [R22_S11]}").simulate.rafts == ("R22",)
    with pytest.raises(CameraError, match=r"camera .* does not exist"):
        _load(tmp_path, "camera: nothing.yaml\nflat: {detectors: [R22_S11]}")
