// @ts-check
/** Tabs: a row of buttons, each of which shows another content in the same place. */

import { make } from "../../text.js";
import { loadStyle, newId } from "./form.js";
import { button } from "./panel.js";

/** @typedef {{ id: string, label: string, draw: (place: HTMLElement) => unknown }} Tab */

/**
 * Makes a row of tabs and the place that they fill. None is chosen yet.
 *
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
    buttons.forEach((other, index) => {
      other.setAttribute("aria-selected", String(index === chosen));
      other.tabIndex = index === chosen ? 0 : -1;
    });
    place.setAttribute("aria-label", tabs[chosen].label);
    return tabs[chosen].draw(place);
  };
  const buttons = tabs.map((tab, index) => {
    const chooser = button(tab.label, "tab");
    chooser.id = tab.id;
    chooser.setAttribute("role", "tab");
    chooser.setAttribute("aria-controls", place.id);
    chooser.addEventListener("click", () => choose(index));
    chooser.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      event.preventDefault();
      const backKey = getComputedStyle(row).direction === "rtl" ? "ArrowRight" : "ArrowLeft";
      const steps = event.key === backKey ? tabs.length - 1 : 1;
      const next = (index + steps) % tabs.length;
      choose(next);
      buttons[next].focus();
    });
    return chooser;
  });
  row.append(...buttons);
  return { row, place, choose };
}
