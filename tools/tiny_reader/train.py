"""Train the tiny reader on one GPU, in pieces that resume where the last one stopped.

    python -m tools.tiny_reader.train RUN --minutes 9

RUN keeps the newest state and, when all steps are done, RUN/model the model folder: call again until it says so.
`torchrun --nproc_per_node 2 -m tools.tiny_reader.train RUN` shares each step out between two GPUs; the sums are the
same. Every page depends on the seed and its step only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tools.tiny_reader.batches import NO_LABEL, PATCH_SLOTS, TOKEN_SLOTS, Batch, make_batch
from tools.tiny_reader.compose import Atlas, PackedPages, draw, pack
from tools.tiny_reader.export import write_folder
from tools.tiny_reader.faces import GLYPHS, Faces, load_faces
from tools.tiny_reader.model import Reader, initialise
from tools.tiny_reader.optimiser import Optimiser, Plan
from tools.tiny_reader.sizes import make_config

# 0 is "no more characters", then the characters that leave ink.
CHARACTERS = 1 + len(GLYPHS)
# Almost every patch is blank: its "no more" counts little (0.08 in the pilot).
BLANK_WEIGHT = 0.08
SAVE_SECONDS = 150


class Heads(nn.Module):
    """The auxiliary losses' layers: they read characters from patches and from image tokens, and are not exported."""

    def __init__(self, patch_width: int, token_width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(patch_width, PATCH_SLOTS * CHARACTERS)
        self.token = nn.Sequential(
            nn.LayerNorm(token_width), nn.Linear(token_width, 512), nn.GELU(), nn.Linear(512, TOKEN_SLOTS * CHARACTERS)
        )

    def forward(
        self, patches: Tensor, tokens: Tensor, patch_labels: Tensor, token_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the mean losses; labels are 0..CHARACTERS - 1 or -1."""
        weights = torch.ones(CHARACTERS, device=patches.device, dtype=torch.float32)
        weights[0] = BLANK_WEIGHT
        by_patch = self.patch(patches).unflatten(-1, (PATCH_SLOTS, CHARACTERS)).flatten(0, -2).float()
        by_token = self.token(tokens).unflatten(-1, (TOKEN_SLOTS, CHARACTERS)).flatten(0, -2).float()
        return (
            F.cross_entropy(by_patch, patch_labels.flatten().long(), weights, ignore_index=-1),
            F.cross_entropy(by_token, token_labels.flatten().long(), ignore_index=-1),
        )


class Batches(Dataset[tuple[Batch, PackedPages]]):
    """Every micro batch, numbered through all steps, made by the loader's processes."""

    def __init__(self, plan: Plan, faces: Faces) -> None:
        self.plan, self.faces = plan, faces

    def __len__(self) -> int:
        return self.plan.steps * self.plan.micro_batches

    def __getitem__(self, number: int) -> tuple[Batch, PackedPages]:
        step = number // self.plan.micro_batches
        side, size = self.plan.sides[step % len(self.plan.sides)]
        batch = make_batch(self.plan.seed, number, side, size, self.faces)
        return batch.without_pages(), pack(batch.pages)


@dataclass(frozen=True)
class Ready:
    """A micro batch on the device: a `Batch` with its pages drawn; `answered` counts the tokens to predict."""

    pixels: Tensor
    patch_labels: Tensor
    token_labels: Tensor
    tokens: Tensor
    targets: Tensor
    lengths: NDArray[np.int32]
    answered: int


class Trainer:
    """The model, its optimiser and the compiled halves of a step."""

    def __init__(self, plan: Plan, device: torch.device, *, compiled: bool) -> None:
        self.plan, self.device, self.step = plan, device, 0
        config = make_config()
        self.model = Reader(config)
        initialise(self.model, plan.seed)
        torch.manual_seed(plan.seed)
        self.heads = Heads(
            config["vision_config"]["width"]["sam_vit_b"]["width"], config["projector_config"]["n_embed"]
        )
        both = nn.ModuleDict({"model": self.model, "heads": self.heads}).to(device, torch.bfloat16)
        self.optimiser = Optimiser(both, plan)
        self.side_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.see = torch.compile(self._see, dynamic=False) if compiled else self._see
        self.say = torch.compile(self._say, dynamic=False) if compiled else self._say

    def _see(self, pixels: Tensor, patch_labels: Tensor, token_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode pages and return their image tokens and the two auxiliary losses."""
        images, patches = self.model.encode(pixels)
        side = patches.shape[1] // 4
        tokens = images[:, :-1].unflatten(1, (side, side + 1))[:, :, :side]
        return images, *self.heads(patches, tokens, patch_labels, token_labels)

    def _say(self, images: Tensor, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed loss of the answers and the experts' unevenness."""
        hidden, unevenness = self.model.language(self.model.embed(images, tokens))
        logits = self.model.language.lm_head(hidden[:, images.shape[1] + 1 :])
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), targets[:, 1:].flatten(), ignore_index=NO_LABEL, reduction="sum"
        )
        return loss, unevenness

    def prepare(self, batch: Batch, pages: PackedPages, atlas: Atlas, number: int) -> Ready:
        """Draw a micro batch and bring it to the device, beside what the device still works on.

        Copies to a GPU wait for all work of their stream; a stream of their own spares the trainer that.
        """
        noise = torch.Generator(self.device).manual_seed(self.plan.seed * 1_000_003 + number)
        with torch.cuda.stream(self.side_stream) if self.side_stream else nullcontext():
            ready = Ready(
                draw(pages, atlas, self.device, noise),
                torch.from_numpy(batch.patch_labels).to(self.device),
                torch.from_numpy(batch.token_labels).to(self.device),
                torch.from_numpy(batch.tokens).to(self.device, torch.int64),
                torch.from_numpy(batch.targets).to(self.device, torch.int64),
                batch.lengths,
                int((batch.targets >= 0).sum()),
            )
        if self.side_stream:
            torch.cuda.current_stream().wait_stream(self.side_stream)
            for part in (ready.pixels, ready.patch_labels, ready.token_labels, ready.tokens, ready.targets):
                part.record_stream(torch.cuda.current_stream())
        return ready

    def add_gradients(self, batch: Ready) -> Tensor:
        """Add a micro batch's share of the gradients; returns its losses (answer, patch, token, unevenness)."""
        plan, tokens, targets = self.plan, batch.tokens, batch.targets
        images, by_patch, by_token = self.see(batch.pixels, batch.patch_labels, batch.token_labels)
        leaf = images.detach().requires_grad_()
        total, uneven = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        half = (len(tokens) + 1) // 2  # pages are sorted by length: the shorter half needs fewer padded tokens
        for rows in (slice(0, half), slice(half, None)):
            longest = padded_length(int(batch.lengths[rows].max()), tokens.shape[1])
            asked, wanted = tokens[rows, :longest].contiguous(), targets[rows, :longest].contiguous()
            for part in (asked, wanted):
                torch._dynamo.mark_dynamic(part, 1)  # one graph for every length
            loss, unevenness = self.say(leaf[rows], asked, wanted)
            ((loss / batch.answered + plan.balance_weight * unevenness / 2) / plan.micro_batches).backward()
            total, uneven = total + loss.detach(), uneven + unevenness.detach() / 2
        auxiliary = (plan.patch_weight * by_patch + plan.token_weight * by_token) / plan.micro_batches
        torch.autograd.backward([images, auxiliary], [leaf.grad, None])
        return torch.stack([total / batch.answered, by_patch.detach(), by_token.detach(), uneven])

    def save(self, folder: Path) -> None:
        """Write the state, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {"step": self.step, "plan": asdict(self.plan), "optimiser": self.optimiser.state()}
        torch.save(state, folder / "state.new")
        (folder / "state.new").rename(folder / "state.pt")

    def load(self, folder: Path) -> None:
        """Continue from a saved state."""
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.optimiser.load(state["optimiser"])
        self.step = state["step"]


def padded_length(length: int, most: int) -> int:
    """Round a length up to a multiple of 64, at most `most`: fewer shapes."""
    return min(most, (length + 63) // 64 * 64)


def batches_from(plan: Plan, faces: Faces, numbers: list[int], workers: int) -> Iterator[tuple[Batch, PackedPages]]:
    """Yield these micro batches, in order."""
    loader = DataLoader(
        Batches(plan, faces),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)


def train(trainer: Trainer, folder: Path, faces: Faces, minutes: float, workers: int) -> None:
    """Train until the plan's end or the time is up, saving every few minutes and at the end."""
    plan, rank = trainer.plan, dist.get_rank() if dist.is_initialized() else 0
    world = dist.get_world_size() if dist.is_initialized() else 1
    atlas = Atlas.build(faces).to(trainer.device)
    mine = range(rank, plan.micro_batches, world)
    numbers = [step * plan.micro_batches + part for step in range(trainer.step, plan.steps) for part in mine]
    batches = zip(numbers, batches_from(plan, faces, numbers, workers), strict=True)
    report = Report(folder / "log.jsonl") if rank == 0 else None
    began = saved = time.monotonic()
    while trainer.step < plan.steps and not agreed(time.monotonic() - began > 60 * minutes, trainer):
        pages = 0
        for _ in mine:
            number, (batch, packed) = next(batches)
            losses = trainer.add_gradients(trainer.prepare(batch, packed, atlas, number))
            pages += len(batch.lengths)
        norm = trainer.optimiser.step(plan.rate_at(trainer.step))
        trainer.step += 1
        if report is not None:
            report.add(trainer.step, torch.cat((losses, norm[None])), pages * world)
            if time.monotonic() - saved > SAVE_SECONDS:
                trainer.save(folder)
                saved = time.monotonic()
    if rank == 0:
        trainer.save(folder)
        if trainer.step == plan.steps:
            write_folder(trainer.model, folder / "model")


def agreed(stop: bool, trainer: Trainer) -> bool:
    """Say whether any process wants to stop; they ask each other every 20 steps only."""
    if trainer.step % 20:
        return False
    if not dist.is_initialized():
        return stop
    wish = torch.tensor(float(stop), device=trainer.device)
    dist.all_reduce(wish)
    return bool(wish)


class Report:
    """Prints and keeps the mean losses of every hundred steps."""

    NAMES = ("answer", "patch", "token", "unevenness", "norm")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = self.last = time.monotonic()
        self.losses: list[Tensor] = []
        self.pages = 0

    def add(self, step: int, losses: Tensor, pages: int) -> None:
        """Take the losses of a step."""
        self.losses.append(losses)
        self.pages += pages
        if step % 100 and step not in (1, 10):
            return
        mean, now = torch.stack(self.losses).mean(0).tolist(), time.monotonic()
        line = {name: round(value, 4) for name, value in zip(self.NAMES, mean, strict=True)}
        line |= {"step": step, "seconds": round(now - self.began, 1), "pages_s": round(self.pages / (now - self.last))}
        text = json.dumps(line) + "\n"
        sys.stdout.write(text)
        sys.stdout.flush()
        with self.path.open("a") as log:
            log.write(text)
        self.losses, self.pages, self.last = [], 0, now


def choose_device() -> torch.device:
    """Return this process's device, and join the others where torchrun started several."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("nccl", device_id=device)
    return device


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--fonts", type=Path, help="a folder with the fonts; without it, those of the system")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--eager", action="store_true", help="do not compile: for a look on the CPU")
    for name, kind in (("seed", int), ("steps", int), ("decay", int), ("rate", float)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(Plan, name))
    parser.add_argument("--pages", type=int, help="pages in a micro batch, for a look on the CPU")
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in ("seed", "steps", "decay", "rate")}
    if options.pages:
        given["sides"] = tuple((side, options.pages) for side, _ in Plan.sides)
    device = choose_device()
    # A reduction that PyTorch 2.11 gets wrong for sequences of changing length.
    torch._inductor.config.triton.mix_order_reduction = False
    torch.set_float32_matmul_precision("high")
    options.run.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(Plan(**given), device, compiled=not options.eager)
    if (options.run / "state.pt").exists():
        trainer.load(options.run)
    faces = load_faces(folder=options.fonts)
    train(trainer, options.run, faces, options.minutes, options.workers)
    sys.stdout.write(f"{trainer.step} of {trainer.plan.steps} steps done\n")
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
