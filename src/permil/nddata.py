"""Read images of permil, or of other programs, as CCDData: ``CCDData.read(path, format="permil")`` after ``import permil.nddata``."""

from __future__ import annotations

from pathlib import Path

from astropy.io import registry
from astropy.nddata import CCDData

from permil.products import read_any_image


def read_ccddata(path: str | Path) -> CCDData:
    """Read an image with its mask and variance.

    Parameters
    ----------
    path
        FITS file with an image of one detector: a product of permil, of the LSST stack or of another program.

    Returns
    -------
    CCDData
        Mask: true where a pixel carries no measurement; uncertainty: variance, None if the file has none; header and world coordinates
        of the image.

    Raises
    ------
    InputError
        If the file cannot be read.

    Examples
    --------
    >>> import permil.nddata
    >>> from astropy.nddata import CCDData
    >>> CCDData.read("out/flat/red/R22_S11.fits", format="permil").unit
    Unit(dimensionless)
    """
    return read_any_image(path).to_ccddata()


registry.register_reader("permil", CCDData, read_ccddata, force=True)
