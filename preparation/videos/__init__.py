"""Ordinary videos, cut into short clips of one view."""
