"""Draw many planned pages at once with PyTorch: on a GPU as fast as it trains, on a CPU with the same code.

No loop runs over pages or glyphs: all ink of a batch is one scatter of flat pixel indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tools.tiny_reader.faces import Faces
from tools.tiny_reader.page import Page

_BLUR_RADIUS = 3
# Pages drawn at a time, to bound the memory.
_AT_ONCE = 512
# Solid ink for rulings, kept after the last glyph's: the longest and thickest ruling of the largest sheet is smaller.
_SOLID = 16_384


@dataclass(frozen=True)
class PackedPages:
    """Pages of one side, as flat arrays: what `draw` needs and no more.

    `glyph_offset` and `ruling_offset` (n + 1) say which entries of `glyph`, `x`, `y` and of `rulings` (r, 4) are
    a page's. `colours` is uint8 (n, 2, 3): paper, ink. `look` is float32 (n, 7): angle in degrees, blur, noise, and
    the shadow's strength (0: none), direction, middle and width. `jpeg` is the quality, 0 for none.
    """

    side: int
    draw_side: NDArray[np.int32]
    glyph_offset: NDArray[np.int64]
    glyph: NDArray[np.int32]
    x: NDArray[np.int16]
    y: NDArray[np.int16]
    ruling_offset: NDArray[np.int64]
    rulings: NDArray[np.int16]
    colours: NDArray[np.uint8]
    look: NDArray[np.float32]
    jpeg: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.jpeg)

    def part(self, start: int, stop: int) -> PackedPages:
        """Return some of the pages."""
        g0, g1 = self.glyph_offset[[start, min(stop, len(self))]]
        r0, r1 = self.ruling_offset[[start, min(stop, len(self))]]
        return replace(
            self,
            draw_side=self.draw_side[start:stop],
            glyph_offset=self.glyph_offset[start : stop + 1] - g0,
            glyph=self.glyph[g0:g1],
            x=self.x[g0:g1],
            y=self.y[g0:g1],
            ruling_offset=self.ruling_offset[start : stop + 1] - r0,
            rulings=self.rulings[r0:r1],
            colours=self.colours[start:stop],
            look=self.look[start:stop],
            jpeg=self.jpeg[start:stop],
        )


def pack(pages: Sequence[Page]) -> PackedPages:
    """Put pages into flat arrays, cheap to send between processes; raises ValueError for mixed sides."""
    sides = {page.side for page in pages}
    if len(sides) != 1:
        raise ValueError(f"Pages of one side can be packed together, not of {sorted(sides)}.")
    looks = [page.look for page in pages]
    return PackedPages(
        side=sides.pop(),
        draw_side=np.array([look.draw_side for look in looks], np.int32),
        glyph_offset=np.cumsum([0, *(len(page.glyph) for page in pages)]),
        glyph=np.concatenate([page.glyph for page in pages]),
        x=np.concatenate([page.x for page in pages]),
        y=np.concatenate([page.y for page in pages]),
        ruling_offset=np.cumsum([0, *(len(page.rulings) for page in pages)]),
        rulings=np.concatenate([page.rulings for page in pages]),
        colours=np.array([(look.paper, look.ink) for look in looks], np.uint8),
        look=np.array(
            [
                (look.angle, look.blur, look.noise, *_shadow_numbers(page))
                for page, look in zip(pages, looks, strict=True)
            ],
            np.float32,
        ),
        jpeg=np.array([look.jpeg for look in looks], np.int32),
    )


def _shadow_numbers(page: Page) -> tuple[float, float, float, float]:
    shadow = page.look.shadow
    return (shadow.strength, shadow.direction, shadow.middle, shadow.width) if shadow else (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Atlas:
    """The ink of every glyph of some Faces, uint8, with solid ink after it; per glyph, where it begins, its width and
    its pixels."""

    ink: Tensor
    start: Tensor
    width: Tensor
    area: Tensor

    @classmethod
    def build(cls, faces: Faces) -> Atlas:
        """Return the atlas of `faces`, in main memory."""
        size = faces.box.reshape(-1, 4)[:, 2:].astype(np.int64)
        area = size.prod(1)
        return cls(
            ink=torch.from_numpy(np.concatenate([faces.ink, np.full(_SOLID, 255, np.uint8)])),
            start=torch.from_numpy(area.cumsum() - area),
            width=torch.from_numpy(size[:, 0].copy()),
            area=torch.from_numpy(area),
        )

    def to(self, device: torch.device | str) -> Atlas:
        """Return the atlas on a device."""
        return Atlas(*(getattr(self, field.name).to(device) for field in fields(self)))


def draw(
    pages: PackedPages | Sequence[Page], atlas: Atlas, device: torch.device | str, generator: torch.Generator
) -> Tensor:
    """Draw pages on `device`, where `atlas` and `generator` (for the noise) are: uint8 (n, side, side, 3), RGB."""
    packed = pages if isinstance(pages, PackedPages) else pack(pages)
    device = torch.device(device)
    out = torch.empty((len(packed), packed.side, packed.side, 3), dtype=torch.uint8, device=device)
    for start in range(0, len(packed), _AT_ONCE):
        part = packed.part(start, start + _AT_ONCE)
        coverage = _coverage(part, atlas, device)
        _colour(part, coverage, out[start : start + _AT_ONCE], generator)
    return out


def _coverage(pages: PackedPages, atlas: Atlas, device: torch.device) -> Tensor:
    """Return how much ink each pixel holds, float32 (n, side, side), 0..1: turned, resized, blurred, compressed."""
    # Sheets drawn at one side lie together, whatever the order of the pages.
    order = np.argsort(pages.draw_side, kind="stable")
    areas = pages.draw_side[order].astype(np.int64) ** 2
    first = np.empty(len(pages), np.int64)
    first[order] = areas.cumsum() - areas
    ink = _set_ink(pages, first, int(areas.sum()), atlas, device)
    coverage = torch.empty((len(pages), pages.side, pages.side), device=device)
    for draw_side in np.unique(pages.draw_side).tolist():
        members = np.flatnonzero(pages.draw_side == draw_side)
        start, stop = first[members[0]], first[members[-1]] + draw_side**2
        sheets = ink[start:stop].view(-1, draw_side, draw_side)
        _turn(sheets, pages.look[members, 0])
        if draw_side != pages.side:
            size = (pages.side, pages.side)
            sheets = F.interpolate(sheets[:, None], size, mode="bicubic", antialias=True)[:, 0].clamp_(0, 1)
        coverage[_to(members, device)] = sheets
    _blur(coverage, pages.look[:, 1])
    _compress(coverage, pages.jpeg)
    return coverage


def _set_ink(pages: PackedPages, first: NDArray[np.int64], size: int, atlas: Atlas, device: torch.device) -> Tensor:
    """Return all sheets' ink as planned, flat float32 (size,), 0..1; `first` says where each page's sheet begins."""
    side = pages.draw_side.astype(np.int64)
    page = np.repeat(np.arange(len(pages)), np.diff(pages.glyph_offset))
    corner = first[page] + pages.y * side[page] + pages.x
    glyph = _to(pages.glyph, device).long()
    width, area, start = atlas.width[glyph], atlas.area[glyph], atlas.start[glyph]
    ruled = np.repeat(np.arange(len(pages)), np.diff(pages.ruling_offset))
    x, y, across, down = pages.rulings.astype(np.int64).T
    numbers = np.stack([first[ruled] + y * side[ruled] + x, side[ruled], across, across * down])
    ruling = _to(numbers, device)
    ink = torch.zeros(size, device=device)
    _stamp(
        ink,
        corner=torch.cat([_to(corner, device), ruling[0]]),
        stride=torch.cat([_to(side[page], device), ruling[1]]),
        width=torch.cat([width, ruling[2]]),
        area=torch.cat([area, ruling[3]]),
        source=atlas.ink,
        start=torch.cat([start, torch.full_like(ruling[0], len(atlas.ink) - _SOLID)]),
    )
    return ink.div_(255).clamp_(max=1)


def _stamp(
    ink: Tensor, *, corner: Tensor, stride: Tensor, width: Tensor, area: Tensor, source: Tensor, start: Tensor
) -> None:
    """Add rectangles of `source` to flat sheets: their first pixels, the sheets' widths, their own, and their areas.

    Whole numbers are added, so that the order in which a GPU adds them changes nothing.
    """
    owner = torch.repeat_interleave(area)
    local = torch.arange(len(owner), device=owner.device) - (area.cumsum(0) - area)[owner]
    widths = width[owner]
    row = torch.div(local, widths, rounding_mode="floor")
    target = corner[owner] + row * (stride - width)[owner] + local
    ink.index_add_(0, target, source[start[owner] + local].float())


def _turn(sheets: Tensor, degrees: NDArray[np.float32]) -> None:
    """Turn those sheets that have an angle, counter-clockwise about their centre, in place."""
    turned = np.flatnonzero(degrees)
    if not turned.size:
        return
    angle = _to(np.radians(degrees[turned]), sheets.device)[:, None, None]
    cosine, sine, side = angle.cos(), angle.sin(), sheets.shape[-1]
    place = (torch.arange(side, device=sheets.device) * 2 + 1) / side - 1  # of pixel centres, from the middle
    x, y = place[None, None], place[None, :, None]
    grid = torch.stack([cosine * x - sine * y, sine * x + cosine * y], -1)
    which = _to(turned, sheets.device)
    sheets[which] = F.grid_sample(sheets[which][:, None], grid, mode="bilinear", align_corners=False)[:, 0]


def _blur(coverage: Tensor, sigma: NDArray[np.float32]) -> None:
    """Blur those pages that have a sigma (in pixels), in place."""
    blurred = np.flatnonzero(sigma)
    if not blurred.size:
        return
    offsets = np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / sigma[blurred, None]) ** 2)
    kernel = _to((weights / weights.sum(1, keepdims=True)).astype(np.float32), coverage.device)
    which = _to(blurred, coverage.device)
    sharp = coverage[which][None]  # pages as channels, each with its own kernel
    across = F.conv2d(sharp, kernel[:, None, None], padding=(0, _BLUR_RADIUS), groups=len(blurred))
    coverage[which] = F.conv2d(across, kernel[:, None, :, None], padding=(_BLUR_RADIUS, 0), groups=len(blurred))[0]


# ITU-T T.81 (JPEG), table K.1: the luminance quantisation matrix at quality 50.
_QUANTISATION = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def _compress(coverage: Tensor, quality: NDArray[np.int32]) -> None:
    """Give those pages that have a JPEG quality the losses of its 8 x 8 transform, in place."""
    compressed = np.flatnonzero(quality)
    if not compressed.size or coverage.shape[-1] % 8:
        return
    given = quality[compressed].astype(np.float32)
    # The scaling of libjpeg's jpeg_quality_scaling.
    factor = np.where(given < 50, 50 / given, 2 - given / 50)[:, None, None]
    steps = _to(np.maximum(np.array(_QUANTISATION) * factor / 255, 1 / 255).astype(np.float32), coverage.device)
    rows = np.arange(8)
    basis = np.cos((2 * rows[None] + 1) * rows[:, None] * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    transform = _to(basis.astype(np.float32), coverage.device)
    which, across = _to(compressed, coverage.device), coverage.shape[-1] // 8
    tiles = coverage[which].view(-1, across, 8, across, 8).transpose(2, 3)
    waves = transform @ tiles @ transform.T
    steps = steps[:, None, None]
    tiles = transform.T @ (waves.div_(steps).round_().mul_(steps)) @ transform
    coverage[which] = tiles.transpose(2, 3).reshape(-1, across * 8, across * 8)


def _colour(pages: PackedPages, coverage: Tensor, out: Tensor, generator: torch.Generator) -> None:
    """Mix paper and ink by `coverage`, darken by shadows, add noise; writes uint8 RGB into `out`.

    Half precision holds 0..255 to an eighth and moves half the memory, which is what this costs on a GPU.
    """
    device = coverage.device
    coverage = coverage.half()
    paper, ink = _to(pages.colours.astype(np.float16), device).unbind(1)
    sigma = _to(pages.look[:, 2].astype(np.float16), device)[:, None, None]
    shadowed = np.flatnonzero(pages.look[:, 3])
    where, light = _to(shadowed, device), _light(_to(pages.look[shadowed, 3:], device), pages.side).half()
    for channel in range(3):
        first, last = paper[:, channel, None, None], ink[:, channel, None, None]
        value = torch.addcmul(first, coverage, last - first)
        if shadowed.size:
            value[where] = value[where] * light
        noise = torch.randn(coverage.shape, device=device, dtype=torch.float16, generator=generator)
        # Half a step more, because the conversion cuts off.
        out[..., channel] = value.addcmul_(noise, sigma).add_(0.5).clamp_(0, 255).to(torch.uint8)


def _light(shadow: Tensor, side: int) -> Tensor:
    """Return the brightness (m, side, side), 0..1, under shadows (m, 4): strength, direction, middle, width."""
    strength, direction, middle, width = (part[:, None, None] for part in shadow.unbind(1))
    place = (torch.arange(side, device=shadow.device) + 0.5) / side - 0.5
    along = direction.cos() * place[None, None] + direction.sin() * place[None, :, None]
    return 1 - strength * torch.sigmoid((along - middle) / width)


def _to(array: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
