"""benchmarks.rounding: the language model it reads with, and which of the disturbed copies it says have parted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("tokenizers", reason="tokenizers is not installed")

from benchmarks.rounding import Chosen, load_language, parse, read  # noqa: E402
from tools.tiny_reader.export import read_folder  # noqa: E402
from tools.tiny_reader.model import Experts  # noqa: E402
from tools.tiny_reader.serve import FOLDER  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_only_the_chosen_experts_give_what_all_give() -> None:
    experts = next(layer.mlp for layer in read_folder(FOLDER).float().language.layers if isinstance(layer.mlp, Experts))
    hidden = noise(2, 5, experts.gate.in_features)
    chosen = Chosen(experts)
    torch.testing.assert_close(chosen(hidden), experts(hidden)[0], atol=1e-4, rtol=1e-5)
    assert chosen.choice.shape == (2, 5, experts.chosen)
    assert torch.equal(chosen.choice, chosen.choice.sort(-1).values)


def test_the_language_model_is_the_one_of_the_folder() -> None:
    hidden = noise(1, 7, 1) * read_folder(FOLDER).float().language.embed_tokens(torch.arange(7))
    torch.testing.assert_close(load_language(FOLDER)(hidden)[0], read_folder(FOLDER).float().language(hidden)[0])


@pytest.mark.parametrize(("size", "parted"), [("0", 0), ("3", 6)])
def test_copies_part_when_they_are_disturbed(size: str, parted: int) -> None:
    options = parse(["--model", str(FOLDER), "--copies", "3", "--tokens", "12", "--noise", size])
    figures = read(options, noise(2, 20, load_language(FOLDER).embed_tokens.embedding_dim))
    assert (figures["copies"], len(figures["parted"])) == (6, parted)
    assert all(parting["ahead"] >= 0 and parting["token"] < 12 for parting in figures["parted"])
    assert figures["with_other_experts"] == parted
