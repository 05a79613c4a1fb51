import { ask } from "./service.js";

const MOST_AT_ONCE = 3;
const waiting = [];
let running = 0;

/** Fetch a picture with the key, which <img> would not send; resolves to the address of a blob, to be revoked. */
export async function fetchPicture(path, signal) {
  await turn();
  try {
    signal.throwIfAborted();
    return URL.createObjectURL(await (await ask(path, { signal })).blob());
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}

function turn() {
  running += 1;
  return running > MOST_AT_ONCE ? new Promise((resume) => waiting.push(resume)) : undefined;
}
