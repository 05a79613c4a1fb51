const KEY = "theme";

/** Let a button turn the page light or dark; until it is used, the system's choice holds. */
export function makeTheme(button) {
  apply(localStorage.getItem(KEY));
  button.addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "light dark"
      ? matchMedia("(prefers-color-scheme: dark)").matches
      : document.documentElement.dataset.theme === "dark";
    const theme = dark ? "light" : "dark";
    localStorage.setItem(KEY, theme);
    apply(theme);
  });
}

function apply(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}
