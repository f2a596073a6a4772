"""What is written: FITS images with mask and variance, tables, provenance; atomic and checksummed."""

from permil.products.atomic import atomic_output, check_output, is_product, make_folder, remove_partial_files, writing
from permil.products.fingerprint import fingerprint, is_current, stored_fingerprint
from permil.products.fits import FINGERPRINT_CARD, ImageProduct, provenance, read_image, whole_file, write_hdus, write_image
from permil.products.folder import RunFolder
from permil.products.masks import NOT_GOOD, UNUSABLE, MaskPlane, add_mask_cards, is_good, is_usable
from permil.products.tables import read_table, write_table

__all__ = [
    "FINGERPRINT_CARD",
    "NOT_GOOD",
    "UNUSABLE",
    "ImageProduct",
    "MaskPlane",
    "RunFolder",
    "add_mask_cards",
    "atomic_output",
    "check_output",
    "fingerprint",
    "is_current",
    "is_good",
    "is_product",
    "is_usable",
    "make_folder",
    "provenance",
    "read_image",
    "read_table",
    "remove_partial_files",
    "stored_fingerprint",
    "whole_file",
    "write_hdus",
    "write_image",
    "write_table",
    "writing",
]
