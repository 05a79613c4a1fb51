"""The documentation is whole and true: nothing is missing, no link is dead, and the commands do what is shown.

Tables are read as tables: what a page says of a setting, a field or a code stands in the row that begins with it.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shlex
import signal
import subprocess
import sys
from itertools import pairwise
from typing import Any

import psutil
import pytest
import yaml
from pydantic import BaseModel

from app.api.metrics import Metrics
from app.api.problems import Problem
from app.api.process import ProcessedDocument, ProcessedPage, ProcessMetadata
from app.api.schemas import HealthResponse, IndexResponse, ModeJson, ModesResponse, OcrResponse
from app.batch.arguments import add_arguments
from app.engine.rapidocr.engine import RapidOcrEngine
from app.engine.vllm_loading import vllm_version
from app.errors import ServiceError
from app.main import create_app
from app.ocr.modes import DEFAULT_FIND_TERM, DEFAULT_SCHEMA, MODES, build_prompt, prompt_template
from app.ocr.resolution import RESOLUTIONS
from app.results.writers import FORMATS
from app.settings import Settings
from tests.pages import PAGES, anchors, blocks, codes, page, prose, rows, section
from tests.process import ROOT, served
from tests.serving import make_settings

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))

# A box's edge is where the detector's mask ends, grown by a margin in proportion. Processors round the mask's
# arithmetic differently: one mask pixel, which is a pixel of the sample page, moves an edge by two or three.
# The rounding to 1/999 adds one.
BOX_TOLERANCE = 4

_NUMBERS = re.compile(r"(?<=[\[,])\d+(?=[\],])")


def error_classes(root: type[ServiceError] = ServiceError) -> list[type[ServiceError]]:
    """The whole tree, without what other tests add to it."""
    children = [child for child in root.__subclasses__() if child.__module__ == root.__module__]
    return [root, *(kind for child in children for kind in error_classes(child))]


def make_targets() -> set[str]:
    """The targets of the Makefile that are names, not files."""
    return set(re.findall(r"^([a-z][a-z-]*):", page("Makefile"), re.MULTILINE))


def test_every_setting_is_documented_with_its_default():
    """And no setting is that does not exist."""
    found = rows(page("docs/configuration.md"))
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = str(default).lower() if isinstance(default, bool) else default
        assert found[name.upper()][0] == ("empty" if default in ((), "") else f"`{shown}`"), name
    elsewhere = set(re.findall(r"\$\{(\w+)", page("docker-compose.yml"))) | set(
        COMPOSE["services"]["backend-direct"]["build"]["args"]
    )
    assert set(found) == {name.upper() for name in Settings.model_fields} | elsewhere


def test_every_route_is_documented():
    """And no route is that does not exist."""
    app = create_app(make_settings())
    published = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    assert set(rows(section("docs/api.md", "## Routes"))) == published | {"GET /docs", "GET /openapi.json"}


def test_every_form_field_is_documented_with_its_default():
    """Those that are null in the OpenAPI file get theirs from the settings and the table of modes."""
    schemas = create_app(make_settings()).openapi()["components"]["schemas"]
    fields = schemas["Body_read_picture_api_ocr_post"]["properties"]
    table = section("docs/api.md", "## POST /api/ocr").partition("### Response")[0]
    documented = {name: cells[1] for name, cells in rows(table).items()}
    assert set(documented) == set(fields)
    for name, field in fields.items():
        if "default" in field:
            default = field["default"]
            shown = str(default).lower() if isinstance(default, bool) else default
            assert documented[name] == (f"`{shown}`" if shown != "" else "empty"), name
    settings = make_settings()
    assert {name: documented[name] for name, field in fields.items() if "default" not in field} == {
        "image": "required",
        "find_term": f"`{DEFAULT_FIND_TERM}`",
        "schema": f"`{DEFAULT_SCHEMA}`",
        "base_size": f"`{settings.base_size}`",
        "image_size": f"`{settings.image_size}`",
        "crop_mode": f"`{str(settings.crop_mode).lower()}`",
        "resolution": "empty",
        "max_tokens": "the engine's own",
    }


def keys_of(model: type[BaseModel]) -> list[str]:
    """Every key of a model's JSON, those of nested objects after a dot, of objects in a list after `[]`."""
    schema = model.model_json_schema()

    def walk(properties: dict[str, Any], prefix: str) -> list[str]:
        names = []
        for name, found in properties.items():
            inner = found.get("items", found).get("$ref", "").rpartition("/")[2]
            mark = "[]" if "items" in found else ""
            below = walk(schema["$defs"][inner]["properties"], f"{prefix}{name}{mark}.") if inner else []
            names += below or [f"{prefix}{name}"]
        return names

    return walk(schema["properties"], "")


