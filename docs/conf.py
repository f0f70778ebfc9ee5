"""Sphinx's settings: sphinx-build -W -b html docs docs/_build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from jbert.version import __version__

project, author = "jbert", "the jbert authors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "docstrings"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"jbert {release}"
html_static_path = ["_static"]
html_css_files = ["jbert.css"]
smartquotes = False  # docstrings quote code
html_copy_source = False
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# A parameter a line: signatures of ten options are to be read on a phone, too.
python_maximum_signature_line_length = 60
add_module_names = False
