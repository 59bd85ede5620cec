"""Scenes drawn at random: their content, their layout, and the command that they share."""
