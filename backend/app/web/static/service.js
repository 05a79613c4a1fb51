/** A refusal of the service: its sentence, for people. */
export class Refusal extends Error {}

let key = "";

/** Send this API key with every request from now on. */
export function useKey(value) {
  key = value;
}

/** Ask the service. Throws Refusal for an answer that is an error, TypeError when it cannot be reached. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) throw new Refusal(await sentence(response));
  return response;
}

/**
 * Send a form to POST /api/ocr and report what is read while it is read.
 * `on` has delta(text), restart() and result(body); resolves after the result. Throws what `ask` throws, and AbortError
 * when `signal` stops it.
 */
export async function readPage(form, signal, on) {
  form.set("stream", "true");
  form.set("html", "true");
  const response = await ask("api/ocr", { method: "POST", body: form, signal });
  for await (const { event, data } of events(response.body)) {
    if (event === "delta") on.delta(data.text);
    else if (event === "restart") on.restart();
    else if (event === "error") throw new Refusal(data.detail);
    else if (event === "result") on.result(data);
  }
}

/** Hand over a whole document; resolves to its task. */
export async function submit(form) {
  return (await ask("api/ocr/pdf", { method: "POST", body: form })).json();
}

/** Report the pages of a task after event `seen` as they are read: page(body, seen), then end(task). */
export async function follow(id, seen, on) {
  const response = await ask(`api/tasks/${id}/events`, { headers: { "Last-Event-ID": seen } });
  for await (const { event, data, id: number } of events(response.body)) {
    if (event === "page") on.page(data, number);
    else if (event === "end") on.end(data);
  }
}

async function sentence(response) {
  try {
    const problem = await response.json();
    return typeof problem.detail === "string" ? problem.detail : `${response.status}`;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
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
    reader.releaseLock();
  }
}
