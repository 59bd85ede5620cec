"""Samples -> shards on disk: jobs and processes, reports, the manifest, and caption embeddings."""
