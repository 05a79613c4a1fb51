"""The arithmetic of the benchmarks that run on a GPU, which no test has."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.busy import read_threads
from benchmarks.gpu_decode import step_seconds
from benchmarks.gpu_rate import parse, plan, service_settings
from benchmarks.parting import Parting, find_parting, parted_pages
from benchmarks.rate_cost import Point, charts, label, series
from benchmarks.rate_http import read_gauges
from benchmarks.report import Report, read_result
from benchmarks.uploads import Answer, Load, arrival_times, summarise
from tools.tune_moe import BATCHES, SHARED_BYTES, candidates, write_table

METRICS = """# HELP ocr_queue_depth Requests accepted and not yet answered.
ocr_queue_depth 12.0
ocr_queue_depth_other 99.0
vllm:num_requests_running{engine="0",model_name="m"} 8.0
"""


def answer(began: float, ended: float, tokens: int, status: int = 200) -> Answer:
    return Answer(status, began, ended, 0.5 if status == 200 else None, tokens, 907, "length", "text")


def test_a_load_is_summed_up_over_the_time_from_its_first_byte_to_its_last():
    figures = summarise([answer(10.0, 12.0, 600), answer(10.5, 14.0, 600), answer(11.0, 11.1, 0, status=429)])
    assert figures["seconds"] == 4.0
    assert figures["pages_per_s"] == 0.5
    assert figures["tokens_per_s"] == 300
    assert figures["tokens_a_page"] == {600: 2}
    assert figures["statuses"] == {"200": 2, "429": 1}
    assert figures["latency_s"] == {"p50": 2.75, "p99": 3.485}


def test_pages_arrive_at_random_at_their_rate_and_the_same_way_again():
    load = Load(Path(), 2000, 600, rate=20.0)
    times = arrival_times(load)
    assert times == arrival_times(load)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(100, rel=0.1)
    assert set(arrival_times(Load(Path(), 3, 600))) == {0.0}


def test_a_step_is_timed_while_all_sequences_decode():
    first = [(0.0, 1), (2.0, 17), (4.0, 33)]
    last = [(1.0, 1), (3.4, 17), (5.8, 33)]
    assert step_seconds([first, last]) == pytest.approx(2.4 / 16)
    assert step_seconds([[(0.0, 1), (1.0, 2)], [(2.0, 1), (3.0, 2)]]) is None


def test_gauges_are_read_by_their_whole_names():
    assert read_gauges(METRICS) == {"accepted": 12.0, "vllm_running": 8.0, "vllm_waiting": 0.0}


def test_a_report_is_whole_after_every_figure(tmp_path):
    file = tmp_path / "result.json"
    Report(file, "http").add("one", {"pages_per_s": 3.0})
    Report(file, "peer").add("one", {"pages_per_s": 1.0})
    assert read_result(file) == {
        "parts": {"http": {"one": {"pages_per_s": 3.0}}, "peer": {"one": {"pages_per_s": 1.0}}}
    }
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_variant_adds_to_what_was_asked_of_every_part():
    variant = '{"max_num_seqs": 512, "engine_args": {"kv_cache_dtype": "fp8"}}'
    asked = ["--setting", 'ENGINE_ARGS={"stream_interval": 1}', "--variant", variant]
    options = parse(["--model", "m", "--parts", "engine", "http", *asked])
    jobs = plan(options)
    assert [part for part, _ in jobs] == ["engine", "engine", "http"]
    settings = service_settings(options, jobs[1][1])
    assert settings["max_num_seqs"] == 512
    assert json.loads(settings["engine_args"]) == {"dtype": "bfloat16", "stream_interval": 1, "kv_cache_dtype": "fp8"}


def test_own_threads_are_found_by_name():
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        assert thread.native_id in read_threads(os.getpid())
    finally:
        release.set()
        thread.join()


def test_every_candidate_for_the_experts_fits_into_shared_memory(tmp_path):
    for batch in BATCHES:
        configs = candidates(batch)
        assert configs
        for it in configs:
            tiles = it["BLOCK_SIZE_K"] * (it["BLOCK_SIZE_M"] + it["BLOCK_SIZE_N"])
            assert 2 * it["num_stages"] * tiles <= SHARED_BYTES
    write_table(tmp_path / "table.json", {64: candidates(64)[0], 8: candidates(8)[0]})
    assert list(json.loads((tmp_path / "table.json").read_text())) == ["8", "64"]


def test_the_cost_of_a_page_is_charted_by_each_thing_that_varies():
    points = [point for some in series(8, 4).values() for point in some]
    assert {point.tokens for point in points} == {1, 2, 4, 8, 16}
    assert {point.at_once for point in points} == {1, 4}
    loads = {label(point): {"pages_per_s": 100 / point.tokens} for point in points if point.resolution != "large"}
    drawn = charts(loads, 8, 4)
    assert 'x-axis ["tiny", "small", "base", "gundam"]' in drawn
    assert "| 16 | 6.25 | 160.0 |" in drawn
    assert label(Point("gundam", 8, 4)) == "gundam, 8 tokens, 4 side by side"


WORDS = [" ", "two", " boxes", " box", "\N{REPLACEMENT CHARACTER}", " and a line"]


def decode(tokens: Sequence[int]) -> str:
    return "".join(WORDS[token] for token in tokens)


def test_texts_part_where_not_both_go_on_as_the_third_reading_does() -> None:
    near = [{0: -0.1, 1: -9.0}, {1: -0.1, 4: -9.0}, {2: -0.7, 3: -0.6999}, {5: -0.1, 0: -3.0}]
    parting = find_parting([0, 1, 2, 5], near, ["two boxes and a line", "two box"], decode)
    assert parting is not None
    assert (parting.token, parting.theirs) == (2, True)
    assert parting.ahead == pytest.approx(0.0001)


def test_texts_that_neither_of_the_two_best_tokens_explains_are_told_apart() -> None:
    scores = [{1: -0.1, 4: -9.0}, {2: -0.1, 5: -2.0}]
    assert find_parting([1, 2], scores, ["two boxes", "two lines"], decode) == Parting(1, pytest.approx(1.9), False)


def test_texts_that_go_on_as_the_third_reading_does_part_nowhere() -> None:
    assert find_parting([0, 1, 2], [{}, {}, {}], ["two boxes and a line", "two boxes"], decode) is None


def test_pages_without_a_text_in_common_have_parted() -> None:
    served = {"tiny": [[["a", 1], ["b", 1], ["c", 2]], [["a", 1], ["c", 1], ["c", 3]]]}
    plain = {"tiny": [[["a", 1], ["c", 1], ["c", 4]], [["x", 1], ["d", 1], ["c", 5]]]}
    assert parted_pages(served, plain) == [("tiny", 2, ["c", "c"])]
