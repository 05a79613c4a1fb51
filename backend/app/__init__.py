"""DeepSeek-OCR service: one `POST /api/ocr` in front of interchangeable OCR engines."""

__version__ = "0.1.0"
