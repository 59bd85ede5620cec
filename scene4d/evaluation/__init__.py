"""How both models are judged: scores, baselines, tables; an evaluation takes a pipeline and gives rows."""

from scene4d.evaluation.grids import GridEvaluation
from scene4d.evaluation.novel_views import NovelViews

__all__ = ["GridEvaluation", "NovelViews"]
