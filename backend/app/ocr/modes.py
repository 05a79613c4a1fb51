"""The one table of modes: what each is for, the prompt it sends and how its output is rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.errors import InvalidParameter

GROUNDING = "<|grounding|>"

# Published word for word by the authors of DeepSeek-OCR (README and inference scripts). There is no
# newline between the grounding token and the words.
FREE_OCR = "Free OCR."
OCR_WITH_BOXES = "OCR this image."
DOCUMENT = "Convert the document to markdown."
FIGURE = "Parse the figure."
DESCRIBE = "Describe this image in detail."
LOCATE = "Locate <|ref|>{find_term}<|/ref|> in the image."

DEFAULT_FIND_TERM = "Total"
DEFAULT_SCHEMA = "{}"
CAPTION = "Finish with one sentence that describes the whole image."


@dataclass(frozen=True)
class Mode:
    """One mode of `POST /api/ocr`.

    `grounded` modes always ask for boxes; the others do when the request says so, then with
    `boxed_prompt` where the authors publish another sentence for that. `labels` says what the
    labels of output tags are: the text read, or layout classes. `tables` keeps only the tables;
    `data` means that programs parse the text, so a Markdown fence around it is taken off.
    """

    name: str
    summary: str
    prompt: str
    grounded: bool = False
    boxed_prompt: str | None = None
    labels: Literal["text", "layout", "auto"] = "text"
    tables: Literal["csv", "markdown"] | None = None
    data: bool = False


_ALL = (
    Mode("plain_ocr", "The text of the page, line by line.", FREE_OCR, boxed_prompt=OCR_WITH_BOXES),
    Mode("markdown", "The page as Markdown, figures as links.", DOCUMENT, grounded=True, labels="layout"),
    Mode("tables_csv", "The tables of the page as CSV.", DOCUMENT, grounded=True, labels="layout", tables="csv"),
    Mode(
        "tables_md", "The tables of the page as Markdown.", DOCUMENT, grounded=True, labels="layout", tables="markdown"
    ),
    Mode(
        "kv_json",
        "Named fields as JSON, following the given schema.",
        "Read the fields of this document and answer with one JSON object only, following this schema:\n{schema}",
        labels="auto",
        data=True,
    ),
    Mode("figure_chart", "The data of a figure or chart.", FIGURE, labels="auto"),
    Mode("find_ref", "Where a term stands on the page.", LOCATE, grounded=True),
    Mode("layout_map", "The blocks of the page with their boxes.", DOCUMENT, grounded=True, labels="layout"),
    Mode(
        "pii_redact",
        "Personal data on the page, with boxes.",
        "Find every e-mail address, phone number, postal address and bank account number in the image.",
        grounded=True,
    ),
    Mode("multilingual", "Text in any script, as written.", FREE_OCR, boxed_prompt=OCR_WITH_BOXES),
    Mode("describe", "A description of the picture.", DESCRIBE, labels="auto"),
    Mode("freeform", "Your own prompt.", "{prompt}", labels="auto"),
)

MODES: dict[str, Mode] = {mode.name: mode for mode in _ALL}


def find_mode(name: str) -> Mode:
    """Return the mode called `name`; raises InvalidParameter naming those there are."""
    if name not in MODES:
        raise InvalidParameter(f"Unknown mode '{name[:40]}'. Use one of: {', '.join(MODES)}.")
    return MODES[name]


def build_prompt(
    mode: Mode,
    *,
    grounding: bool = False,
    prompt: str = "",
    find_term: str = DEFAULT_FIND_TERM,
    schema: str = DEFAULT_SCHEMA,
    include_caption: bool = False,
) -> str:
    """Return what the model reads after the picture.

    `prompt` counts in freeform only, `find_term` in find_ref, `schema` in kv_json.
    """
    boxed = mode.grounded or grounding
    sentence = (boxed and mode.boxed_prompt) or mode.prompt
    for placeholder, value in (
        ("{prompt}", prompt or FREE_OCR),
        ("{find_term}", find_term),
        ("{schema}", schema),
    ):
        if placeholder in sentence:
            sentence = sentence.replace(placeholder, value)
            break  # what a person wrote is never searched for placeholders
    if boxed and GROUNDING not in sentence and mode.prompt != LOCATE:
        sentence = GROUNDING + sentence
    if include_caption and mode.name != "describe":
        sentence = f"{sentence}\n{CAPTION}"
    return sentence


def prompt_template(mode: Mode) -> str:
    """Return the mode's prompt with {placeholders} for what a request fills in."""
    return build_prompt(mode, prompt="{prompt}", find_term="{find_term}", schema="{schema}")
