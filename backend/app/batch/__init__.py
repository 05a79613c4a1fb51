"""`deepseek-ocr read`: documents in files and folders, read and written beside each other."""
