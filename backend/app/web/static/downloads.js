import { element, save } from "./dom.js";
import { ask, patiently } from "./service.js";
import { explain, formatName, say } from "./texts.js";

/** A menu of files; `status` tells what becomes of a download. */
export function makeDownloads(menu, status) {
  const list = menu.querySelector("ul");
  const tidy = menu.querySelector("fieldset");
  const close = () => (menu.open = false);
  document.addEventListener("click", (event) => menu.contains(event.target) || close());
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    close();
    menu.querySelector("summary").focus();
  });

  /** Offer files: `files` has by format a function that saves it; `document` offers to tidy its pages. */
  function offer(files, { document = false } = {}) {
    const names = Object.keys(files);
    menu.hidden = !names.length;
    tidy.hidden = !document;
    list.replaceChildren(...names.map((format) => element("li", {}, entry(format, files[format]))));
  }

  function entry(format, get) {
    const button = element("button", { type: "button", textContent: formatName(format) });
    button.dataset.format = format;
    button.addEventListener("click", async () => {
      close();
      menu.querySelector("summary").focus();
      status(say("preparing", { format: formatName(format) }));
      try {
        await get(status, choices());
        status(say("saved", { format: formatName(format) }));
      } catch (error) {
        status(explain(error));
      }
    });
    return button;
  }

  /** Return what is ticked, as the service's query. */
  function choices() {
    return new URLSearchParams([...tidy.querySelectorAll(":checked")].map(({ name }) => [name, "true"]));
  }

  return { offer };
}

/** Return what saves each of a task's files, by format: the service writes most when they are first asked for. */
export function filesOf(task) {
  const files = Object.entries(task.result?.files ?? {});
  return Object.fromEntries(files.map(([format, url]) => [format, (status, query) => download(url, status, query)]));
}

async function download(url, status, query) {
  const response = await patiently(() => ask(query.size ? `${url}?${query}` : url), undefined, (error) => status(explain(error)));
  save(await response.blob(), nameOf(response) ?? decodeURIComponent(url.split("/").pop()));
}

function nameOf(response) {
  const header = response.headers.get("Content-Disposition") ?? "";
  const encoded = /filename\*=utf-8''([^;]+)/i.exec(header);
  return encoded ? decodeURIComponent(encoded[1]) : /filename="([^"]+)"/.exec(header)?.[1];
}
