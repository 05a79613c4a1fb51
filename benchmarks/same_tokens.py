"""Whether the service writes the tokens of its plain path, page by page, in every resolution.

    python -m tools.random_checkpoint DIR --size full        # or the published weights
    NVIDIA_TF32_OVERRIDE=0 TRITON_F32_DEFAULT=ieee python -m benchmarks.same_tokens --model DIR --dtype float32
    python -m benchmarks.same_tokens --model models/tiny-reader --painted --max-model-len 2048 --tokens 800

Reads the same pages in two processes, all at once: as served, with what a GPU makes of the defaults (the encoder compiled
and captured, steps captured, several at once), and plainly, with ENFORCE_EAGER and vLLM's model runner V1. Random weights
have near ties, which rounding decides, and how sums are rounded depends on what else is in the batch. So each reads all pages
again in the opposite order, which shows how far it agrees with itself; for random weights take float32, without TF32, since
bfloat16 leaves most of them to chance.

With --painted, the figures hold the share of wrong characters of both sides' first reading; with --setting, the first side is another
than the defaults make, such as 'ENGINE_ARGS={"kv_cache_dtype": "fp8"}'.

Exits with 1 when a page has a text, or a number of tokens, that the other side gave it neither time; benchmarks.parting then
tells how near to each other the two best tokens are where the sides part.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.processes import environment, run_alone, write_plugin
from benchmarks.rate_engine import read_all, started
from benchmarks.report import write_result
from benchmarks.uploads import draw_pages
from tools.tiny_reader.score import Score, score_text

RESOLUTIONS = ("tiny", "small", "base", "large", "gundam")
SIDES: dict[str, dict[str, Any]] = {
    "as served": {},
    "plain": {"enforce_eager": True},
}
PACKAGES = ("fonts-dejavu-core", "fonts-liberation")
PLAIN_RUNNER = {"VLLM_USE_V2_MODEL_RUNNER": "0"}


def paint_pages(folder: Path, count: int) -> list[str]:
    """Paint pages that the tiny reader reads, as PNG, and return what they say."""
    from benchmarks.tiny_reader import FIRST_SEED, make_samples
    from tools.tiny_reader.faces import load_faces
    from tools.tiny_reader.fonts import TRAINING

    folder.mkdir(parents=True, exist_ok=True)
    # The fonts that the A4 pages need too.
    faces = {"known": load_faces([font for font in TRAINING if font.package in PACKAGES])}
    samples = make_samples(count, FIRST_SEED, faces)
    for number, sample in enumerate(samples):
        # Twice as large, so that Gundam cuts some into tiles; the other resolutions make them smaller again.
        larger = replace(sample, picture=sample.picture.resize((sample.page.side * 2,) * 2))
        (folder / f"{number:04}.png").write_bytes(larger.png())
    return [sample.text for sample in samples]


Text = tuple[str, int]


async def read(options: argparse.Namespace, side: str) -> None:
    """Write text and number of tokens of every page, twice, by resolution."""
    settings = {
        "inference_engine": "vllm_direct",
        "model_path": str(options.model),
        "max_model_len": options.max_model_len,
        "max_queue": options.pages,
        "loop_retries": 0,  # a second reading under other settings could not be compared
        "request_timeout_seconds": 900,
        "jobs_enabled": False,
    }
    arguments = {"dtype": options.dtype}
    if side == "as served":
        asked = dict(setting.split("=", 1) for setting in options.setting)
        arguments |= json.loads(asked.pop("ENGINE_ARGS", "{}"))
        settings |= {name.lower(): value for name, value in asked.items()}
    settings["engine_args"] = json.dumps(arguments)
    pages = [file.read_bytes() for file in sorted(options.folder.iterdir())]
    readings: dict[str, list[list[Text]]] = {}
    async with started(settings | SIDES[side]) as app:
        for resolution in options.resolutions:
            for step in (1, -1):
                answers = await read_all(app.state.reader, pages[::step], resolution, options.tokens, 0)
                texts = [(answer.text, answer.tokens) for answer in answers[::step]]
                readings.setdefault(resolution, []).append(texts)
            print(f"{side}: {resolution} read", flush=True)
            write_result(options.json, readings)  # what a run that is cut short has read


def compare(served: dict[str, list[list[Text]]], plain: dict[str, list[list[Text]]]) -> dict[str, dict[str, int]]:
    """Return, by resolution, how many pages agree: both sides', each side's with itself, and those without a text in common."""
    return {
        resolution: {
            "pages": len(ours[0]),
            "equal": _agreeing(ours[0], plain[resolution][0]),
            "served_itself": _agreeing(*ours),
            "plain_itself": _agreeing(*plain[resolution]),
            "parted": sum(not {*one} & {*other} for one, other in _by_page(ours, plain[resolution])),
            "tokens": sum(tokens for _, tokens in ours[0]),
            "texts": len(set(ours[0])),
        }
        for resolution, ours in served.items()
    }


def wrong_characters(texts: list[Text], printed: list[str]) -> float:
    """Return the share of the printed characters that were read otherwise, or not at all."""
    scores = (score_text(text, truth) for (text, _), truth in zip(texts, printed, strict=True))
    return round(sum(scores, Score()).error_rate, 5)


def _agreeing(texts: list[Text], others: list[Text]) -> int:
    return sum(text == other for text, other in zip(texts, others, strict=True))


def _by_page(ours: list[list[Text]], theirs: list[list[Text]]) -> Iterator[tuple[tuple[Text, ...], tuple[Text, ...]]]:
    """Yield both sides' readings of each page."""
    return zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.job:
        asyncio.run(read(options, options.job))
        return 0
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="same-tokens-")))
        return run(options, arguments, work.resolve())


