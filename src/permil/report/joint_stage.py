"""The pages of joint solutions: which there are, what they were made from, and how one is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from permil.camera import Camera
from permil.products import RunFolder, fingerprint
from permil.report.inputs import LedProducts
from permil.report.page_files import LAYOUT, detector_path, joint_path, source_fingerprint, write_page


@dataclass(frozen=True)
class JointTask:
    """One page: what it is made of."""

    folder: RunFolder
    camera: Camera
    products: LedProducts
    other_leds: tuple[str, ...]
    fingerprint: str

    @property
    def path(self) -> Path:
        """Where the page lies."""
        return joint_path(self.folder, self.products.led)


def joint_tasks(folder: RunFolder, camera: Camera, leds: tuple[LedProducts, ...]) -> list[JointTask]:
    """Return one page for each LED that has a joint solution."""
    solved = [led for led in leds if led.joint is not None]
    tasks = []
    for led in solved:
        others = tuple(other.led for other in solved if other is not led)
        paths = [path for path in (led.joint, led.beam, folder.exposures) if path is not None]
        signals = [folder.super_pixels(led.led, name).is_file() for name in camera.detectors]
        options = {"layout": LAYOUT, "camera": camera.name, "others": others, "detectors": led.detectors, "signals": signals}
        print_ = fingerprint(options, upstream=[source_fingerprint(path) for path in paths])
        tasks.append(JointTask(folder, camera, led, others, print_))
    return tasks


def make_joint_page(task: JointTask) -> None:
    """Make the page of one LED."""
    from permil.beam.stage import load_beam
    from permil.report.joint_inputs import read_joint
    from permil.report.joint_page import joint_page
    from permil.report.pages import Link, render_joint

    led = task.products
    products = read_joint(task.folder, task.camera, led.led)
    links = {name: f"../{_below_report(task.folder, detector_path(task.folder, led.led, name))}" for name in led.detectors}
    page = joint_page(
        products,
        [task.camera[name] for name in products.detectors],
        scan=load_beam(led.beam) if led.beam is not None else None,
        detector_links=links,
        home=Link("all results", f"../index.html#led-{led.led}"),
        others=[Link(other, joint_path(task.folder, other).name) for other in task.other_leds],
        fingerprint=task.fingerprint,
    )
    write_page(task.path, render_joint(page))


def _below_report(folder: RunFolder, path: Path) -> str:
    return path.relative_to(folder.report.parent).as_posix()
