import { makeBook } from "./book.js";
import { save } from "./dom.js";
import { makeDocuments } from "./documents.js";
import { makeDownloads } from "./downloads.js";
import { acceptFiles, canShow, hasPages, isPdf } from "./files.js";
import { livingText } from "./live.js";
import { makePage } from "./page.js";
import { patiently, readPage, submit, useKey } from "./service.js";
import { explain, say } from "./texts.js";
import { makeTheme } from "./theme.js";

const $ = (id) => document.getElementById(id);
const form = $("form");
const LAYOUT = new Set(["markdown", "layout_map", "tables_csv", "tables_md"]); // whose boxes are classes
const page = makePage();
const downloads = makeDownloads($("downloads"), tell);
const book = makeBook(page, downloads);
const documents = $("documents") && makeDocuments(
  { list: $("documents"), empty: $("no-documents"), more: $("more-documents"), problem: $("documents-problem") },
  { open: openDocument, changed: book.update, removed: (id) => book.shows(id) && reset() },
);

let files = [];
let shows = Promise.resolve(false); // whether the browser can show the file
let preview = null; // the file whose picture is wanted
let stopping = null;
const keys = new Map(); // file -> idempotency key of an upload whose answer did not arrive

makeTheme($("theme"));
acceptFiles({ pickers: [$("file"), $("camera")], drop: $("drop"), chosen: choose });
for (const name of ["mode", "resolution"]) showHelp($(name), $(`${name}-help`));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  read();
});
form.addEventListener("change", () => keys.clear());
$("stop").addEventListener("click", () => stopping?.abort());
rememberKey($("key"));
if (!$("key") || $("key").value) documents?.start();

function rememberKey(field) {
  if (!field) return;
  field.value = sessionStorage.getItem("key") ?? "";
  useKey(field.value);
  field.addEventListener("change", () => {
    sessionStorage.setItem("key", field.value);
    useKey(field.value);
    documents?.start();
  });
}

function showHelp(select, help) {
  const update = () => {
    help.textContent = select.selectedOptions[0].dataset.help;
    if (select.id !== "mode") return;
    for (const field of form.querySelectorAll("[data-for]")) field.hidden = field.dataset.for !== select.value;
  };
  select?.addEventListener("change", update);
  if (select) update();
}

function choose(chosen) {
  stopping?.abort();
  keys.clear();
  files = documents ? chosen : chosen.slice(0, 1);
  const [file] = files;
  $("file-name").textContent = files.length > 1 ? say("files", { count: files.length }) : file.name || say("unnamed");
  $("page-fields").hidden = !files.some(hasPages);
  $("pdf-fields").hidden = !files.some(isPdf);
  reset();
  if (files.length > 1) return;
  $("result-heading").textContent = file.name || say("unnamed");
  const address = URL.createObjectURL(file);
  preview = file;
  shows = canShow(address);
  shows.then((able) => {
    if (file !== preview) return;
    if (able) page.showPicture(address);
    else page.noPicture(say(documents ? "picture_later" : "no_picture"));
  });
}

function reset() {
  preview = null;
  book.close();
  page.clear();
  page.showPicture("");
  $("result").classList.add("empty");
  $("result-heading").textContent = say("result");
  tell("");
}

function openDocument(task) {
  stopping?.abort();
  preview = null;
  page.clear();
  tell("");
  book.open(task);
  $("result").scrollIntoView({ block: "nearest" });
  $("result").focus({ preventScroll: true });
}

async function read() {
  if (!files.length) {
    complain(say("no_file"));
    $("file").focus();
    return;
  }
  stopping = new AbortController();
  const { signal } = stopping;
  working(true);
  tell(say("uploading"));
  try {
    const whole = documents && (files.length > 1 || hasPages(files[0]) || !(await shows));
    await (whole ? readDocuments(signal) : readPicture(files[0], signal));
  } catch (error) {
    if (signal.aborted) tell(say("stopped"));
    else complain(explain(error));
  } finally {
    if (stopping?.signal === signal) working(false);
  }
}

async function readDocuments(signal) {
  const tasks = [];
  for (const file of files) {
    const data = new FormData(form);
    data.set("pdf", file);
    if (!hasPages(file)) data.delete("pages");
    if (!keys.has(file)) keys.set(file, newKey());
    tasks.push(await send(() => submit(data, keys.get(file), signal), signal));
    keys.delete(file);
    documents.add(tasks.at(-1));
  }
  openDocument(tasks[0]);
  tell(say("handed_over"));
}

async function readPicture(file, signal) {
  book.close();
  page.clear();
  page.showLive("");
  $("result").scrollIntoView({ block: "nearest" });
  $("result-heading").textContent = file.name || say("unnamed");
  const data = new FormData(form);
  data.set("image", file);
  for (const name of ["pages", "dpi", "password"]) if (!hasPages(file)) data.delete(name);
  const classes = LAYOUT.has(data.get("mode"));
  const started = performance.now();
  let raw = "";
  await send(() => readPage(data, signal, {
    delta(text) {
      if (!raw) tell(say("reading"));
      raw += text;
      page.showLive(livingText(raw, classes));
    },
    restart() {
      raw = "";
      page.showLive("");
      tell(say("restarted"));
    },
    result(body) {
      const { html, blocks, ...json } = body;
      page.show({ ...body, json }, classes);
      tell(remarks(body, (performance.now() - started) / 1000));
      downloads.offer(filesOf(file, body, json));
    },
  }), signal);
}

/** Send, again while the service is busy or loading: what was chosen is not lost. */
function send(work, signal) {
  return patiently(work, signal, (error) => tell(`${explain(error)} ${say("sent_again")}`));
}

function remarks({ metadata: { page: number, pages }, truncated, looped }, seconds) {
  const said = [say("done", { seconds: seconds.toFixed(1) })];
  if (pages > 1) said.push(say("page_of", { page: number, pages }));
  if (truncated) said.push(say("truncated"));
  if (looped) said.push(say("looped"));
  return said.join(" ");
}

/** What the page can make itself of a page that was read and not kept. */
function filesOf(file, { text }, json) {
  const stem = file.name.replace(/\.[^.]*$/, "") || say("unnamed");
  const make = (content, type, ending) => () => save(new Blob([content], { type }), `${stem}.${ending}`);
  return {
    text: make(text, "text/plain", "txt"),
    markdown: make(text, "text/markdown", "md"),
    json: make(JSON.stringify(json, null, 2), "application/json", "json"),
  };
}

function working(on) {
  $("read").disabled = on;
  $("stop").hidden = !on;
  $("busy").hidden = !on;
  $("result").setAttribute("aria-busy", on);
}

function tell(words) {
  $("error").textContent = "";
  $("status").textContent = words;
}

function complain(words) {
  $("status").textContent = "";
  $("error").textContent = words;
}

function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