def run(options: argparse.Namespace, arguments: list[str], work: Path) -> int:
    """Read with both sides, in processes of their own, and tell where they agree."""
    folder = work / "pages"
    printed = paint_pages(folder, options.pages) if options.painted else None
    if printed is None:
        draw_pages(folder, options.pages)
    variables = {"VLLM_LOGGING_LEVEL": "WARNING"} | environment(write_plugin(work))
    sides = []
    for side in SIDES:
        out = work / f"{side.replace(' ', '-')}.json"
        own = [*arguments, "--folder", str(folder), "--json", str(out), "--job", side]
        side_variables = variables | (PLAIN_RUNNER if side == "plain" else {})
        if fault := run_alone("benchmarks.same_tokens", own, side_variables, options.timeout):
            print(f"{side}: {fault}")
            return 1
        # JSON has no tuples.
        sides.append(
            {
                name: [[(text, tokens) for text, tokens in reading] for reading in readings]
                for name, readings in json.loads(out.read_text()).items()
            }
        )
    figures: dict[str, dict[str, float]] = {name: dict(counts) for name, counts in compare(*sides).items()}
    if printed is not None:
        for side, readings in zip(("served", "plain"), sides, strict=True):
            for resolution, texts in readings.items():
                figures[resolution][f"{side}_wrong"] = wrong_characters(texts[0], printed)
    for name, counts in figures.items():
        print(f"{name:<8} {json.dumps(counts)}", flush=True)
    result = {"command": " ".join(arguments), "machine": describe_machine(), "resolutions": figures}
    if parted := any(counts["parted"] for counts in figures.values()):
        out = work / "partings.json"
        own = ["--model", str(options.model), "--work", str(work), "--dtype", options.dtype, "--json", str(out)]
        own += ["--tokens", str(options.tokens), "--max-model-len", str(options.max_model_len)]
        if fault := run_alone("benchmarks.parting", own, variables | PLAIN_RUNNER, options.timeout):
            print(f"parting: {fault}")
        else:
            result |= json.loads(out.read_text())
    if options.json:
        write_result(options.json, result)
    return int(parted)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda name: Path(name).resolve(), required=True, help="a model folder")
    parser.add_argument("--pages", type=int, default=64)
    parser.add_argument("--painted", action="store_true", help="pages for the tiny reader instead of A4")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of output of each page")
    parser.add_argument("--resolutions", nargs="+", choices=RESOLUTIONS, default=RESOLUTIONS)
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of the first side")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--timeout", type=float, default=900, help="seconds for each side")
    parser.add_argument("--work", type=Path, help="keep pages and texts here")
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