def test_every_response_key_is_documented():
    """Of a page read, of a problem, and of the smaller routes."""
    response = section("docs/api.md", "### Response")
    table = rows(response)
    for name in keys_of(OcrResponse):
        parent, _, child = name.rpartition(".")
        assert name in table or child in codes(table[parent][1]), name
    assert set(rows(section("docs/api.md", "## Errors"))) >= set(Problem.model_fields)
    others = set(codes(section("docs/api.md", "## Other routes")))
    for model in (ModesResponse, ModeJson, IndexResponse, HealthResponse):
        assert set(model.model_fields) <= others, model.__name__


def test_every_error_code_is_documented_for_callers_and_for_operators():
    """With its status and the time to wait; and no code is that does not exist."""
    kinds = {kind.code: kind for kind in error_classes()}
    table = {name: cells for name, cells in rows(section("docs/api.md", "## Errors")).items() if cells[0].isdigit()}
    assert set(table) == set(kinds)
    headings = set(re.findall(r"^### (\w+)$", section("docs/troubleshooting.md", "## Errors by code"), re.MULTILINE))
    assert headings == set(kinds)
    for code, kind in kinds.items():
        assert table[code][0] == str(kind.status), code
        waits = re.findall(r"Retry-After (\d+)", table[code][1])
        assert waits == ([str(kind.default_retry_after)] if kind.default_retry_after else []), code
        assert f"{kind.status}" in section("docs/troubleshooting.md", f"### {code}"), code


def test_every_field_and_key_of_a_document_read_at_once_is_documented():
    """Those it shares with the other routes stand there."""
    text = section("docs/api.md", "## POST /api/process-pdf")
    schemas = create_app(make_settings()).openapi()["components"]["schemas"]
    own = set(schemas["Body_process_document_api_process_pdf_post"]["properties"])
    own -= set(schemas["Body_read_document_api_ocr_pdf_post"]["properties"])
    table = rows(text)
    assert own <= set(table)
    said = set(codes(text))
    for model in (ProcessedDocument, ProcessMetadata):
        assert set(model.model_fields) - {"pages"} <= said
    assert {f"pages[].{name}" for name in ProcessedPage.model_fields} <= said


def test_every_file_of_a_task_is_documented():
    """Under its format, and what may be added to its address."""
    files = {cells[0]: name for name, cells in rows(section("docs/api.md", "### Files")).items() if cells[0]}
    names = {f"`{form.name}`": form.file_name for form in FORMATS.values()}
    assert {form: name for form, name in files.items() if form in names} == {
        **names,
        "`archive`": "NAME_PDF_OCR_Result.zip",
    }
    [download] = [
        methods["get"] for path, methods in create_app(make_settings()).openapi()["paths"].items() if "download" in path
    ]
    asked = {field["name"]: field["schema"]["default"] for field in download["parameters"] if field["in"] == "query"}
    shown = {name: f"`{str(default).lower()}`" if default != "" else "empty" for name, default in asked.items()}
    documented = rows(section("docs/api.md", "### Files"))
    assert {name: documented[name][0] for name in shown} == shown


def test_every_metric_is_documented_with_its_type_and_labels():
    """Under the name that Prometheus sees."""
    table = rows(section("docs/deployment.md", "## Metrics"))
    metrics = Metrics(lambda: 0, lambda: True)
    published = {}
    for collector in metrics.registry._collector_to_names:
        [family] = collector.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        published[name] = (family.type, list(getattr(collector, "_labelnames", ())))
    assert {name: (cells[0], codes(cells[1])) for name, cells in table.items()} == published


def test_every_log_event_is_documented():
    """As operators grep for it."""
    logged = set()
    for path in (ROOT / "backend/app").rglob("*.py"):
        logged |= set(re.findall(r"\blog\.\w+\(\s*\"(\w+)", path.read_text(encoding="utf-8")))
        logged |= set(re.findall(r"\blevel\(\s*\"(\w+)", path.read_text(encoding="utf-8")))
    assert "request" in logged
    assert set(rows(section("docs/deployment.md", "## Logs"))) == logged


