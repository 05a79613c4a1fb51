"""The parts `peer` and `peer-serve` of benchmarks.gpu_rate: the class that vLLM ships, offline and behind `vllm serve`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import replace
from typing import Any

import psutil

from benchmarks.busy import watched
from benchmarks.gpu_peer import PROMPT, PUBLISHED, RULE, describe, read_pages, start_peer
from benchmarks.processes import PEER_RUNNER, environment
from benchmarks.report import Report
from benchmarks.service import served
from benchmarks.uploads import Load, rates, run_load, summarise

MOST_PREFILLED, ALONE = 64, 4
# vLLM writes the picture's placeholder and a line break before the text.
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
# What vLLM has to keep several cores busy with pictures; the values are for 16 cores.
SERVE = ("--api-server-count", "4", "--renderer-num-workers", "4", "--max-num-seqs", "256")
SERVE_ON_GPU = ("--compilation-config", '{"cudagraph_mm_encoder": true}')


def run_offline(options: argparse.Namespace, settings: dict[str, Any], report: Report) -> None:
    """Read the pages with vLLM's `LLM`; `settings` are its arguments. Decoding the JPEG files is not timed."""
    from vllm import SamplingParams

    from app.vllm_models import encode_prompt

    engine = start_peer(
        options.model, dtype=options.dtype, max_model_len=options.max_model_len, enforce_eager=options.eager, **settings
    )
    ready = round(time.time() - psutil.Process().create_time(), 1)
    scheduler = engine.llm_engine.vllm_config.scheduler_config
    chosen = {name: getattr(scheduler, name) for name in ("max_num_seqs", "max_num_batched_tokens")}
    report.add("start", {"ready_s": ready, "class": engine.apply_model(describe)[0], **chosen})
    ids = encode_prompt(engine.get_tokenizer(), PROMPT)
    pages = read_pages(options.folder)[: options.peer_pages]
    requests = [{"prompt_token_ids": ids, "multi_modal_data": {"image": page}} for page in pages]
    sampling = SamplingParams(
        temperature=0.0, max_tokens=options.tokens, skip_special_tokens=False, extra_args=dict(PUBLISHED)
    )
    engine.generate(requests[:2], sampling, use_tqdm=False)  # whatever the first page compiles
    single = sampling.clone()
    single.max_tokens = 1
    loads = [
        ("gundam, 1 token", requests[:MOST_PREFILLED], single),
        ("gundam, all at once", requests, sampling),
        ("gundam, one alone", requests[:1], sampling),
    ]
    for name, some, params in loads:
        with watched() as figures:
            started = time.perf_counter()
            outputs = engine.generate(some, params, use_tqdm=False)
            seconds = time.perf_counter() - started
        tokens = [len(output.outputs[0].token_ids) for output in outputs]
        report.add(name, {"pages": len(some), "seconds": round(seconds, 2), **rates(tokens, seconds), **figures})


def run_serve(options: argparse.Namespace, settings: dict[str, Any], report: Report) -> None:
    """Read the pages through `vllm serve`."""
    template = options.work / "template.jinja"
    template.write_text(TEMPLATE)
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(options.model), "--port", "{port}"]
    command += ["--host", "127.0.0.1", "--served-model-name", "peer", "--dtype", options.dtype]
    command += ["--chat-template", str(template), "--chat-template-content-format", "string"]
    command += ["--no-enable-prefix-caching", "--mm-processor-cache-gb", "0", "--logits-processors", RULE]
    command += ["--max-model-len", str(options.max_model_len), "--gpu-memory-utilization", "0.75"]
    command += ["--enforce-eager"] * options.eager + [*SERVE, *SERVE_ON_GPU * (not options.eager)]
    command += shlex.split(options.serve_args)
    variables = {name: value for name, value in environment(options.site).items() if name.isupper()} | PEER_RUNNER
    started = time.monotonic()
    log = options.work / "serve.log"
    with served(log, options.ready_timeout, command, ready="/health", **variables) as service:
        report.add("start", {"ready_s": round(time.monotonic() - started, 1), "command": shlex.join(command[3:])})
        rule = {**PUBLISHED, "whitelist_token_ids": sorted(PUBLISHED["whitelist_token_ids"])}
        warm_up = min(8, options.peer_pages)  # reaches every API server
        first = Load(options.folder, warm_up, options.tokens, chat="peer", extra=(("vllm_xargs", rule),))
        run_load(service.url, first)
        loads = (
            (f"gundam, {options.side_by_side} side by side", options.peer_pages, options.side_by_side),
            ("gundam, one alone", min(ALONE, options.peer_pages), 1),
        )
        for name, count, at_once in loads:
            with watched(service.process.pid) as busy:
                answers, client = run_load(service.url, replace(first, count=count, at_once=at_once), options.clients)
            report.add(name, summarise(answers) | {"client_percent": round(100 * client)} | busy)
