import { rove } from "./dom.js";

/** Make the buttons of a tablist show their panels, by click and by keyboard; `chosen` is called when a person did. */
export function makeTabs(list, chosen) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const current = () => tabs.find((tab) => tab.getAttribute("aria-selected") === "true");
  const show = (shown) => {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", tab === shown);
      tab.tabIndex = tab === shown ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== shown;
    }
  };
  rove(list, "[role=tab]");
  for (const name of ["click", "focusin"]) {
    list.addEventListener(name, (event) => {
      const tab = event.target.closest("[role=tab]");
      if (!tab || tab === current()) return;
      show(tab);
      chosen();
    });
  }
  return { current: () => current().id.replace("tab-", ""), show: (name) => show(document.getElementById(`tab-${name}`)) };
}
