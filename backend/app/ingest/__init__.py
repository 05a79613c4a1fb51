"""Ingest: uploaded bytes to pages, in worker processes that can be killed."""
