import { element } from "./dom.js";
import { pause } from "./service.js";
import { say } from "./texts.js";

const AROUND = 3;
const REST_MS = 120;
const STATES = { read: "thumb_read", waiting: "thumb_waiting", failed: "thumb_failed" };

/**
 * A strip of pages to choose from, of which only those in sight exist: a book of thousands costs no more than a letter.
 * `draw(number, signal)` resolves to the address of a small picture, `chosen(number)` is called for a page chosen.
 */
export function makeThumbs(strip, { draw, chosen }) {
  const list = strip.querySelector("ol");
  const shown = new Map(); // place in the strip -> {item, button, stop}
  let numbers = [];
  let states = new Map();
  let current = -1;
  let asked = false;

  strip.addEventListener("scroll", refreshSoon);
  new ResizeObserver(refreshSoon).observe(strip);
  list.addEventListener("keydown", (event) => {
    const next = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    chosen(numbers[Math.max(0, Math.min(numbers.length - 1, current + next))]);
    shown.get(current)?.button.focus();
  });

  function refreshSoon() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      refresh();
    });
  }

  function refresh() {
    const step = stepOf(strip);
    const [start, length] = across(strip) ? [strip.scrollLeft, strip.clientWidth] : [strip.scrollTop, strip.clientHeight];
    const first = Math.max(0, Math.floor(start / step) - AROUND);
    const last = Math.min(numbers.length - 1, Math.ceil((start + length) / step) + AROUND);
    const wanted = new Set(length ? Array.from({ length: last - first + 1 }, (_, place) => first + place) : []);
    if (current >= 0 && length) wanted.add(current); // so that the Tab key finds it
    for (const place of [...shown.keys()]) if (!wanted.has(place)) drop(place);
    for (const place of [...wanted].sort((one, other) => one - other)) if (!shown.has(place)) add(place);
  }

  function add(place) {
    const number = numbers[place];
    const stopping = new AbortController();
    const image = element("img", { alt: "" });
    const button = element("button", { type: "button" }, element("span", { className: "sheet" }, image), `${number}`);
    button.addEventListener("click", () => chosen(number));
    const item = element("li", {}, button);
    item.style.setProperty("--at", place);
    item.setAttribute("aria-setsize", numbers.length);
    item.setAttribute("aria-posinset", place + 1);
    const after = [...shown.keys()].filter((other) => other > place).sort((one, other) => one - other)[0];
    list.insertBefore(item, shown.get(after)?.item ?? null);
    shown.set(place, { item, button, image, stopping });
    label(place);
    fill(number, image, stopping.signal);
  }

  async function fill(number, image, signal) {
    try {
      await pause(REST_MS, signal); // what only rushes past is not asked for
      image.src = await draw(number, signal);
    } catch {
      // The number stands there; the large picture says what is wrong.
    }
  }

  function drop(place) {
    const { item, image, stopping } = shown.get(place);
    stopping.abort();
    URL.revokeObjectURL(image.src);
    item.remove();
    shown.delete(place);
  }

  function label(place) {
    const { button } = shown.get(place);
    const state = states.get(numbers[place]) ?? "read";
    button.dataset.state = state;
    button.tabIndex = place === current ? 0 : -1;
    button.setAttribute("aria-label", say(STATES[state], { page: numbers[place] }));
    if (place === current) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }

  return {
    /** Show these pages; `states` has "waiting" or "failed" for those that are not read. */
    show(pages, stated) {
      for (const place of [...shown.keys()]) drop(place);
      [numbers, states, current] = [pages, stated, -1];
      strip.hidden = pages.length < 2;
      list.style.setProperty("--count", pages.length);
      strip.scrollTo(0, 0);
      refresh();
    },
    /** Mark a page as the one that is looked at, and bring it into sight. */
    select(number) {
      const before = current;
      current = numbers.indexOf(number);
      const step = stepOf(strip);
      const [start, length] = across(strip) ? [strip.scrollLeft, strip.clientWidth] : [strip.scrollTop, strip.clientHeight];
      const to = Math.min(Math.max(start, (current + 1) * step - length), current * step);
      if (across(strip)) strip.scrollLeft = to;
      else strip.scrollTop = to;
      refresh();
      for (const place of [before, current]) if (shown.has(place)) label(place);
    },
    /** Say that the states have changed. */
    restate() {
      for (const place of shown.keys()) label(place);
    },
  };
}

function across(strip) {
  return getComputedStyle(strip).getPropertyValue("--across").trim() === "1";
}

function stepOf(strip) {
  return parseFloat(getComputedStyle(strip).getPropertyValue("--step"));
}
