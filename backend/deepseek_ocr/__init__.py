"""A typed client of the OCR service, synchronous and asynchronous.

from deepseek_ocr import Client

with Client("http://localhost:8001") as ocr:
    print(ocr.read("page.jpg").text)
"""

from deepseek_ocr.answers import Box, Delta, Page, PageFailure, Progress, Restart, Task, TaskPage
from deepseek_ocr.asynchronous import AsyncClient
from deepseek_ocr.errors import OcrError, ServiceUnreachable
from deepseek_ocr.synchronous import Client

__all__ = [
    "AsyncClient",
    "Box",
    "Client",
    "Delta",
    "OcrError",
    "Page",
    "PageFailure",
    "Progress",
    "Restart",
    "ServiceUnreachable",
    "Task",
    "TaskPage",
]
