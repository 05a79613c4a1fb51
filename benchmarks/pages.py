"""Seeded pictures of document pages whose text is known, in Latin and in Chinese script."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Script = Literal["latin", "chinese"]

FONT_ROOT = Path("/usr/share/fonts/truetype")
LATIN_FONTS = {
    "fonts-dejavu-core": ("dejavu/DejaVuSans.ttf", "dejavu/DejaVuSerif.ttf"),
    "fonts-liberation": (
        "liberation/LiberationSans-Regular.ttf",
        "liberation/LiberationSerif-Regular.ttf",
        "liberation/LiberationMono-Regular.ttf",
    ),
}
CHINESE_FONTS = {"fonts-wqy-microhei": ("wqy/wqy-microhei.ttc",)}

_WORD_LIST = (
    "account address after again amount annual answer area author autumn balance basis before below between bridge "
    "budget building business carbon centre change chapter city claim clear coast colour common company contract "
    "copper corner country credit current customer daily data decision delivery demand design detail district early "
    "east economy effect energy engine evening every example export factory farmer figure final forest fourth garden "
    "general glass government green growth harbour harvest health history hotel however important increase industry "
    "invoice island journey kitchen known laboratory language large later letter library little local machine market "
    "material measure meeting member method middle minute model month morning mountain music nature never north note "
    "number object office often open order other owner page paper part payment people period phone place plan plant "
    "point power present price problem process product program project public quality quarter question quickly railway "
    "reason receipt record region report result right river school science season second section service several short "
    "signal simple small south special spring station steel stone street student summer supply surface system table "
    "teacher theory thing thousand today total town trade train travel under union unit value village visit voice "
    "wagon water weather weekly west winter without wood world writing year zinc"
)
_SYLLABLE_LIST = (
    "ba be bo ca ce co da de do fa fe ga go ha he ja ka ke la le lo ma me mo na ne no pa pe ra re ro sa se so ta te to "
    "va ve vo wa ya za bri cla dre flo gra ner pol ran sil ton ver wex"
)
_HANZI = (
    "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还发成事只作"
    "当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工己话儿者向情部正名定女问"
    "力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑"
    "性通目华报立马命张活难神数件安表原车白应路期叫死常提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象记边共风战干接它许八特觉望直"
    "服毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联言权往展该领传近留红治决周保达办运武半候七必城父"
    "强步完革深区即求品士转量空甚众技轻程告江语英基派满式李息写呢识极令黄德收脸钱党倒未持取设始版双历越史商千片容研像找友孩站广改议形委早房音火际则首单"
    "据导影失拿网香似斯专石若兵弟谁校读志飞观争究包组造落视济喜离虽坏兴切投消注选参查器局"
)
_WORDS = _WORD_LIST.split()
_SYLLABLES = _SYLLABLE_LIST.split()
_PUNCTUATION = "，，，，、；："


@dataclass(frozen=True, eq=False)
class RenderedPage:
    """One picture and the text drawn on it, lines separated by newlines in reading order."""

    name: str
    script: Script
    image: Image.Image
    text: str


@dataclass(frozen=True)
class Sheet:
    """What a page is drawn on: its sides and margin in pixels, how much of its height is filled, in how many columns."""

    width: int = 1240
    height: int = 1754
    margin: int = 90
    fill: float = 1.0
    columns: tuple[int, ...] = (1, 1, 2)


A4 = Sheet()
"""At 150 dpi."""


@dataclass(frozen=True)
class _Style:
    regular: str
    size: int
    columns: int
    ink: int
    paper: int


class FontsMissing(RuntimeError):
    """A font package is not installed; the message names it."""


def render_pages(count: int, script: Script, seed: int, sheet: Sheet = A4) -> list[RenderedPage]:
    """Draw `count` pages; the same arguments give the same pages."""
    return [render_page(script, seed * 1000 + number, sheet) for number in range(count)]


def render_page(script: Script, seed: int, sheet: Sheet = A4) -> RenderedPage:
    """Draw one page: a heading and, where there is room, paragraphs below it in one or two columns, lightly noisy."""
    rng = random.Random(f"{script} {seed}")
    style = _Style(
        regular=rng.choice(_fonts(script)),
        size=rng.choice((20, 22, 24, 28, 32)),
        columns=rng.choice(sheet.columns),
        ink=rng.randint(0, 70),
        paper=rng.randint(235, 255),
    )
    image = Image.new("L", (sheet.width, sheet.height), style.paper)
    lines = _draw(image, style, script, rng, sheet)
    return RenderedPage(f"{script}-{seed}", script, _with_noise(image, seed), "\n".join(lines))


def character_error_rate(read: str, truth: str) -> float:
    """Levenshtein distance over the truth's length, runs of white space counted as one space."""
    errors, length = character_errors(read, truth)
    return errors / max(1, length)


def character_errors(read: str, truth: str) -> tuple[int, int]:
    """Return the Levenshtein distance and the truth's length, runs of white space counted as one space."""
    from rapidfuzz.distance import Levenshtein

    wanted = " ".join(truth.split())
    return Levenshtein.distance(" ".join(read.split()), wanted), len(wanted)


