import { filesOf } from "./downloads.js";
import { fetchPicture } from "./pictures.js";
import { ask, follow, pause, Refusal } from "./service.js";
import { explain, say } from "./texts.js";
import { makeThumbs } from "./thumbs.js";

const $ = (id) => document.getElementById(id);
const [SMALL, LARGE] = [160, 1600];
const RECONNECT_MS = 1000;
const FORMATTED = new Set(["title", "table", "figure", "formula", "caption", "footnote", "header", "footer", "page_number"]);

/** A document in the place of the result: thumbnails, and the page chosen of them, in `page`. */
export function makeBook(page, downloads) {
  let task = null;
  let numbers = [];
  let current = 0;
  let formatted = null; // whether its text is Markdown, as its first page with text tells
  let states = new Map(); // number of a page -> "waiting", "read" or "failed"
  let closing = new AbortController();
  let turning = new AbortController();
  const path = (number) => `api/tasks/${task.task_id}/pages/${number}`;
  const thumbs = makeThumbs($("thumbs"), {
    draw: (number, signal) => fetchPicture(`${path(number)}/picture?width=${SMALL}`, signal),
    chosen: turn,
  });

  $("previous").addEventListener("click", () => turn(numbers[numbers.indexOf(current) - 1]));
  $("next").addEventListener("click", () => turn(numbers[numbers.indexOf(current) + 1]));
  $("page-number").addEventListener("change", ({ target }) => {
    if (numbers.includes(Number(target.value))) turn(Number(target.value));
    else target.value = current;
  });

  /** Show a task from a page on, the first if none is named, and its pages as they are read. */
  function open(opened, first) {
    close();
    task = opened;
    numbers = numbersOf(task.pages);
    current = 0;
    formatted = null;
    states = new Map();
    if (unfinished(task)) for (const number of numbers) states.set(number, "waiting");
    $("result-heading").textContent = task.name || say("unnamed");
    $("pager").hidden = numbers.length < 2;
    $("page-number").max = numbers.at(-1);
    $("page-total").textContent = say("of_pages", { total: numbers.at(-1) });
    thumbs.show(numbers, states);
    update(task);
    turn(first ?? numbers[0]);
    if (unfinished(task)) watch(closing.signal);
  }

  function close() {
    closing.abort();
    turning.abort();
    closing = new AbortController();
    task = null;
    thumbs.show([], new Map());
    $("pager").hidden = true;
    downloads.offer({});
  }

  /** Take in what the list of documents has learnt of the task. */
  async function update(newer) {
    if (newer.task_id !== task?.task_id) return;
    const began = unfinished(newer) && !unfinished(task);
    task = newer;
    if (began) return open(newer, current);
    if (unfinished(newer)) return;
    downloads.offer(filesOf(newer), { document: true });
    const { failed_pages: failed } = newer.progress.pages_failed ? await taskOf(newer.task_id) : { failed_pages: [] };
    for (const { page: number } of failed) states.set(number, "failed");
    thumbs.restate();
  }

  async function turn(number) {
    if (number === undefined || number === current) return;
    current = number;
    turning.abort();
    turning = new AbortController();
    const place = numbers.indexOf(number);
    $("previous").disabled = place === 0;
    $("next").disabled = place === numbers.length - 1;
    $("page-number").value = number;
    thumbs.select(number);
    await Promise.all([showPicture(number, turning.signal), showText(number, turning.signal)]);
  }

  async function showPicture(number, signal) {
    try {
      const address = await fetchPicture(`${path(number)}/picture?width=${LARGE}`, signal);
      if (signal.aborted) URL.revokeObjectURL(address);
      else page.showPicture(address);
    } catch (error) {
      if (!signal.aborted) page.noPicture(explain(error));
    }
  }

  async function showText(number, signal) {
    try {
      const body = await (await ask(path(number), { signal })).json();
      if (!body) page.showNote(say(unfinished(task) ? "page_waits" : "page_left_out"));
      else if (body.error) page.showNote(say("page_failed", { page: number, reason: explain(new Refusal(body.error)) }));
      else {
        formatted ??= body.blocks.length ? body.blocks.some(({ kind }) => FORMATTED.has(kind)) : null;
        page.show(shown(body), formatted);
      }
    } catch (error) {
      if (!signal.aborted) page.showNote(explain(error));
    }
  }

  async function watch(signal) {
    let seen = 0;
    while (!signal.aborted) {
      try {
        await follow(task.task_id, seen, signal, (body, event) => {
          seen = event;
          states.set(body.index + 1, body.error ? "failed" : "read");
          thumbs.restate();
          if (body.index + 1 === current && !page.read()) showText(current, turning.signal);
        });
        return await update(await taskOf(task.task_id));
      } catch (error) {
        if (signal.aborted || error.code === "task_not_found") return;
      }
      await pause(RECONNECT_MS);
    }
  }

  return { open, close, update, shows: (id) => task?.task_id === id };
}

function unfinished({ status }) {
  return status === "pending" || status === "running";
}

async function taskOf(id) {
  return (await ask(`api/tasks/${id}?pages=false`)).json();
}

/** Read ranges such as 1-3,7. */
function numbersOf(ranges) {
  return ranges.split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, place) => first + place);
  });
}

function shown({ html, blocks, ...json }) {
  return { ...json, text: json.markdown, html, blocks, json };
}
