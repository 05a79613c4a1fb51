import { ask, follow } from "./service.js";
import { say } from "./texts.js";

const RECONNECT_MS = 1000;
const shown = new Map();

/** Show the newest documents of the service in `list`; `empty` is shown while there are none. */
export async function showDocuments(list, empty) {
  const { tasks } = await (await ask("api/tasks?limit=20")).json();
  for (const task of tasks.reverse()) addDocument(list, empty, task);
}

/** Put a document at the head of the list and follow it to its end. */
export function addDocument(list, empty, task) {
  if (shown.has(task.task_id)) return;
  const entry = makeEntry(task, () => {
    shown.delete(task.task_id);
    entry.node.remove();
    empty.hidden = shown.size > 0;
  });
  shown.set(task.task_id, entry);
  list.prepend(entry.node);
  empty.hidden = true;
}

function makeEntry(first, remove) {
  let task = first;
  let watched = false;
  const node = element("li", { tabIndex: -1 });
  const bar = element("progress", { max: task.progress.total });
  bar.setAttribute("aria-label", say("task_progress", { name: task.name }));
  const state = element("p");
  const pages = element("ul", { className: "pages", hidden: true });
  const buttons = element("p", { className: "buttons" });
  node.append(element("h3", { textContent: task.name }), bar, state, buttons, pages);

  const act = (path, method) => async () => {
    try {
      const response = await ask(`api/tasks/${task.task_id}${path}`, { method });
      if (method === "DELETE") remove();
      else update(await response.json());
    } catch (error) {
      state.textContent = error.message;
    }
  };

  function update(newer) {
    task = newer;
    const { current: done, total } = task.progress;
    const running = ["pending", "running"].includes(task.status);
    bar.value = done;
    bar.hidden = !running;
    state.textContent = describe(task);
    buttons.replaceChildren();
    const button = (name, path, method) => {
      const made = element("button", { type: "button", textContent: say(name) });
      made.addEventListener("click", act(path, method));
      buttons.append(made);
    };
    if (running) button("task_cancel", "/cancel", "POST");
    if (task.status === "succeeded") {
      buttons.append(showPages(), ...downloads());
    }
    if (!running && (task.status === "failed" || task.failed_pages.length)) button("task_retry", "/retry", "POST");
    if (!running) button("task_delete", "", "DELETE");
    if (running && !watched) watch();
    else if (running) bar.max = total;
  }

  async function watch() {
    watched = true;
    bar.value = 0; // every page so far is told again
    let seen = "0";
    let ended = null;
    while (!ended) {
      try {
        await follow(task.task_id, seen, {
          page(body, number) {
            seen = number;
            bar.value = Math.min(bar.max, bar.value + 1);
            state.textContent = say("task_running", { done: bar.value, total: bar.max });
          },
          end: (body) => (ended = body),
        });
      } catch (error) {
        state.textContent = error.message;
      }
      if (!ended) await new Promise((resume) => setTimeout(resume, RECONNECT_MS));
      if (!node.isConnected) return;
    }
    watched = false;
    update(ended);
  }

  function showPages() {
    const made = element("button", { type: "button", textContent: say("task_open") });
    made.setAttribute("aria-expanded", !pages.hidden);
    made.addEventListener("click", async () => {
      if (!pages.childElementCount) await fill();
      pages.hidden = !pages.hidden;
      made.setAttribute("aria-expanded", !pages.hidden);
    });
    return made;
  }

  async function fill() {
    const { result } = await (await ask(`api/tasks/${task.task_id}`)).json();
    for (const page of result.pages) {
      const number = page.index + 1;
      const words = page.error ? say("task_page_failed", { page: number, reason: page.error.detail }) : say("task_page", { page: number });
      const item = element("li");
      item.append(element("h4", { textContent: words }), page.markdown);
      pages.append(item);
    }
  }

  function downloads() {
    const files = { task_markdown: task.result.markdown_url, task_raw: task.result.raw_json_url, task_archive: task.result.archive_url };
    return Object.entries(files).map(([name, url]) => {
      const made = element("button", { type: "button", textContent: say(name) });
      made.addEventListener("click", () => download(url));
      return made;
    });
  }

  update(task);
  return { node };
}

function describe(task) {
  const { current: done, total } = task.progress;
  const failed = task.failed_pages.length;
  if (task.error_code === "cancelled") return say("task_cancelled", { done, total });
  if (task.status === "failed") return say("task_failed", { reason: task.error_message });
  if (task.status === "pending") return say("task_pending");
  if (task.status === "running") return say("task_running", { done, total });
  return failed ? say("task_some_failed", { failed, total }) : say("task_succeeded", { total });
}

/** Fetch a file with the key, which a link would not send, and save it under its name. */
async function download(url) {
  const response = await ask(url.replace(/^\//, ""));
  const link = element("a", { href: URL.createObjectURL(await response.blob()) });
  link.download = decodeURIComponent(url.split("/").pop());
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}
