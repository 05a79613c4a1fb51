"""Markdown, plain text, JSON and CSV, to the byte."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from app.results.tables_csv import harmless
from tests.results.documents import failed, figure, layout, page, tag, written

TABLE = "<table><tr><td rowspan=2>Port</td><td colspan=2>Tons</td></tr><tr><td>=1+2</td><td>-5</td></tr></table>"
PAGE = page(
    layout(("title", "# Harbour"), ("image", ""), ("image_caption", "<center>The quay.</center>"), ("table", TABLE)),
    figures=(figure(100, 100, 900, 180),),
)
LINES = page(f"{tag('One', 0, 0, 9, 9)}\n{tag('Two', 0, 9, 9, 9)}", number=3, mode="plain_ocr")


def test_markdown_heads_pages_with_their_number_and_links_figures(tmp_path: Path) -> None:
    assert written(tmp_path, "markdown", [PAGE, failed(2), LINES]).decode() == (
        "<!-- Page 1 -->\n\n# Harbour\n\n![image](images/page-1-img-1.jpg)\n\n<center>The quay.</center>\n\n"
        f"{TABLE}\n\n---\n\n<!-- Page 2 -->\n\n"
        "<!-- Page 2 could not be read: Reading took too long. - - <b> -->\n\n---\n\n<!-- Page 3 -->\n\nOne\nTwo\n"
    )


def test_plain_text_has_cells_by_tabs_and_pages_by_form_feeds(tmp_path: Path) -> None:
    assert written(tmp_path, "text", [PAGE, failed(2), LINES]).decode() == (
        "Harbour\n\nThe quay.\n\nPort\tTons\n=1+2\t-5\n"
        "\f[Page 2 could not be read: Reading took too long. -- <b>]\n\fOne\nTwo\n"
    )


def test_data_is_fenced_in_markdown(tmp_path: Path) -> None:
    data = written(tmp_path, "markdown", [page("", mode="kv_json", text='{"a": "```"}')])
    assert data.decode() == '<!-- Page 1 -->\n\n````\n{"a": "```"}\n````\n'


def test_json_has_pages_blocks_boxes_figures_and_cells(tmp_path: Path) -> None:
    found = json.loads(written(tmp_path, "json", [PAGE, failed(2)]))
    assert found["title"] == "Ships & <quays>"
    first, second = found["pages"]
    assert first["figures"] == [{"name": "images/page-1-img-1.jpg", "box": [100, 100, 900, 180]}]
    assert [block["kind"] for block in first["blocks"]] == ["title", "figure", "caption", "table"]
    assert first["blocks"][1] == {
        "kind": "figure",
        "label": "image",
        "text": "",
        "boxes": [[100, 100, 900, 180]],
        "figures": ["images/page-1-img-1.jpg"],
        "tables": [],
    }
    assert first["blocks"][3]["tables"] == [
        [
            [{"text": "Port", "rowspan": 2, "colspan": 1}, {"text": "Tons", "rowspan": 1, "colspan": 2}],
            [{"text": "=1+2", "rowspan": 1, "colspan": 1}, {"text": "-5", "rowspan": 1, "colspan": 1}],
        ]
    ]
    assert second["error"] == {"code": "recognition_timeout", "detail": "Reading took too long. -- <b>"}


def test_json_gives_a_lone_surrogate_back(tmp_path: Path) -> None:
    found = json.loads(written(tmp_path, "json", [page("港 \ud800", mode="plain_ocr")]))
    assert found["pages"][0]["blocks"][0]["text"] == "港 \ud800"


def test_csv_has_a_file_for_each_table_which_runs_no_formula(tmp_path: Path) -> None:
    data = written(tmp_path, "csv", [PAGE, failed(2)])
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        assert {name: found.read(name).decode() for name in found.namelist()} == {
            "page-1-table-1.csv": "\ufeffPort,Tons,\r\n,'=1+2,-5\r\n",
            "page-2-failed.csv": "\ufeffcould not be read,'Reading took too long. -- <b>\r\n".replace("'", ""),
        }


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        ("-12.50", "-12.50"),
        ("+3 %", "+3 %"),
        ("-", "-"),
        ("—", "—"),
        ("=A1", "'=A1"),
        (" =A1", "' =A1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=A1", "'\t=A1"),
        ("＝A1", "'＝A1"),
        ("a=b", "a=b"),
    ],
)
def test_cells_that_a_spreadsheet_would_run_are_quoted(cell: str, safe: str) -> None:
    assert harmless(cell) == safe
