import { Refusal } from "./service.js";

const { script, problems, formats } = JSON.parse(document.getElementById("texts").textContent);

/** Return a sentence of the page's language with its {places} filled. */
export function say(name, values = {}) {
  return fill(script[name], values);
}

/** Return what went wrong and what to do, in the page's language; the service's own sentence where there is no other. */
export function explain(error) {
  if (!(error instanceof Refusal)) return say("offline");
  return fill(problems[error.code] ?? "{detail}", { detail: error.message });
}

function fill(sentence, values) {
  return sentence.replace(/\{(\w+)\}/g, (place, key) => (key in values ? values[key] : place));
}

/** Return a format's name for people; one that the page does not know, as the service names it. */
export function formatName(format) {
  return formats[format] ?? format;
}