def test_every_mode_is_documented_with_its_prompt_and_what_rapidocr_makes_of_it():
    """The prompts are those that are sent."""
    text = section("docs/api.md", "## Modes")
    able = RapidOcrEngine().capabilities().modes
    modes = rows(text.partition("### Prompts")[0])
    prompts = rows(text.partition("### Prompts")[2])
    for name, mode in MODES.items():
        assert modes[name][0] == mode.summary, name
        assert modes[name][3].partition(",")[0] == ("yes" if name in able else "no"), name
        shown = [prompt.replace("\\n", "\n") for prompt in codes(prompts[name][0])]
        assert shown[0] == prompt_template(mode), name
        if mode.boxed_prompt:
            assert shown[-1] == build_prompt(mode, grounding=True), name


def test_every_resolution_is_documented_with_its_numbers():
    """The five that are published."""
    table = rows(section("docs/api.md", "## Resolutions"))
    for name, it in RESOLUTIONS.items():
        assert table[name] == [str(it.base_size), str(it.image_size), str(it.crop_mode).lower()]


def test_every_make_target_is_documented_and_every_one_named_exists():
    """In any page."""
    documented = {name for name in rows(page("docs/architecture.md")) if name.startswith("make ")}
    assert documented == {f"make {target}" for target in make_targets()}
    for name in PAGES:
        commands = [
            *codes(prose(name)),
            *(line for kind, text in blocks(name) if kind == "sh" for line in text.split("\n")),
        ]
        for command in commands:
            if named := re.match(r"make ([a-z-]+)", command):
                assert named[1] in make_targets(), f"{name}: {command}"


def test_the_modules_in_the_architecture_page_exist():
    """A document that lists files which do not exist misleads."""
    for name in rows(section("docs/architecture.md", "## Modules")):
        assert (ROOT / "backend/app" / name).exists(), name


@pytest.mark.parametrize("name", PAGES)
def test_no_link_or_picture_is_dead(name):
    """Files and headings; pictures are our own."""
    for mark, target in re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", prose(name)):
        if target.startswith("https://"):
            assert not mark, f"picture from elsewhere: {target}"
            continue
        path, _, fragment = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if fragment:
            assert fragment in anchors(file.resolve().relative_to(ROOT).as_posix()), target


def test_both_readmes_have_the_same_code_and_link_each_other():
    """A translation must not show other commands."""
    assert blocks("README.md") == blocks("README.zh-CN.md")
    assert "](README.zh-CN.md)" in page("README.md")
    assert "](README.md)" in page("README.zh-CN.md")


def test_the_pictures_are_small():
    """A README loads at once."""
    assert (ROOT / "docs/images/at-work.png").stat().st_size < 300_000
    assert (ROOT / "docs/images/sample.png").stat().st_size < 50_000


def commands(kind: str) -> list[Any]:
    """Every command of a kind in a page's sh blocks, with the block of output that follows it, if any."""
    found = []
    for name in PAGES:
        in_page = [*blocks(name), ("", "")]
        for (language, text), output in pairwise(in_page):
            if language != "sh":
                continue
            for command in text.replace("\\\n", " ").split("\n"):
                if command.strip() and command_kind(command) == kind:
                    found.append(pytest.param(command, output, id=f"{name}: {' '.join(command.split())[:100]}"))
    return found


def command_words(command: str) -> list[str]:
    """The words of a command without the variables that are set before it."""
    words = shlex.split(command)
    return words[next(at for at, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)) :]


def command_kind(command: str) -> str:
    words = command_words(command)
    if words[0] == ".venv/bin/deepseek-ocr":
        return "deepseek-ocr"
    if words[0] == "docker":
        return f"docker {words[1]}" if words[1] in ("compose", "exec") else "?"
    return words[0] if words[0] in ("make", "curl") else "?"


def test_every_shown_command_is_of_a_kind_that_is_tested():
    """The tests below take make, docker compose, docker exec, curl and the command of our own."""
    assert [found.id for found in commands("?")] == []


@pytest.mark.parametrize(("command", "output"), commands("make"))
def test_make_commands_can_be_run(command, output):
    """Make knows how; `make serve` is run below, and what the others do is tested elsewhere."""
    words = shlex.split(command)
    ended = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(("command", "output"), commands("docker compose"))
def test_compose_commands_name_profiles_and_services_that_exist(command, output):
    """Without a Docker engine this is what can be known."""
    words = shlex.split(command.partition(" | ")[0])[2:]
    profiles = {profile for service in COMPOSE["services"].values() for profile in service.get("profiles", [])}
    if words[0] == "--profile":
        assert words[1] in profiles
        words = words[2:]
    action, *rest = words
    assert action in {"up", "down", "logs", "build"}
    assert {word for word in rest if not word.startswith("-")} <= set(COMPOSE["services"])


