"""Storage classes of the products of permil, and the classes that read and write their files in a datastore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from permil.butler.repository import has_butler
from permil.flat.flat import Flat
from permil.products import ImageProduct, read_image, write_image

if TYPE_CHECKING or has_butler():
    from lsst.daf.butler import FormatterV2
else:
    # Without the extra, modules can be listed and documented, but nothing is read.
    FormatterV2 = object

FLAT_STORAGE, IMAGE_STORAGE, TABLE_STORAGE = "PermilFlat", "PermilImage", "AstropyTable"
"""Names of storage classes; the last one is of lsst-daf-butler."""

_TYPES: dict[str, type] = {FLAT_STORAGE: Flat, IMAGE_STORAGE: ImageProduct}


def register_storage_classes() -> None:
    """Make the storage classes of permil known to lsst-daf-butler, if it is installed; a second call changes nothing.

    A repository stores only the name of a storage class: every process that reads such a dataset must know it.
    """
    if not has_butler():
        return
    from lsst.daf.butler import StorageClass, StorageClassFactory

    factory = StorageClassFactory()
    for name, kind in _TYPES.items():
        factory.registerStorageClass(StorageClass(name, pytype=kind))


class FlatFormatter(FormatterV2):
    """Reads and writes a `permil.Flat`."""

    default_extension = ".fits"
    can_read_from_local_file = True

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Flat:  # noqa: ARG002
        """Return the flat in a file."""
        return Flat.read(path)

    def write_local_file(self, in_memory_dataset: Flat, uri: Any) -> None:
        """Write a flat."""
        in_memory_dataset.write(uri.ospath)


class ImageFormatter(FormatterV2):
    """Reads and writes an image with mask and variance."""

    default_extension = ".fits"
    can_read_from_local_file = True

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> ImageProduct:  # noqa: ARG002
        """Return the image in a file."""
        return read_image(path)

    def write_local_file(self, in_memory_dataset: ImageProduct, uri: Any) -> None:
        """Write an image."""
        image = in_memory_dataset
        write_image(uri.ospath, image.image, image.mask, image.variance, header=image.header, planes=image.planes)
