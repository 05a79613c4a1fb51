/** Make an element with properties and children. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Let a browser save a blob under a name. */
export function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/**
 * Make one stop of the Tab key of the elements in `root` that match `selector`; arrows, Home and End move between them.
 * Call the function returned when they have changed.
 */
export function rove(root, selector) {
  const all = () => [...root.querySelectorAll(selector)];
  root.addEventListener("keydown", (event) => {
    const list = all();
    const at = list.indexOf(document.activeElement);
    const next = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (next === undefined || at < 0) return;
    event.preventDefault();
    list.at(next % list.length).focus();
  });
  root.addEventListener("focusin", ({ target }) => {
    if (!target.matches(selector)) return;
    for (const one of all()) one.setAttribute("tabindex", one === target ? 0 : -1);
  });
  return () => all().forEach((one, place) => one.setAttribute("tabindex", place ? -1 : 0));
}
