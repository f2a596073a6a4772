"""The index of many files beside astropy reading the same primary headers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from astropy.io import fits

from harness import compare, print_rows
from permil.camera import load_camera
from permil.exposures import build_index

FILES = 2000


def _write(folder: Path) -> list[Path]:
    header = fits.Header({"RUNNUM": "6852D", "IMGTYPE": "CCOB", "TESTTYPE": "CCOB", "RAFTBAY": "R22", "CCDSLOT": "S11"})
    header.update({"LSST_NUM": "E2V-CCD250-382", "CCOBLED": "red", "CCOBADC": 0.33, "EXPTIME": 0.07, "DAYOBS": "20191028"})
    paths = []
    for number in range(FILES):
        x = 0.5 * (number % 45)
        header.update({"SEQNUM": number, "OBSID": f"MC_C_20191028_{number:06d}", "BOTXCAM": x, "BOTYCAM": 0.0})
        path = folder / f"ccob_red_{x}_0.0_{number:04d}" / f"MC_C_20191028_{number:06d}_R22_S11.fits"
        path.parent.mkdir()
        fits.HDUList([fits.PrimaryHDU(header=header)]).writeto(path)
        paths.append(path)
    return paths


def main() -> None:
    """Print the comparison."""
    camera = load_camera("lsstcam")
    with tempfile.TemporaryDirectory() as name:
        paths = _write(Path(name))
        print_rows(
            [
                compare(
                    f"{FILES} primary headers (ours: to a classified index)",
                    ("build_index", lambda: build_index([name], camera)),
                    ("astropy getheader", lambda: [fits.getheader(path) for path in paths]),
                )
            ]
        )


if __name__ == "__main__":
    main()
