"""Scenes drawn at random: what they may show, how they are laid out, and the command that they share."""
