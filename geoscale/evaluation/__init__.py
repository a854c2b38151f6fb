"""Evaluation: a map held against labels, counted block by block."""

from geoscale.evaluation.result import Evaluation
from geoscale.evaluation.run import evaluate

__all__ = ["Evaluation", "evaluate"]
