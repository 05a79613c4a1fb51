import { linkRegions, makeBoxes, markText, regionsOf } from "./boxes.js";
import { element, rove } from "./dom.js";
import { makeTabs } from "./tabs.js";
import { say } from "./texts.js";

const $ = (id) => document.getElementById(id);
const WIDE = 1.8; // width over height from which a picture stands above its text, not beside it
const ZOOM = { step: 1.25, least: 0.5, most: 8 };

/** One page: its picture with its boxes, and what was read of it, linked both ways. */
export function makePage() {
  const panels = Object.fromEntries(["text", "rendered", "json", "tables"].map((name) => [name, $(`panel-${name}`)]));
  const drawBoxes = makeBoxes($("boxes"));
  const marksChanged = rove(panels.text, "mark");
  let wanted = null; // the tab that a person chose
  const tabs = makeTabs(document.querySelector("[role=tablist]"), () => (wanted = tabs.current()));
  let body = null;
  let zoom = 1;

  linkRegions($("result"));
  $("copy").addEventListener("click", copy);
  $("zoom-in").addEventListener("click", () => setZoom(zoom * ZOOM.step));
  $("zoom-out").addEventListener("click", () => setZoom(zoom / ZOOM.step));
  $("image").addEventListener("load", () => {
    const { naturalWidth: width, naturalHeight: height } = $("image");
    $("picture").style.setProperty("--aspect", width / height);
    $("panes").classList.toggle("wide", width > WIDE * height);
    $("picture").hidden = false;
  });

  function setZoom(wanted) {
    zoom = Math.min(ZOOM.most, Math.max(ZOOM.least, wanted));
    $("picture").style.setProperty("--zoom", zoom);
  }

  /** Take away what was read; the picture stays. */
  function clear() {
    body = null;
    for (const panel of Object.values(panels)) panel.replaceChildren();
    $("boxes").replaceChildren();
    $("copy").disabled = true;
  }

  /** Show a picture by its address, or none. */
  function showPicture(address) {
    URL.revokeObjectURL($("image").src);
    setZoom(1);
    $("result").classList.remove("empty");
    $("no-picture").hidden = true;
    $("picture").hidden = true;
    if (address) $("image").src = address;
    else $("image").removeAttribute("src");
    $("view").scrollTo(0, 0);
  }

  function noPicture(why) {
    $("result").classList.remove("empty");
    $("picture").hidden = true;
    $("no-picture").textContent = why;
    $("no-picture").hidden = false;
  }

  /** Show what was read: {text, boxes, blocks, html, image_dims, json}; `formatted` says that the text is Markdown. */
  function show(read, formatted) {
    body = read;
    const regions = regionsOf(read);
    drawBoxes(regions, read.image_dims);
    panels.text.replaceChildren(...markText(read.text, regions));
    marksChanged();
    panels.rendered.innerHTML = read.html; // sanitised by the service, and the page's policy lets no script run
    const known = new Set(regions.map(({ id }) => id));
    for (const part of panels.rendered.querySelectorAll("[data-block]")) {
      if (!known.has(part.dataset.block)) part.removeAttribute("data-block");
    }
    showTables();
    panels.json.textContent = JSON.stringify(read.json, null, 2);
    $("copy").disabled = false;
    tabs.show(wanted ?? (formatted ? "rendered" : "text"));
    for (const panel of Object.values(panels)) panel.scrollTo(0, 0);
  }

  function showTables() {
    const tables = [...panels.rendered.querySelectorAll("table")].map((table) => {
      const scroll = element("div", { className: "table" }, table.cloneNode(true));
      const block = table.closest("[data-block]");
      if (block) scroll.dataset.block = block.dataset.block;
      return scroll;
    });
    panels.tables.replaceChildren(...(tables.length ? tables : [element("p", { className: "hint", textContent: say("no_tables") })]));
  }

  /** Show text that is still being read; its end stays in sight unless a person has scrolled away from it. */
  function showLive(text) {
    const panel = panels.text;
    const atEnd = panel.scrollTop + panel.clientHeight > panel.scrollHeight - 50;
    tabs.show("text");
    panel.textContent = text;
    if (atEnd) panel.scrollTop = panel.scrollHeight;
  }

  /** Say in place of the text why there is none. */
  function showNote(note) {
    clear();
    panels[tabs.current()].append(element("p", { className: "hint", textContent: note }));
  }

  async function copy() {
    const kind = tabs.current();
    const cells = (row) => [...row.cells].map((cell) => cell.innerText.replace(/\s+/g, " ")).join("\t");
    const rows = [...panels.tables.querySelectorAll("tr")].map(cells).join("\n");
    await copyText(kind === "json" ? panels.json.textContent : kind === "tables" && rows ? rows : body.text);
    $("status").textContent = say("copied");
  }

  return { clear, show, showLive, showPicture, noPicture, showNote, read: () => body };
}

/** Put text on the clipboard, also where the page came over plain HTTP, in which browsers have no clipboard object. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", { value: text, className: "unseen" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