@pytest.mark.parametrize(("command", "output"), commands("docker exec"))
def test_commands_for_inside_the_container_name_what_is_there(command, output):
    """Containers, our own commands, files of the image; Python is compiled, and runs where vLLM is installed."""
    options, container, program, *arguments = shlex.split(command)[2:]
    assert options == "-it"
    assert container in {service["container_name"] for service in COMPOSE["services"].values()}
    if program == "deepseek-ocr":
        assert arguments[0] in {"doctor", "serve", "api-key", "openapi"}
    elif program == "ls":
        assert (ROOT / "backend" / arguments[-1].removeprefix("/app/")).exists()
    elif program == "python":
        assert arguments[0] == "-c"
        compile(arguments[1], "command", "exec")
        if vllm_version() is not None:
            run_python(arguments[1])
    else:
        assert [program, *arguments] == ["bash"]


@functools.cache
def run_python(command: str) -> None:
    """Run it once, however many pages show it: vLLM takes long to import."""
    subprocess.run([sys.executable, "-c", command], check=True, timeout=300, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(("command", "output"), commands("deepseek-ocr"))
def test_commands_of_our_own_have_the_arguments_there_are(command, output):
    """What `read` does with them is tested in tests/batch."""
    _, action, *arguments = command_words(command)
    assert action == "read"
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    parser.parse_args(arguments)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Started by the README's first command, stopped by Ctrl-C as it says. The set-up is that of the running tests."""
    make, *words = shlex.split(next(text for kind, text in blocks("README.md") if kind == "sh"))
    set_up = ["--old-file", f"{sys.prefix}/.runtime"]
    command = [make, "--makefile", str(ROOT / "Makefile"), *set_up, *words]
    with served(tmp_path_factory.mktemp("docs") / "service.log", command=command, venv=sys.prefix) as running:
        family = psutil.Process(running.process.pid).children(recursive=True)
        assert any(process.cmdline()[1:] == ["-m", "app", "serve"] for process in family)
        yield running
        for process in (*reversed(family), running.process):  # to all of them, as a terminal does
            process.send_signal(signal.SIGINT)
        running.process.wait(timeout=60)
        assert not psutil.wait_procs(family, timeout=10)[1]
    log = running.log.read_text(encoding="utf-8")
    assert "service_stopped" in log
    assert "Traceback" not in log


@pytest.mark.slow
@pytest.mark.parametrize(("command", "output"), commands("curl"))
def test_curl_commands_print_what_is_shown(command, output, service):
    """Against the real engine; times and request ids differ, box edges may by a few pixels."""
    language, shown = output
    words = shlex.split(command.replace("http://localhost:8001", service.url))
    ended = subprocess.run(
        ["curl", "--silent", "--show-error", "--noproxy", "*", *words[1:]], cwd=ROOT, capture_output=True, timeout=60
    )
    printed = ended.stdout.decode()
    assert ended.returncode == 0, ended.stderr
    if language == "json":
        assert_same(json.loads(shown), json.loads(printed), "")
    else:
        assert re.fullmatch(trimmed(shown), printed.replace("\r\n", "\n").rstrip("\n"), re.DOTALL), printed


def assert_same(shown: Any, printed: Any, key: str) -> None:
    """Compare an answer with the one in a page, where "..." stands for anything."""
    if isinstance(shown, dict):
        assert list(shown) == list(printed), key
        for name in shown:
            assert_same(shown[name], printed[name], f"{key}.{name}")
    elif key.endswith(".box"):
        assert all(abs(a - b) <= BOX_TOLERANCE for a, b in zip(shown, printed, strict=True)), (key, printed)
    elif isinstance(shown, list):
        assert len(shown) == len(printed), key
        for number, (mine, theirs) in enumerate(zip(shown, printed, strict=True)):
            assert_same(mine, theirs, f"{key}[{number}]")
    elif key == ".raw_text" and shown != "...":
        assert _NUMBERS.sub("0", shown) == _NUMBERS.sub("0", printed)
        edges = [[int(number) for number in _NUMBERS.findall(text)] for text in (shown, printed)]
        assert all(abs(a - b) <= BOX_TOLERANCE for a, b in zip(*edges, strict=True)), printed
    elif shown != "..." and key != ".request_id" and not key.startswith(".timing."):
        assert shown == printed, key


def trimmed(shown: str) -> str:
    """A pattern for text in which `...` at the end of a line stands for anything."""
    pattern = re.escape(shown).replace(re.escape("...\n"), ".*")
    return re.sub(re.escape(re.escape("...")) + r"\Z", ".*", pattern)
