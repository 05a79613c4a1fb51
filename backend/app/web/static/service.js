/** A refusal of the service: its stable code, its sentence, and after how many seconds to ask again, if it says. */
export class Refusal extends Error {
  constructor({ code, detail }, retryAfter) {
    super(detail);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** What passes by itself: the same request is taken later. */
const PASSING = new Set(["engine_not_ready", "queue_full", "too_many_tasks", "database_unavailable", "shutting_down", "result_not_ready"]);
const LONGEST_WAIT_SECONDS = 10;

let key = "";

/** Send this API key with every request from now on. */
export function useKey(value) {
  key = value;
}

/** Ask the service. Throws Refusal for an answer that is an error, TypeError when it cannot be reached. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  const response = await fetch(path.replace(/^\//, ""), { ...options, headers });
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Do `work`, again and again while the service is only busy or loading; `waiting` gets each such Refusal. */
export async function patiently(work, signal, waiting) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!PASSING.has(error.code)) throw error;
      waiting(error);
      await pause(1000 * Math.min(error.retryAfter || 1, LONGEST_WAIT_SECONDS), signal);
    }
  }
}

/** Resolve after a time; throws AbortError when `signal` ends it before. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

/**
 * Send a form to POST /api/ocr and report what is read while it is read.
 * `on` has delta(text), restart() and result(body); resolves after the result. Throws what `ask` throws, TypeError for
 * an answer that breaks off, and AbortError when `signal` stops it.
 */
export async function readPage(form, signal, on) {
  form.set("stream", "true");
  form.set("html", "true");
  const response = await ask("api/ocr", { method: "POST", body: form, signal });
  for await (const { event, data } of events(response.body)) {
    if (event === "delta") on.delta(data.text);
    else if (event === "restart") on.restart();
    else if (event === "error") throw new Refusal(data);
    else if (event === "result") return on.result(data);
  }
  throw new TypeError("the answer ended early");
}

/** Hand over a whole document; resolves to its task. Sent again with the same key, it stays one task. */
export async function submit(form, idempotencyKey, signal) {
  const headers = { "Idempotency-Key": idempotencyKey };
  return (await ask("api/ocr/pdf", { method: "POST", body: form, headers, signal })).json();
}

/** Report each page of a task after event `seen` as it is read: page(body, number of the event); resolves at the end. */
export async function follow(id, seen, signal, page) {
  const response = await ask(`api/tasks/${id}/events`, { headers: { "Last-Event-ID": `${seen}` }, signal });
  for await (const { event, data, id: number } of events(response.body)) {
    if (event === "page") page(data, number);
    else if (event === "end") return;
  }
  throw new TypeError("the answer ended early");
}

async function refusal(response) {
  const problem = await response.json().catch(() => ({}));
  const detail = typeof problem.detail === "string" ? problem.detail : `${response.status} ${response.statusText}`;
  return new Refusal({ code: problem.code, detail }, Number(response.headers.get("Retry-After")));
}

/** Yield the server-sent events of a body. */
async function* events(body) {
  let rest = "";
  for await (const text of chunks(body.pipeThrough(new TextDecoderStream()))) {
    const blocks = (rest + text).split(/\r\n\r\n|\n\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split(/\r?\n/).map((line) => line.split(/: ?(.*)/s)));
      if (fields.data) yield { ...fields, data: JSON.parse(fields.data) };
    }
  }
}

/** Safari's streams are no asynchronous iterators yet. */
async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {}); // who stops listening early closes the connection
  }
}
