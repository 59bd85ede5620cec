"""Compiling and sharding of networks, and decisions on which several processes agree."""
