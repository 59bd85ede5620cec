"""How both models are judged: an evaluation takes a pipeline and batches and gives rows of scores.

Nothing is imported here, so that reports of finished runs start at once.
"""
