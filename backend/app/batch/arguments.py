"""The arguments of `deepseek-ocr read`, apart from what carries them out: every start of the service reads this."""

from __future__ import annotations

import argparse
from pathlib import Path

FORMATS = {
    "markdown": "md",
    "text": "txt",
    "html": "html",
    "json": "json",
    "csv": "tables.zip",
    "docx": "docx",
    "pdf": "searchable.pdf",
    "hocr": "hocr",
    "zip": "zip",
}
"""What can be written, and the suffix of the file: none that a document to read has by itself, so none is overwritten."""

TIDY = {
    "drop_running": "leave out headers, footers and page numbers",
    "join_hyphens": "join words that are divided at the end of a line",
    "join_pages": "join paragraphs that run over a page",
}
"""How the text is changed when it is written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="a file, a folder, or a pattern such as 'scans/**/*.pdf'"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument(
        "--format",
        action="append",
        choices=("md", *FORMATS),
        metavar="NAME",
        help=f"what is written: {', '.join(FORMATS)} (markdown, or md for short); may be repeated",
    )
    parser.add_argument(
        "--server", metavar="URL", help="a running service; without it, the engine runs in this process"
    )
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="documents read side by side (4)")
    parser.add_argument("--mode", default="markdown", help="what to do; GET /api/modes lists the modes (markdown)")
    for name, help_text in (
        ("pages", "which pages, such as 1-3,7,10-"),
        ("resolution", "tiny, small, base, large or gundam"),
        ("dpi", "at how many dots per inch PDFs are rendered (144)"),
        ("password", "opens encrypted PDFs"),
        ("prompt", "your prompt, in mode freeform"),
        ("find-term", "what mode find_ref looks for"),
        ("schema", "the JSON that mode kv_json fills"),
        ("max-tokens", "most tokens of output of a page"),
    ):
        parser.add_argument(f"--{name}", help=help_text)
    parser.add_argument("--grounding", action="store_true", help="ask for boxes")
    for name, help_text in TIDY.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=help_text)
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--json", action="store_true", help="tell how it goes as JSON, one object a line, on stdout")
    told.add_argument("--quiet", action="store_true", help="tell nothing but errors")
