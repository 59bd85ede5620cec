"""Checks the types and shapes in signatures while tests run: `--jaxtyping-packages=scene4d,tests.shapes.checked`."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int passes for a float, as PEP 484 has it
