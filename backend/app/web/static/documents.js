import { element } from "./dom.js";
import { ask, pause, Refusal } from "./service.js";
import { explain, say } from "./texts.js";

const POLL_MS = 1000;
const PATH = "api/tasks?limit=20";

/**
 * The list of the service's documents. `open(task)` is called for the one a person chooses, `changed(task)` for each that
 * is heard of again, `removed(id)` for one that was deleted.
 */
export function makeDocuments({ list, empty, more, problem }, { open, changed, removed }) {
  const entries = new Map();
  let older = null;
  let polling = false;
  more.addEventListener("click", () => attempt(() => load(`${PATH}&cursor=${encodeURIComponent(older)}`, true)));

  /** Show the newest documents. */
  async function start() {
    await attempt(() => load(PATH, true));
  }

  async function load(path, further) {
    const { tasks, next_cursor: next } = await (await ask(path)).json();
    for (const task of tasks) put(task);
    if (further) older = next;
    more.hidden = !older;
    poll();
  }

  async function attempt(work) {
    try {
      await work();
      problem.textContent = "";
    } catch (error) {
      problem.textContent = explain(error);
    }
  }

  function put(task) {
    const known = entries.get(task.task_id);
    if (known) {
      if (known.update(task)) changed(task);
      return;
    }
    const entry = makeEntry(task, { open, act });
    entries.set(task.task_id, entry);
    const next = [...entries.values()].find(({ created }) => created() < task.created_at);
    list.insertBefore(entry.node, next?.node ?? null);
    sort();
    empty.hidden = true;
  }

  function sort() {
    const newestFirst = [...entries].sort(([, one], [, other]) => (one.created() < other.created() ? 1 : -1));
    entries.clear();
    for (const [id, entry] of newestFirst) entries.set(id, entry);
  }

  function act(task, path, method) {
    return attempt(async () => {
      const response = await ask(`api/tasks/${task.task_id}${path}`, { method });
      if (method !== "DELETE") put(await response.json());
      else remove(task.task_id);
      poll();
    });
  }

  function remove(id) {
    const { node } = entries.get(id);
    const next = node.nextElementSibling ?? node.previousElementSibling;
    entries.delete(id);
    node.remove();
    next?.querySelector("button").focus();
    empty.hidden = entries.size > 0;
    removed(id);
  }

  /** Ask once a second for as long as there is something to wait for: one question for all documents. */
  async function poll() {
    if (polling) return;
    polling = true;
    while ([...entries.values()].some((entry) => entry.unfinished())) {
      await pause(POLL_MS);
      await attempt(refresh);
    }
    polling = false;
  }

  async function refresh() {
    const { tasks } = await (await ask(PATH)).json();
    for (const task of tasks) put(task);
    const seen = new Set(tasks.map((task) => task.task_id));
    for (const [id, entry] of entries) {
      if (entry.unfinished() && !seen.has(id)) put(await (await ask(`api/tasks/${id}?pages=false`)).json());
    }
  }

  /** Add a document that was just handed over. */
  function add(task) {
    put(task);
    poll();
  }

  return { start, add };
}

function makeEntry(first, { open, act }) {
  let task = first;
  let since = null; // when it had how many pages, to tell how long the rest takes
  const title = element("button", { type: "button", className: "title", textContent: task.name || say("unnamed") });
  title.addEventListener("click", () => open(task));
  const bar = element("progress");
  bar.setAttribute("aria-label", say("task_progress", { name: task.name }));
  const state = element("p", { className: "hint" });
  const button = (name, path, method, sure) => {
    const made = element("button", { type: "button", className: "small", textContent: say(name) });
    made.setAttribute("aria-label", `${say(name)}: ${task.name}`);
    made.addEventListener("click", () => (sure && !confirm(say(sure, { name: task.name })) ? undefined : act(task, path, method)));
    return made;
  };
  const [cancel, retry, forget] = [
    button("task_cancel", "/cancel", "POST"), button("task_retry", "/retry", "POST"), button("task_delete", "", "DELETE", "task_sure"),
  ];
  const node = element("li", {}, title, state, bar, element("p", { className: "buttons" }, cancel, retry, forget));

  function unfinished() {
    return task.status === "pending" || task.status === "running";
  }

  /** Take in a newer state; says whether it is another than before. */
  function update(newer) {
    const same = newer.updated_at === task.updated_at && newer.status === task.status;
    task = newer;
    const { current: done, total, pages_failed: failed } = task.progress;
    if (!unfinished()) since = null;
    else if (task.status === "running") since ??= { at: performance.now(), done };
    Object.assign(bar, { max: total, value: done, hidden: !unfinished() });
    state.textContent = [describe(task), unfinished() ? timeLeft(since, done, total) : ""].join(" ").trim();
    cancel.hidden = !unfinished();
    retry.hidden = unfinished() || !(failed || task.status === "failed");
    forget.hidden = unfinished();
    return !same;
  }

  update(first);
  return { node, update, unfinished, created: () => task.created_at };
}

function describe(task) {
  const { current: done, total, pages_failed: failed } = task.progress;
  if (task.error_code === "cancelled") return say("task_cancelled", { done, total });
  if (task.status === "failed") return say("task_failed", { reason: explain(new Refusal({ code: task.error_code, detail: task.error_message })) });
  if (task.status === "pending") return say("task_pending");
  if (task.status === "running") return say("task_running", { done: Math.min(done + 1, total), total });
  if (failed) return say("task_some_failed", { failed, total });
  return total === 1 ? say("task_succeeded_one") : say("task_succeeded", { total });
}

function timeLeft(since, done, total) {
  if (!since || done <= since.done) return "";
  const seconds = ((performance.now() - since.at) / 1000 / (done - since.done)) * (total - done);
  if (seconds < 60) return say("left_seconds", { seconds: Math.max(1, Math.round(seconds)) });
  if (seconds < 5400) return say("left_minutes", { minutes: Math.round(seconds / 60) });
  return say("left_hours", { hours: Math.round(seconds / 3600) });
}
