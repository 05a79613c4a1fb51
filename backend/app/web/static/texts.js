const texts = JSON.parse(document.getElementById("texts").textContent);

/** Return a sentence of the page's language with its {places} filled. */
export function say(name, values = {}) {
  return texts[name].replace(/\{(\w+)\}/g, (place, key) => (key in values ? values[key] : place));
}
