"""Butler repositories of the LSST stack: raw files from them, products to them and back.

``import permil.butler`` makes the storage classes of the dataset types ``permil_flat`` and ``permil_mosaic`` known in a process, so that
``butler.get`` returns `permil.Flat` and `permil.products.ImageProduct`. Needs the extra ``butler``.
"""

from permil.butler.datasets import dataset_files
from permil.butler.export import export_curated
from permil.butler.put import PutOptions, put_run
from permil.butler.raws import RawSelection, find_raws
from permil.butler.storage import register_storage_classes

__all__ = ["PutOptions", "RawSelection", "dataset_files", "export_curated", "find_raws", "put_run", "register_storage_classes"]

register_storage_classes()
