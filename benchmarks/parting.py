"""Where the two sides of benchmarks.same_tokens part, and how near to each other the two best tokens are there.

    python -m benchmarks.parting --model DIR --dtype float32 --work WORK

WORK holds what `benchmarks.same_tokens --work WORK` left there: the pages and both sides' texts. Each page to which the sides
gave no text in common is read once more, alone, plainly (no graphs, nothing compiled, vLLM's model runner V1), with the log
probabilities of the two best tokens at each place. What is told is the first place at which not both texts go on as this
reading does: how far the best token is ahead of the second, and whether each text goes on with one of the two. How far
rounding moves two such tokens against each other is what benchmarks.rounding tells.

Needs vLLM, with VLLM_USE_V2_MODEL_RUNNER=0, as benchmarks.same_tokens runs it where sides part.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_peer import PROMPT, cut_page
from benchmarks.report import write_result

Decode = Callable[[Sequence[int]], str]
# By token id, of one place.
Scores = dict[int, float]


@dataclass(frozen=True)
class Parting:
    """The token at which two texts of a page part, the log probability between the two best there, and whether both are theirs."""

    token: int
    ahead: float
    theirs: bool


def find_parting(
    tokens: Sequence[int], scores: Sequence[Scores], texts: Sequence[str], decode: Decode
) -> Parting | None:
    """Return where `texts` part, of which `tokens` begin one or go their own way; None where they go on with all tokens."""
    for place in range(len(tokens)):
        if all(_begins(decode(tokens[: place + 1]), text) for text in texts):
            continue
        best, second = sorted(scores[place], key=scores[place].__getitem__, reverse=True)[:2]
        ways = [decode([*tokens[:place], token]) for token in (best, second)]
        theirs = all(any(_begins(way, text) for way in ways) for text in texts)
        return Parting(place, scores[place][best] - scores[place][second], theirs)
    return None


def _begins(start: str, text: str) -> bool:
    """Say whether a text begins so; the service takes blanks from its ends, and a character's last bytes may still come."""
    start = start.lstrip().rstrip("\N{REPLACEMENT CHARACTER}")
    return text.startswith(start) or text == start.rstrip()


def parted_pages(served: dict[str, Any], plain: dict[str, Any]) -> list[tuple[str, int, list[str]]]:
    """Return resolution, number and both sides' first text of each page without a text in common."""
    return [
        (resolution, number, [served[resolution][0][number][0], plain[resolution][0][number][0]])
        for resolution in served
        for number in range(len(served[resolution][0]))
        if not {tuple(reading[number]) for reading in served[resolution]}
        & {tuple(reading[number]) for reading in plain[resolution]}
    ]


def start_plain(options: argparse.Namespace) -> Any:
    """Return vLLM's `LLM` with the service's model, plainly."""
    from vllm import LLM

    from app.engine.vllm_options import NGRAM_PROCESSOR
    from app.vllm_models import ENGINE_ARGUMENTS

    return LLM(
        model=str(options.model),
        dtype=options.dtype,
        enforce_eager=True,
        max_model_len=options.max_model_len,
        max_num_batched_tokens=8192,
        gpu_memory_utilization=0.75,
        limit_mm_per_prompt={"image": 1},
        logits_processors=[NGRAM_PROCESSOR],
        **ENGINE_ARGUMENTS,
    )


def main(arguments: list[str]) -> int:
    from app.engine.vllm_text import ModelTokenizer
    from app.vllm_models import encode_prompt

    options = parse(arguments)
    sides = (json.loads((options.work / f"{side}.json").read_text()) for side in ("as-served", "plain"))
    parted = parted_pages(*sides)
    found: list[dict[str, Any]] = []
    if parted:
        from vllm import SamplingParams

        tokenizer = ModelTokenizer(options.model)
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=options.tokens,
            detokenize=False,
            stop_token_ids=[tokenizer.special.end],
            logprobs=2,
        )
        prompt = encode_prompt(tokenizer, PROMPT)
        files = sorted((options.work / "pages").iterdir())
        engine = start_plain(options)
        for name, number, texts in parted:
            request = {"prompt_token_ids": prompt, "multi_modal_data": {"image": cut_page(files[number], name)}}
            (output,) = engine.generate([request], sampling, use_tqdm=False)[0].outputs
            scores = [{token: score.logprob for token, score in place.items()} for place in output.logprobs]
            parting = find_parting(output.token_ids, scores, texts, tokenizer.decode)
            found.append({"resolution": name, "page": number, **(vars(parting) if parting else {})})
            print(json.dumps(found[-1]), flush=True)
    if options.json:
        write_result(options.json, {"partings": found})
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda name: Path(name).resolve(), required=True, help="a model folder")
    parser.add_argument("--work", type=Path, required=True, help="the folder of benchmarks.same_tokens")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of output of each page")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--json", type=Path, help="also write the result here")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
