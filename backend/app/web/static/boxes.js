import { rove } from "./dom.js";
import { say } from "./texts.js";

const SVG = "http://www.w3.org/2000/svg";
const LONGEST_LABEL = 120;

/**
 * Return what stands where on a page: {id, text, label, boxes}, in reading order. A block's id is its number, which the
 * page's HTML has as data-block; boxes of no block follow, whose label is their text.
 */
export function regionsOf({ blocks, boxes }) {
  const key = (box) => box.join();
  const regions = blocks.map(({ text, label, boxes: places }, id) => ({ id: `${id}`, text, label, boxes: places }));
  const known = new Set(regions.flatMap((region) => region.boxes.map(key)));
  const loose = boxes.filter(({ box }) => !known.has(key(box)));
  regions.push(...loose.map(({ label, box }, number) => ({ id: `loose-${number}`, text: label, label, boxes: [box] })));
  return regions.filter((region) => region.boxes.length);
}

/** Return a function that draws regions over a picture of `size` {w, h}. */
export function makeBoxes(svg) {
  const moved = rove(svg, "rect");
  return (regions, size) => {
    svg.setAttribute("viewBox", `0 0 ${size.w} ${size.h}`);
    svg.replaceChildren(...regions.flatMap((region, number) => region.boxes.map((box) => drawn(region, number + 1, box))));
    moved();
  };
}

function drawn({ id, text, label }, number, [x1, y1, x2, y2]) {
  const rect = document.createElementNS(SVG, "rect");
  const words = text.length > LONGEST_LABEL ? `${text.slice(0, LONGEST_LABEL)}…` : text;
  const attributes = {
    x: x1, y: y1, width: x2 - x1, height: y2 - y1, role: "button", "data-block": id,
    "aria-label": say("box", { number, label: words || label }),
  };
  for (const [name, value] of Object.entries(attributes)) rect.setAttribute(name, value);
  return rect;
}

/** Return `text` as nodes, with a <mark> for each region whose text stands in it. */
export function markText(text, regions) {
  const nodes = [];
  let at = 0;
  for (const [start, end, id] of places(text, regions)) {
    if (start < at) continue;
    const mark = document.createElement("mark");
    mark.dataset.block = id;
    mark.textContent = text.slice(start, end);
    nodes.push(text.slice(at, start), mark);
    at = end;
  }
  nodes.push(text.slice(at));
  return nodes;
}

/** Find the regions in the text: blocks come in its order, and so do loose boxes, but not both together. */
function places(text, regions) {
  const found = [];
  const from = { block: 0, loose: 0 };
  for (const { id, text: words } of regions) {
    const kind = id.startsWith("loose") ? "loose" : "block";
    const start = words ? text.indexOf(words, from[kind]) : -1;
    if (start < 0) continue;
    from[kind] = start + words.length;
    found.push([start, from[kind], id]);
  }
  return found.sort((one, other) => one[0] - other[0]);
}

/** Light up what belongs together in `root` under the pointer, with the focus, and on a click, which brings it into view. */
export function linkRegions(root) {
  const of = (event) => event.target.closest("[data-block]")?.dataset.block;
  const light = (id) => {
    for (const lit of root.querySelectorAll(".on")) lit.classList.remove("on");
    if (id === undefined) return;
    for (const one of root.querySelectorAll(`[data-block="${CSS.escape(id)}"]`)) one.classList.add("on");
  };
  const follow = (event) => {
    const own = event.target.closest("[data-block]");
    if (!own) return;
    const picture = own.matches("rect");
    for (const one of root.querySelectorAll(".on")) {
      if (one.matches("rect") !== picture && one.checkVisibility?.() !== false) {
        one.scrollIntoView({ block: "nearest", inline: "nearest" });
        return;
      }
    }
  };
  for (const name of ["pointerover", "focusin"]) root.addEventListener(name, (event) => light(of(event)));
  root.addEventListener("pointerleave", () => light(root.querySelector("[data-block]:focus")?.dataset.block));
  root.addEventListener("click", (event) => {
    light(of(event));
    follow(event);
  });
  root.addEventListener("keyup", (event) => {
    if (event.key === "Enter" || event.key.startsWith("Arrow")) follow(event);
  });
}