def line_errors(read: str, truth: str) -> tuple[int, int]:
    """Return the edits that make the lines read those of the truth in whatever order, and the truth's length.

    For readers without a notion of columns. Each true line takes the nearest line read that is left, equal ones
    first; lines left over count as errors in full.
    """
    from rapidfuzz.distance import Levenshtein

    left = [line for line in (" ".join(row.split()) for row in read.splitlines()) if line]
    wanted = [" ".join(line.split()) for line in truth.splitlines()]
    misread = []
    for line in wanted:
        if line in left:
            left.remove(line)
        else:
            misread.append(line)
    errors = 0
    for line in misread:
        nearest = min(left, key=lambda other: Levenshtein.distance(line, other), default="")
        distance = Levenshtein.distance(line, nearest)
        errors += min(distance, len(line))
        if nearest and distance < len(line):
            left.remove(nearest)
    return errors + sum(map(len, left)), sum(map(len, wanted))


def _fonts(script: Script) -> list[str]:
    found = []
    for package, names in (LATIN_FONTS if script == "latin" else CHINESE_FONTS).items():
        for name in names:
            if not (FONT_ROOT / name).is_file():
                raise FontsMissing(f"{FONT_ROOT / name} is missing: install the Debian package {package}.")
            found.append(str(FONT_ROOT / name))
    return found


def _draw(image: Image.Image, style: _Style, script: Script, rng: random.Random, sheet: Sheet) -> list[str]:
    draw = ImageDraw.Draw(image)
    heading_font = ImageFont.truetype(style.regular, round(style.size * 1.7))
    font = ImageFont.truetype(style.regular, style.size)
    margin, gutter = sheet.margin, 60
    bottom = round(sheet.height * sheet.fill) - margin
    heading = _heading(script, rng)
    draw.text((margin, margin), heading, font=heading_font, fill=style.ink)
    lines = [heading]
    top = margin + round(style.size * 3.2)
    width = (image.width - 2 * margin - gutter * (style.columns - 1)) // style.columns
    for column in range(style.columns):
        left = margin + column * (width + gutter)
        y = top
        while y < bottom - 4 * style.size:
            for line in _wrap(_sentence_run(script, rng), font, width, script):
                if y > bottom - style.size:
                    break
                draw.text((left, y), line, font=font, fill=style.ink)
                lines.append(line)
                y += round(style.size * 1.55)
            y += round(style.size * 0.9)
    return lines


def _with_noise(image: Image.Image, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0.0, 4.0, (image.height, image.width))
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.float64) + noise, 0, 255).astype(np.uint8)).convert("RGB")


def _heading(script: Script, rng: random.Random) -> str:
    if script == "chinese":
        return "".join(rng.choice(_HANZI) for _ in range(rng.randint(5, 10)))
    return " ".join(_word(rng).capitalize() for _ in range(rng.randint(2, 4)))


def _sentence_run(script: Script, rng: random.Random) -> str:
    sentence = _chinese_sentence if script == "chinese" else _latin_sentence
    return (" " if script == "latin" else "").join(sentence(rng) for _ in range(rng.randint(2, 4)))


def _word(rng: random.Random) -> str:
    if rng.random() < 0.8:
        return rng.choice(_WORDS)
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 4)))


def _latin_sentence(rng: random.Random) -> str:
    words = []
    for _ in range(rng.randint(6, 14)):
        kind = rng.random()
        if kind < 0.06:
            words.append(
                rng.choice(
                    (
                        f"{rng.randint(2, 9999)}",
                        f"{rng.randint(1, 99)}.{rng.randint(0, 99):02d}",
                        f"{rng.randint(1, 99)}%",
                    )
                )
            )
        elif kind < 0.10:
            words.append(f"({_word(rng)})")
        elif kind < 0.20:
            words.append(_word(rng) + rng.choice(",,;:"))
        elif kind < 0.24:
            words.append(_word(rng).upper())
        else:
            words.append(_word(rng))
    text = " ".join(words).rstrip(",;:")
    return text[0].upper() + text[1:] + rng.choice("....?!")


def _chinese_sentence(rng: random.Random) -> str:
    pieces = []
    for _ in range(rng.randint(2, 4)):
        piece = "".join(rng.choice(_HANZI) for _ in range(rng.randint(4, 12)))
        if rng.random() < 0.15:
            piece += str(rng.randint(2, 2030))
        pieces.append(piece)
    text = pieces[0]
    for piece in pieces[1:]:
        text += rng.choice(_PUNCTUATION) + piece
    return text + rng.choice("。。。？！")


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, script: Script) -> list[str]:
    """Break at spaces, or between any two Chinese characters but before no punctuation mark."""
    units = text.split(" ") if script == "latin" else list(text)
    glue = " " if script == "latin" else ""
    lines = [units[0]]
    for unit in units[1:]:
        hangs = script == "chinese" and unit in "，、；：。？！"
        if hangs or font.getlength(lines[-1] + glue + unit) <= width:
            lines[-1] += glue + unit
        else:
            lines.append(unit)
    return lines
