/** Take a file from the pickers, a drop anywhere on the page, or the clipboard, and hand it to `chosen`. */
export function acceptFiles({ pickers, drop, chosen }) {
  for (const picker of pickers) {
    picker.addEventListener("change", () => {
      if (picker.files.length) chosen(picker.files[0]);
      picker.value = "";
    });
  }
  let depth = 0; // dragenter and dragleave come for every element under the pointer
  const over = (change) => {
    depth = Math.max(0, depth + change);
    drop.classList.toggle("over", depth > 0);
  };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    over(0);
    if (event.dataTransfer.files.length) chosen(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) chosen(file);
  });
}

/** Say whether a file has pages to choose from: a PDF or a TIFF. */
export function hasPages(file) {
  return /\.(pdf|tiff?)$/i.test(file.name) || ["application/pdf", "image/tiff"].includes(file.type);
}
