"""Configuration of the documentation site: `make docs` builds it, without network, into build/docs."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
WORK = FOLDER.parent / "build" / "docs-work"
sys.path.insert(0, str(FOLDER / "extensions"))
# Tutorials run in one folder, so that one can use what another one simulated.
WORK.mkdir(parents=True, exist_ok=True)
os.environ["PERMIL_DOCS_WORK"] = str(WORK)
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

project = "permil"
author = "the permil developers"
project_copyright = "the permil developers, BSD-3-Clause"
release = version_of("permil")
version = release

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_design",
    "reference_pages",
]
exclude_patterns = ["generated/*", "_static/*", "extensions/*", "_templates/*", "images/*"]
templates_path = ["_templates"]
default_role = "py:obj"
language = "en"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 4

nb_execution_mode = "cache"
nb_execution_cache_path = str(FOLDER.parent / "build" / "docs-cache")
nb_execution_timeout = 1800
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "image/svg+xml", 5)]

autosummary_generate = True
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = "permil"
html_static_path = ["_static"]
html_css_files = ["permil.css"]
html_show_sourcelink = False
html_sidebars = {"gallery": [], "get-started": [], "performance": []}
html_theme_options = {
    "logo": {"text": "permil"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "search_as_you_type": True,
    "show_nav_level": 1,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
