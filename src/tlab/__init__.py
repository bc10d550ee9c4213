"""tlab: transfer learning on image folders, compared honestly.

Importing this package is cheap: torch is imported by the submodules that need it.
"""

from tlab.imports import defer_heavy_imports

__version__ = "0.1.0"

defer_heavy_imports()
