"""tlab: transfer learning on image folders, compared honestly.

Importing this package is cheap: torch is imported by the submodules that need it.
"""

import os

from tlab.core.lazy_imports import INHERITED, defer_heavy_imports

__version__ = "0.1.0"

if INHERITED in os.environ:  # a process that a command or a run has started
    defer_heavy_imports()
