/** Take files from the pickers, a drop anywhere on the page, or the clipboard, and hand them to `chosen`. */
export function acceptFiles({ pickers, drop, chosen }) {
  for (const picker of pickers) {
    picker.addEventListener("change", () => {
      const files = [...picker.files];
      picker.value = "";
      if (files.length) chosen(files);
    });
  }
  let depth = 0; // dragenter and dragleave come for every element under the pointer
  const over = (change) => {
    depth = Math.max(0, depth + change);
    drop.classList.toggle("over", depth > 0);
  };
  const holdsFiles = (event) => event.dataTransfer.types.includes("Files");
  document.addEventListener("dragenter", (event) => holdsFiles(event) && over(1));
  document.addEventListener("dragleave", (event) => holdsFiles(event) && over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    over(0);
    if (event.dataTransfer.files.length) chosen([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) chosen([...event.clipboardData.files]);
  });
}

/** Say whether a file is a PDF. */
export function isPdf(file) {
  return /\.pdf$/i.test(file.name) || file.type === "application/pdf";
}

/** Say whether a file has pages to choose from: a PDF or a TIFF. */
export function hasPages(file) {
  return isPdf(file) || /\.tiff?$/i.test(file.name) || file.type === "image/tiff";
}

/** Resolve to whether the browser can show what is at an address. */
export function canShow(address) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(true);
    image.onerror = () => resolve(false);
    image.src = address;
  });
}
