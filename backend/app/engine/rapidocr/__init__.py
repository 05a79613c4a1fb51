"""The CPU engine: RapidOCR in a worker process of its own."""
