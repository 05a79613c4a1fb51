"""The client's documentation, run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import ROOT, served

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python-client.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.slow
def test_every_example_runs(tmp_path: Path) -> None:
    assert len(EXAMPLES) == 5
    said = []
    with served(tmp_path / "log", inference_engine="rapidocr", decode_workers=1, data_dir=tmp_path) as service:
        for example in EXAMPLES:
            code = example.replace("http://localhost:8001", service.url).replace(
                "docs/images", str(ROOT / "docs/images")
            )
            environment = {"PYTHONPATH": str(ROOT / "backend"), "PATH": os.environ["PATH"]}
            run = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert (run.returncode, run.stderr) == (0, "")
            said.append(run.stdout)
    assert said[0].startswith("Harbour Paper Company\n")
    assert re.search(r"^Harbour Paper Company \d+ \d+ \d+ \d+$", said[0], re.MULTILINE)
    assert said[1].startswith("Harbour Paper Company")
    assert said[2] == "1 read\n"
    assert "Harbour Paper Company" in (tmp_path / "sample.md").read_text("utf-8")
    assert re.fullmatch(r"\[(\d+), \1, \1\]\n", said[3])
    for name, begin in {"docx": b"PK", "searchable.pdf": b"%PDF", "html": b"<!", "zip": b"PK"}.items():
        assert (tmp_path / f"sample.{name}").read_bytes().startswith(begin)
