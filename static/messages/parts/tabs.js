// @ts-check
/** Tabs: a row of buttons, each of which shows another content in the same place. */

import { make } from "../../text.js";
import { loadStyle, newId } from "./form.js";
import { button } from "./panel.js";

/** @typedef {{ id: string, label: string, draw: (place: HTMLElement) => unknown }} Tab */

/**
 * @param {string} label  of the row
 * @param {Tab[]} tabs    `draw` fills the place when the tab is chosen
 * @returns {{ row: HTMLElement, place: HTMLElement, choose: (index: number) => unknown }}  `choose`: what `draw` returns
 */
export function makeTabs(label, tabs) {
  loadStyle(new URL("../later/tabs.css", import.meta.url));
  const place = make("div", "tab-place");
  place.id = newId();
  place.setAttribute("role", "tabpanel");
  const row = make("div", "tabs");
  row.setAttribute("role", "tablist");
  row.setAttribute("aria-label", label);
  const choose = (/** @type {number} */ chosen) => {
    buttons.forEach((each, index) => {
      each.setAttribute("aria-selected", String(index === chosen));
      each.tabIndex = index === chosen ? 0 : -1;
    });
    place.setAttribute("aria-label", tabs[chosen].label);
    return tabs[chosen].draw(place);
  };
  const buttons = tabs.map((tab, index) => {
    const made = button(tab.label, "tab");
    made.id = tab.id;
    made.setAttribute("role", "tab");
    made.setAttribute("aria-controls", place.id);
    made.addEventListener("click", () => choose(index));
    made.addEventListener("keydown", (event) => {
      const isBack = getComputedStyle(row).direction === "rtl" ? "ArrowRight" : "ArrowLeft";
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      event.preventDefault();
      const next = (index + (event.key === isBack ? tabs.length - 1 : 1)) % tabs.length;
      choose(next);
      buttons[next].focus();
    });
    return made;
  });
  row.append(...buttons);
  return { row, place, choose };
}
