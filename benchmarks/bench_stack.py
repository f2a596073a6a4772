"""Stacks of full-size files: time and memory by number of exposures, accuracy with cosmic rays."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from full_size import GAIN, LIGHT, READ_NOISE, YARDSTICK, in_turn, read_astropy, write_campaign
from harness import publish
from permil.camera import load_camera

FRAMES, HITS = 25, 1e-3
NUMBERS = (5, 10, 25, 50, 100)


def stack_once(paths: list[str], threads: int, repeats: int, signal: float) -> dict[str, float | list[float]]:
    """Stack files in this process; called in a process of its own, so that the peak of its memory is that of the stack."""
    from permil.config.isr import IsrConfig
    from permil.engine.threads import allow_threads
    from permil.isr import Gains, Superbias
    from permil.isr.exposure_group import stack_group
    from permil.isr.inputs import load_calibration

    camera = load_camera("lsstcam")
    detector = camera["R22_S11"]
    config = IsrConfig(bias="none")
    bias = Superbias(np.zeros(detector.shape, dtype=np.float32), np.ones(detector.shape, dtype=np.float32))
    gains = Gains(np.full(len(detector.amplifiers), GAIN), np.zeros(len(detector.amplifiers)), "known")
    calibration = replace(load_calibration(detector, camera, config), superbias=bias, gains=gains)
    seconds: list[float] = []
    processor: list[float] = []
    for _ in range(repeats):
        begin, used = time.perf_counter(), time.process_time()
        with allow_threads(threads):
            stack = stack_group(paths, [1.0] * len(paths), camera, calibration, normalise=False).stack
        seconds.append(time.perf_counter() - begin)
        processor.append(time.process_time() - used)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rms = float(np.sqrt(np.mean([np.mean((row.astype(np.float64) - signal) ** 2) for row in stack.image])))
        rejected = stack.n_rejected
        del stack
    return {"seconds": seconds, "processor": processor, "peak": peak, "rms": rms, "rejected": rejected}


def flat_once(paths: list[str], repeats: int) -> dict[str, float | list[float]]:
    """Make a flat of single exposures as the second pass of the joint solution does; called in a process of its own."""
    from permil.beam.model import SplineTable
    from permil.camera.frames import detector_to_ccs
    from permil.config.isr import IsrConfig
    from permil.flat.combine import combine_detector
    from permil.flat.divide import sampling_step
    from permil.flat.joint.light import ExposureLight, JointLight
    from permil.flat.pointings import LitExposure, Pointing
    from permil.flat.shared_errors import KnownErrors, shared_places
    from permil.flat.steps.joint_flat import OPEN_TOGETHER
    from permil.isr.inputs import load_calibration
    from permil.isr.open_exposure import OpenExposure, RowSample

    camera = load_camera("lsstcam")
    detector = camera["R22_S11"]
    config = IsrConfig(bias="none")
    calibration = load_calibration(detector, camera, config)
    # The files are of even light; a beam as narrow as a real one would make each a pointing of its own, which changes no time.
    x_mm, y_mm = (float(place) for place in detector_to_ccs(detector, *detector.centre_pixel))
    light = JointLight(((SplineTable(np.zeros((60, 60)), np.full(2, -60.0), 2.0), -1.0),), {})
    exposure = ExposureLight(LIGHT / GAIN, 1e-4, x_mm, y_mm)
    pointing = Pointing(1, x_mm, y_mm, exposure.error, 1, float("nan"), aimed=False, scan=True)
    reference = np.ones(detector.shape, dtype=np.float32)

    sampled = RowSample.of(calibration, sampling_step(detector.shape))

    def batches() -> Iterator[list[LitExposure]]:
        for first in range(0, len(paths), OPEN_TOGETHER):
            with ExitStack() as opened:
                yield [
                    LitExposure(
                        pointing,
                        opened.enter_context(OpenExposure(path, camera, calibration, sampled)),
                        sampled,
                        light.on_detector(detector, exposure),
                        scale=exposure.scale,
                        reference=reference,
                        threshold=5.0,
                    )
                    for path in paths[first : first + OPEN_TOGETHER]
                ]

    seconds: list[float] = []
    processor: list[float] = []
    covariance = np.eye(len(shared_places(detector)[0])) * 1e-8
    for _ in range(repeats):
        begin, used = time.perf_counter(), time.process_time()
        combine_detector(batches(), KnownErrors(covariance), detector, led="red", super_pixel_mm=0.64)
        seconds.append(time.perf_counter() - begin)
        processor.append(time.process_time() - used)
    return {"seconds": seconds, "processor": processor, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _in_a_process(function: str, *arguments: object) -> dict[str, list[float]]:
    code = f"import json, bench_stack; print(json.dumps(bench_stack.{function}(*json.loads({json.dumps(arguments)!r}))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, capture_output=True, text=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def _by_number(paths: list[Path], yardstick: float) -> None:
    """Publish time and memory of stacks and flats of 5 to 100 files; the files are taken again and again."""
    several = {number: [str(paths[index % len(paths)]) for index in range(number)] for number in NUMBERS}
    measured = {number: _in_a_process("stack_once", several[number], 2, 3, LIGHT) for number in NUMBERS}
    _publish_by_number("Stack of n full-size files, outliers rejected, superbias, 2 threads, a process for each row", measured)
    flats = {number: _in_a_process("flat_once", several[number], 3) for number in NUMBERS}
    _publish_by_number(
        "Flat of n full-size single exposures (read, reduced, outliers rejected, divided by the light, combined, its figures), 1 thread, "
        "a process for each row",
        flats,
    )
    frames = measured[FRAMES]
    seconds = statistics.median(frames["seconds"])
    ideal = float(np.sqrt((LIGHT + (GAIN * READ_NOISE) ** 2) / FRAMES))
    limit = 2.5 * yardstick / YARDSTICK
    publish(
        f"Stack of {FRAMES} full-size files, {HITS:.1%} of the pixels of each hit by cosmic rays",
        ("what", "measured", "limit"),
        [
            ("seconds, 2 threads", f"{seconds:.2f}", f"{limit:.2f} (2.5 where astropy reads in {YARDSTICK} s)"),
            ("processor seconds", f"{statistics.median(frames['processor']):.2f}", ""),
            ("peak memory MiB", f"{frames['peak']:.0f}", "700"),
            ("rms error over that of a perfect mean", f"{frames['rms'] / ideal:.4f}", "1.01"),
            ("measurements rejected, of those hit", f"{frames['rejected'] / (HITS * FRAMES * 4004 * 4096):.2f}", ""),
        ],
        remark=f"astropy reads one of the files in {yardstick:.3f} s (median, in this run).",
    )


def _publish_by_number(title: str, measured: dict[int, dict[str, list[float]]]) -> None:
    spent = [statistics.median(measured[number]["seconds"]) for number in NUMBERS]
    used = [statistics.median(measured[number]["processor"]) for number in NUMBERS]
    slope, offset = np.polyfit(NUMBERS, used, 1)
    worst = max(abs(offset + slope * number - each) for number, each in zip(NUMBERS, used, strict=True))
    exponent = np.polyfit(np.log(NUMBERS), np.log(used), 1)[0]
    publish(
        title,
        ("n", "seconds", "processor seconds", "peak memory MiB"),
        [
            (str(number), f"{seconds:.2f}", f"{processor:.2f}", f"{measured[number]['peak']:.0f}")
            for number, seconds, processor in zip(NUMBERS, spent, used, strict=True)
        ],
        remark=f"Processor seconds = {offset:.2f} + {slope:.4f} n, no row off by more than {worst:.2f} s; exponent {exponent:.2f}. "
        "Peak memory is that of the whole process, the interpreter with its libraries (some 200 MiB) in it. "
        f"Load: {os.getloadavg()[0]:.1f}.",
    )


def main() -> None:
    """Print the tables."""
    detector = load_camera("lsstcam")["R22_S11"]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_campaign(Path(folder), detector, FRAMES, hits=HITS)
        yardstick = in_turn({"astropy": lambda: read_astropy(paths[0], detector)})["astropy"].clock
        _by_number(paths, yardstick)


if __name__ == "__main__":
    main()
