"""What a set of run directories says: which setting is best, by how much, how sure, and which factor matters."""

from tlab.comparison.compare import compare_runs
from tlab.comparison.result import Comparison, Setting

__all__ = ["Comparison", "Setting", "compare_runs"]
