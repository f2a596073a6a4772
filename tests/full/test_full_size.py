"""The main job at full size: one detector of 4004 x 4096 pixels, one LED, 12 x 12 scan, 5 pointings of 5 images."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from permil.camera import Camera
from permil.config.simulate import SimulateConfig
from permil.products import RunFolder, read_image, read_table
from permil.simulate.stage import simulate_bench
from permil.truth import compare_with_truth, summarise

pytestmark = pytest.mark.full

GIB = 2**30


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    config = SimulateConfig.model_validate({"preset": "raft", "seed": 21, "detectors": ["R22_S11"], "leds": ["red"]})
    simulate_bench(config, folder, workers=2)
    return folder


def _memory_of_group(group: int) -> int:
    """Return the proportional memory of all processes of a group, bytes (pages that are shared count once)."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[2]) != group:
                continue
            lines = (process / "smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        except (OSError, StopIteration, IndexError):
            continue
    return total


def test_one_detector(full_size: Path, lsstcam: Camera, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "permil", "run", str(full_size / "config.yaml")]
    begin, peak = time.monotonic(), 0
    messages = full_size / "messages.txt"
    with messages.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603
        while process.poll() is None:
            peak = max(peak, _memory_of_group(process.pid))
            time.sleep(0.2)
    output = messages.read_text()
    assert process.returncode == 0, output
    folder = RunFolder(full_size)
    (figures,) = summarise(compare_with_truth(folder, lsstcam, super_pixel_mm=0.64))
    with capsys.disabled():
        print(f"\n{output}\n{time.monotonic() - begin:.0f} s, peak memory {peak / GIB:.2f} GiB")
        print(
            f"rms, pixel {1e3 * figures.rms_pixel:.3f}, super-pixel {1e3 * figures.rms_super:.3f} per mil (noise alone "
            f"{1e3 * figures.super_noise:.3f}), chi-square {figures.chi_square:.4f} +- {figures.chi_square_err:.4f}"
        )
    assert peak < 2 * GIB
    assert figures.chi_square == pytest.approx(1, abs=0.05)
    flat = read_image(folder.flat("red", "R22_S11"))
    assert flat.image.shape == (4004, 4096)
    assert (flat.header["SOLVER"], flat.header["NEXPOSUR"]) == ("joint", 144 + 25)
    metrics = read_table(folder.metrics("red"))
    whole = metrics[metrics["amp"] == "all"]
    comparison = read_table(folder.comparison)
    plane = 0.0
    for axis, width in zip("xy", (0.01 * 4096, 0.01 * 4004), strict=True):
        gradient = comparison[f"gradient_{axis}"][0]
        assert abs(gradient) < 4 * whole[f"gradient_{axis}_err"][0]
        plane += (gradient * width) ** 2 / 12
    # The gradient is as good as the photodiode; what is left is noise, and what knots as fine as a sample of the rows bears cannot follow.
    assert np.sqrt(figures.rms_super**2 - plane) < 2.0 * figures.super_noise
