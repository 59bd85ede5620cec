"""Public data sets with cameras, one reader for each format, and the command that all readers share."""
