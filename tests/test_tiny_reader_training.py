"""The tiny reader's training: labels, tokens, model, optimiser, and resuming."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tools.tiny_reader import fonts
from tools.tiny_reader.faces import Faces, load_faces
from tools.tiny_reader.score import Score, overlap, score_answer, score_text

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from app.vllm_models.checkpoint import encoder_shapes, language_shapes  # noqa: E402
from tools.random_checkpoint import byte_tokenizer, write_tokenizer  # noqa: E402
from tools.tiny_reader.batches import Batch, decode, encode, make_batch, prompt_ids, slot_labels  # noqa: E402
from tools.tiny_reader.export import read_folder, write_folder  # noqa: E402
from tools.tiny_reader.model import KeyValues, Reader, initialise, published_names  # noqa: E402
from tools.tiny_reader.optimiser import Muon, Plan  # noqa: E402
from tools.tiny_reader.sizes import BOS, EOS, make_config  # noqa: E402
from tools.tiny_reader.train import Trainer, train  # noqa: E402

TAGGED = "<|ref|>a<|/ref|><|det|>[[0, 0, 99, 99]]<|/det|>\n<|ref|>b<|/ref|><|det|>[[0, 200, 99, 299]]<|/det|>"


@pytest.fixture(scope="module")
def faces() -> Faces:
    names = ("DejaVuSans.ttf", "LiberationSerif-Regular.ttf")
    return load_faces([font for font in fonts.TRAINING if font.file_name in names])


@pytest.fixture(scope="module")
def model() -> Reader:
    reader = Reader(make_config())
    initialise(reader, seed=0)
    return reader


@dataclass
class Marked:
    """What `slot_labels` looks at in a page."""

    char_xy: NDArray[np.float32]
    char_ids: NDArray[np.int16]


def marked(*characters: tuple[float, float, int]) -> Marked:
    places = np.array([(x, y) for x, y, _ in characters], np.float32).reshape(-1, 2)
    return Marked(places, np.array([number for _, _, number in characters], np.int16))


def labels(pages: Sequence[Marked], slots: int) -> NDArray[np.int8]:
    return slot_labels(pages, 128, 64, slots)  # type: ignore[arg-type]


def test_labels_list_the_characters_of_each_cell_in_reading_order_then_one_end() -> None:
    pages = [marked((5, 5, 7), (70, 5, 8), (20, 5, 9), (128, 130, 3)), marked()]
    assert labels(pages, 3).tolist() == [
        [[[8, 10, 0], [9, 0, -1]], [[0, -1, -1], [4, 0, -1]]],
        [[[0, -1, -1], [0, -1, -1]], [[0, -1, -1], [0, -1, -1]]],
    ]


def test_a_full_cell_has_no_end_and_drops_what_is_too_much() -> None:
    assert labels([marked((1, 1, 0), (2, 1, 1), (3, 1, 2))], 2)[0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize("text", ["Free OCR.", TAGGED, "<table><tr><td>a</td></tr></table>", "naïve 中"])
def test_text_survives_its_tokens(text: str) -> None:
    assert decode(encode(text)) == text


def test_tokens_are_those_of_the_exported_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    write_tokenizer(tmp_path, byte_tokenizer())
    exported = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("\nFree OCR.", "\n<|grounding|>OCR this image.", TAGGED, "<tr><td>a b</td></tr>"):
        assert encode(text) == exported.encode(text, add_special_tokens=False).ids


def test_targets_are_the_answer_shifted_and_nothing_of_the_prompt(faces: Faces) -> None:
    batch = make_batch(1, 2, 256, 6, faces)
    for tokens, targets, length in zip(batch.tokens, batch.targets, batch.lengths, strict=True):
        asked = np.flatnonzero(targets >= 0)
        assert tokens[0] == BOS
        assert asked[-1] == length - 1
        assert targets[asked[-1]] == EOS
        assert targets[asked[:-1]].tolist() == tokens[asked[1:]].tolist()
        assert decode(tokens[1 : asked[0] + 1].tolist()).startswith("\n")


def test_a_batch_depends_on_seed_and_number_only(faces: Faces) -> None:
    one, same, other = (make_batch(3, number, 256, 4, faces) for number in (5, 5, 6))
    assert np.array_equal(one.tokens, same.tokens)
    assert np.array_equal(one.token_labels, same.token_labels)
    assert one.tokens.shape != other.tokens.shape or not np.array_equal(one.tokens, other.tokens)


def test_the_model_has_the_published_parameters_and_fits_16_megabytes(model: Reader, tmp_path: Path) -> None:
    config = make_config()
    expected = encoder_shapes(config) | language_shapes(config["language_config"])
    assert {name: tuple(parameter.shape) for name, parameter in published_names(model)} == expected
    write_folder(model, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 16_000_000
    written = dict(published_names(read_folder(tmp_path)))
    for name, parameter in published_names(model):
        assert torch.equal(written[name], parameter.to(torch.bfloat16)), name
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_pages_are_laid_out_as_the_service_lays_them_out(model: Reader) -> None:
    pixels = torch.randint(0, 256, (2, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours, _ = model.encode(pixels)
    empty = torch.empty((0, 0, 0, 3), dtype=torch.uint8)
    served = model.encoder.embed_pictures(list(pixels), [empty, empty], [(0, 0), (0, 0)])
    assert torch.allclose(ours, torch.stack(served), atol=1e-5)


def test_reading_token_by_token_equals_reading_at_once(model: Reader) -> None:
    images = torch.randn((1, 21, 256), generator=torch.Generator().manual_seed(1))
    prompt = torch.tensor(prompt_ids("Free OCR."))
    answer = model.continue_greedily(images, prompt, end=-1, longest=8)[0]
    whole = torch.cat((prompt, torch.tensor(answer)))
    hidden, _ = model.language(model.embed(images, whole[None]))
    best = model.language.lm_head(hidden).argmax(-1)[0]
    assert best[21 + len(prompt) - 1 : -1].tolist() == answer


def test_cached_keys_stay_when_the_cache_grows() -> None:
    cache, parts = KeyValues(), [torch.randn(1, 2, length, 4) for length in (3, 1, 5)]
    for part in parts:
        keys, values = cache.append(part, -part)
    assert torch.equal(keys, torch.cat(parts, dim=2))
    assert torch.equal(values, -torch.cat(parts, dim=2))


def test_muon_for_many_matrices_is_pytorchs_muon() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) for shape in ((32, 16), (32, 16), (8, 24))]
    ours, theirs = [start.clone() for start in starts], [start.clone().requires_grad_() for start in starts]
    mine = Muon(ours, weight_decay=0.05)
    reference = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        mine.step(0.01)
        reference.step()
    for start, one, other in zip(starts, ours, theirs, strict=True):
        # Both round to bfloat16 inside, in another order.
        assert torch.allclose(one - start, other - start, atol=0.05 * float((other - start).detach().abs().max()))


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_unbroken_one_does(faces: Faces, tmp_path: Path) -> None:
    plan = Plan(steps=2, warmup=1, decay=1, sides=((256, 2),), micro_batches=1)

    def run(folder: Path, minutes: float) -> Trainer:
        trainer = Trainer(plan, torch.device("cpu"), compiled=False)
        folder.mkdir(exist_ok=True)
        if (folder / "state.pt").exists():
            trainer.load(folder)
        train(trainer, folder, faces, minutes, workers=0)
        return trainer

    whole = run(tmp_path / "whole", 5)
    broken = Trainer(plan, torch.device("cpu"), compiled=False)
    train_one_step(broken, faces, tmp_path / "broken")
    resumed = run(tmp_path / "broken", 5)
    assert whole.step == resumed.step == 2
    for one, other in zip(whole.optimiser.masters, resumed.optimiser.masters, strict=True):
        assert torch.equal(one, other)
    assert (tmp_path / "whole" / "model" / "model.safetensors").is_file()


def train_one_step(trainer: Trainer, faces: Faces, folder: Path) -> None:
    """Do what `train` does for a step, and save."""
    from tools.tiny_reader.compose import Atlas, pack

    atlas = Atlas.build(faces)
    batch: Batch = make_batch(trainer.plan.seed, 0, 256, 2, faces)
    trainer.add_gradients(trainer.prepare(batch, pack(batch.pages), atlas, 0))
    trainer.optimiser.step(trainer.plan.rate_at(0))
    trainer.step += 1
    trainer.save(folder)


def test_scores_count_characters_and_boxes() -> None:
    read = TAGGED.replace("<|ref|>b", "<|ref|>c").replace("[[0, 200, 99, 299]]", "[[0, 400, 99, 499]]")
    assert score_answer(read, TAGGED) == Score(pages=1, perfect=0, characters=3, errors=1, boxes=2, found=1)
    assert score_text("ab", "ab") + score_text("", "cd") == Score(pages=2, perfect=1, characters=4, errors=2)
    assert overlap((0, 0, 10, 10), (0, 5, 10, 15)) == pytest.approx(1 / 3)
