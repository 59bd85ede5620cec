"""How both models are judged: scores, baselines, tables; an evaluation takes a pipeline and gives rows."""

from scene4d.evaluation.grids import GridEvaluation

__all__ = ["GridEvaluation"]
