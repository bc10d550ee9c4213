"""tlab: transfer learning on image folders, compared honestly.

Importing this package is cheap: torch is imported by the submodules that need it.
"""

__version__ = "0.1.0"
