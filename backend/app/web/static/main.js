import { showBoxes } from "./boxes.js";
import { addDocument, showDocuments } from "./documents.js";
import { acceptFiles, hasPages } from "./files.js";
import { readPage, Refusal, submit, useKey } from "./service.js";
import { makeTabs } from "./tabs.js";
import { say } from "./texts.js";
import { makeTheme } from "./theme.js";

const $ = (id) => document.getElementById(id);
const form = $("form");
const panels = { text: $("panel-text"), rendered: $("panel-rendered"), json: $("panel-json"), tables: $("panel-tables") };
const tabs = makeTabs(document.querySelector("[role=tablist]"));

let file = null;
let stopping = null;
let result = null;

makeTheme($("theme"));
acceptFiles({ pickers: [$("file"), $("camera")], drop: $("drop"), chosen: choose });
showHelp("mode");
showHelp("resolution");
form.addEventListener("submit", (event) => {
  event.preventDefault();
  read();
});
$("stop").addEventListener("click", () => stopping?.abort());
$("copy").addEventListener("click", copy);
$("save").addEventListener("click", save);
const key = $("key");
if (key) {
  key.value = sessionStorage.getItem("key") ?? "";
  useKey(key.value);
  key.addEventListener("change", () => {
    sessionStorage.setItem("key", key.value);
    useKey(key.value);
    listDocuments();
  });
}
$("whole")?.addEventListener("click", readWhole);
listDocuments();

async function listDocuments() {
  if (!$("documents") || (key && !key.value)) return;
  try {
    await showDocuments($("documents"), $("no-documents"));
  } catch (error) {
    complain(error);
  }
}

async function readWhole() {
  const data = new FormData(form);
  data.set("pdf", file);
  data.delete("page");
  $("whole").disabled = true;
  $("error").textContent = "";
  $("status").textContent = say("uploading");
  try {
    addDocument($("documents"), $("no-documents"), await submit(data));
    $("status").textContent = "";
    $("documents").firstElementChild.focus();
  } catch (error) {
    complain(error);
  } finally {
    $("whole").disabled = false;
  }
}

function complain(error) {
  $("status").textContent = "";
  $("error").textContent = error instanceof Refusal ? error.message : say("offline");
}

function choose(chosen) {
  stopping?.abort();
  file = chosen;
  $("file-name").textContent = file.name;
  $("pdf-fields").hidden = !hasPages(file);
  if ($("whole")) $("whole").hidden = !hasPages(file);
  clear();
  const image = $("image");
  URL.revokeObjectURL(image.src);
  image.onload = () => ($("picture").hidden = false);
  image.onerror = () => ($("no-preview").hidden = false);
  image.src = URL.createObjectURL(file);
}

function clear() {
  result = null;
  for (const panel of Object.values(panels)) panel.replaceChildren();
  $("boxes").replaceChildren();
  $("picture").hidden = $("no-preview").hidden = true;
  $("error").textContent = $("status").textContent = "";
  $("copy").disabled = $("save").disabled = true;
}

function showHelp(name) {
  const select = $(name);
  select?.addEventListener("change", update);
  if (select) update();
  function update() {
    $(`${name}-help`).textContent = select.selectedOptions[0].dataset.help;
    if (name !== "mode") return;
    for (const field of form.querySelectorAll("[data-for]")) field.hidden = field.dataset.for !== select.value;
  }
}

async function read() {
  if (!file) {
    $("error").textContent = say("no_file");
    $("file").focus();
    return;
  }
  const preview = !$("picture").hidden;
  clear();
  $("picture").hidden = !preview;
  $("no-preview").hidden = preview;
  const data = new FormData(form);
  data.set("image", file);
  const started = performance.now();
  stopping = new AbortController();
  working(true);
  $("status").textContent = say("uploading");
  try {
    await readPage(data, stopping.signal, {
      delta(text) {
        $("status").textContent = say("reading");
        panels.text.append(text);
      },
      restart() {
        panels.text.replaceChildren();
        $("status").textContent = say("restarted");
      },
      result: (body) => show(body, (performance.now() - started) / 1000),
    });
    if (!result) throw new TypeError("the answer ended early");
  } catch (error) {
    if (error.name === "AbortError") $("status").textContent = say("stopped");
    else complain(error);
  } finally {
    working(false);
  }
}

function working(on) {
  $("read").disabled = on;
  $("stop").hidden = !on;
  $("result").setAttribute("aria-busy", on);
}

function show(body, seconds) {
  result = body;
  const { page, pages } = body.metadata;
  const remarks = [say("done", { seconds: seconds.toFixed(1) })];
  if (pages > 1) remarks.push(say("page_of", { page, pages }));
  if (body.truncated) remarks.push(say("truncated"));
  if (body.looped) remarks.push(say("looped"));
  $("status").textContent = remarks.join(" ");
  showBoxes({ svg: $("boxes"), panel: panels.text, text: body.text, boxes: body.boxes, size: body.image_dims });
  panels.rendered.innerHTML = body.html; // sanitised by the service, and the page's policy lets no script run
  const tables = [...panels.rendered.querySelectorAll("table")].map((table) => table.cloneNode(true));
  panels.tables.replaceChildren(...(tables.length ? tables : [say("no_tables")]));
  panels.json.textContent = JSON.stringify(body, null, 2);
  $("copy").disabled = $("save").disabled = false;
}

async function copy() {
  await navigator.clipboard.writeText(tabs.current().id === "tab-json" ? panels.json.textContent : result.text);
  $("status").textContent = say("copied");
}

function save() {
  const json = tabs.current().id === "tab-json";
  const blob = new Blob([json ? panels.json.textContent : result.text], { type: json ? "application/json" : "text/plain" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${file.name.replace(/\.[^.]*$/, "")}.${json ? "json" : "txt"}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
