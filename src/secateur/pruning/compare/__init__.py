"""The comparison: every method with the same speech, time, budgets, refitting and recovery, measured alike."""

from secateur.pruning.compare.record import RECORD, Comparison, Row
from secateur.pruning.compare.runs import compare
from secateur.pruning.compare.settings import METHODS, CompareSettings, read_budgets, run_name

__all__ = ["METHODS", "RECORD", "CompareSettings", "Comparison", "Row", "compare", "read_budgets", "run_name"]
