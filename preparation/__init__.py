"""Raw data sets -> shards.

Every file beside this one is a command, `python -m preparation.NAME`; the rooms hold the code behind the commands.
"""
