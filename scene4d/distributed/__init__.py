"""Parallelism and compilation, applied to networks from outside; imports nothing else of the project."""
