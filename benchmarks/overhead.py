"""Time of RapidOCR through the HTTP API against RapidOCR called bare: same pages, same options, same run.

python -m benchmarks.overhead --pages 10
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import httpx

from benchmarks.pages import FontsMissing, render_pages
from benchmarks.service import served

LIMIT = 1.05


def bare_reader() -> Callable[[Path], Any]:
    """Load RapidOCR as its own users do, with the engine's options: OpenVINO, no line classifier."""
    from app.engine.rapidocr.models import keep_openvino_quiet

    keep_openvino_quiet()
    from rapidocr import EngineType, RapidOCR

    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Det.engine_type": EngineType.OPENVINO,
            "Rec.engine_type": EngineType.OPENVINO,
        }
    )


def post(client: httpx.Client, path: Path) -> None:
    """Have the service read one page."""
    with path.open("rb") as file:
        response = client.post("/api/ocr", files={"image": (path.name, file, "image/png")}, data={"mode": "plain_ocr"})
    response.raise_for_status()


def compare(paths: list[Path], url: str, rounds: int) -> list[dict[str, Any]]:
    """Time both ways page by page, taking turns in going first; the first round warms up and does not count."""
    bare = bare_reader()
    rows = []
    with httpx.Client(base_url=url, timeout=300, trust_env=False) as client:
        ways: list[tuple[str, Callable[[Path], Any]]] = [("bare", bare), ("api", lambda path: post(client, path))]
        for turn in range(rounds + 1):
            for number, path in enumerate(paths):
                row: dict[str, Any] = {"page": path.stem}
                for name, read in ways if (turn + number) % 2 else reversed(ways):
                    start = time.perf_counter()
                    read(path)
                    row[name] = time.perf_counter() - start
                if turn:
                    rows.append(row | {"ratio": row["api"] / row["bare"]})
    return rows


def run(arguments: argparse.Namespace) -> int:
    half = arguments.pages // 2
    pages = [
        *render_pages(arguments.pages - half, "latin", arguments.seed),
        *render_pages(half, "chinese", arguments.seed),
    ]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{page.name}.png" for page in pages]
        for page, path in zip(pages, paths, strict=True):
            page.image.save(path)
        if arguments.url:
            rows = compare(paths, arguments.url, arguments.rounds)
        else:
            with served(Path(folder) / "service.log", inference_engine="rapidocr") as service:
                rows = compare(paths, service.url, arguments.rounds)
    ratios = [row["ratio"] for row in rows]
    report = {"median": median(ratios), "mean": sum(row["api"] for row in rows) / sum(row["bare"] for row in rows)}
    for row in rows:
        print(f"{row['page']:<16} bare {row['bare']:6.3f} s   API {row['api']:6.3f} s   ratio {row['ratio']:.3f}")
    print(f"median ratio {report['median']:.3f}   ratio of the mean times {report['mean']:.3f}")
    print(f"mean bare {mean(row['bare'] for row in rows):.3f} s   mean API {mean(row['api'] for row in rows):.3f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(report | {"pages": rows}, indent=2) + "\n")
    return 0 if report["median"] <= LIMIT else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="API time over bare RapidOCR time; exit status 1 above 1.05.")
    parser.add_argument("--url", help="a running service (default: start one)")
    parser.add_argument("--pages", type=int, default=10, help="half of them Latin, half Chinese")
    parser.add_argument("--rounds", type=int, default=2, help="times each page is measured")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    try:
        return run(parser.parse_args())
    except FontsMissing as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
