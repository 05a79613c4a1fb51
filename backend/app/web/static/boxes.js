import { say } from "./texts.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * Draw boxes over the picture and their text in the panel, each lighting up the other: pointer, keyboard and touch.
 * `boxes` are {label, box: [x1, y1, x2, y2]} in pixels of a picture of `size` {w, h}.
 */
export function showBoxes({ svg, panel, text, boxes, size }) {
  svg.setAttribute("viewBox", `0 0 ${size.w} ${size.h}`);
  const rects = boxes.map(({ label, box: [x1, y1, x2, y2] }, number) => {
    const rect = document.createElementNS(SVG, "rect");
    const place = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    for (const [name, value] of Object.entries(place)) rect.setAttribute(name, value);
    rect.setAttribute("tabindex", "0");
    rect.setAttribute("role", "img");
    rect.setAttribute("aria-label", say("box", { number: number + 1, label }));
    return rect;
  });
  svg.replaceChildren(...rects);
  const { nodes, marks } = markText(text, boxes);
  panel.replaceChildren(...nodes);
  rects.forEach((rect, number) => link(rect, marks[number]));
}

/** Return the text as nodes, with a <mark> for each box whose label stands in it, in reading order. */
function markText(text, boxes) {
  const nodes = [];
  const marks = [];
  let at = 0;
  boxes.forEach(({ label }, number) => {
    const start = label ? text.indexOf(label, at) : -1;
    if (start < 0) return;
    const mark = document.createElement("mark");
    mark.textContent = label;
    mark.tabIndex = 0;
    nodes.push(text.slice(at, start), mark);
    marks[number] = mark;
    at = start + label.length;
  });
  nodes.push(text.slice(at));
  return { nodes, marks };
}

function link(rect, mark) {
  const both = [rect, mark].filter(Boolean);
  const light = (on) => both.forEach((one) => one.classList.toggle("on", on));
  for (const one of both) {
    const other = one === rect ? mark : rect;
    for (const name of ["pointerenter", "focus"]) one.addEventListener(name, () => light(true));
    for (const name of ["pointerleave", "blur"]) one.addEventListener(name, () => light(false));
    one.addEventListener("click", () => other?.scrollIntoView({ block: "nearest", behavior: "smooth" }));
  }
}
