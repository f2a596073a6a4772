"""Data products: FITS images with mask and variance, tables, provenance; written atomically, with checksums."""

from permil.products.atomic import atomic_output, check_output, is_product, make_folder, remove_partial_files, writing
from permil.products.description import Description, plain_facts
from permil.products.fingerprint import fingerprint, is_current, source_fingerprint, stored_fingerprint
from permil.products.fits import (
    FINGERPRINT_CARD,
    ImageProduct,
    fingerprint_card,
    kind_card,
    open_product,
    provenance,
    read_image,
    table_hdu,
    whole_file,
    write_hdus,
    write_image,
)
from permil.products.folder import RunFolder
from permil.products.images import known_variance, read_any_image
from permil.products.masks import UNUSABLE, MaskPlane, is_good, is_usable, planes_of
from permil.products.origin import configuration_digest, origin_cards, origin_entries
from permil.products.sensor_identity import SERIAL_CARD, Sensor, check_sensor, identify_sensor, product_kind, sensor_statements
from permil.products.tables import read_table, shared_table, write_table

__all__ = [
    "FINGERPRINT_CARD",
    "SERIAL_CARD",
    "UNUSABLE",
    "Description",
    "ImageProduct",
    "MaskPlane",
    "RunFolder",
    "Sensor",
    "atomic_output",
    "check_output",
    "check_sensor",
    "configuration_digest",
    "fingerprint",
    "fingerprint_card",
    "identify_sensor",
    "is_current",
    "is_good",
    "is_product",
    "is_usable",
    "kind_card",
    "known_variance",
    "make_folder",
    "open_product",
    "origin_cards",
    "origin_entries",
    "plain_facts",
    "planes_of",
    "product_kind",
    "provenance",
    "read_any_image",
    "read_image",
    "read_table",
    "remove_partial_files",
    "sensor_statements",
    "shared_table",
    "source_fingerprint",
    "stored_fingerprint",
    "table_hdu",
    "whole_file",
    "write_hdus",
    "write_image",
    "write_table",
    "writing",
]
