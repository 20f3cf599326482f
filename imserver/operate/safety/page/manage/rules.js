// @ts-check
/** The house rules, and the settings of the app that an owner may change while it runs. */

/** @typedef {import("./manage.js").Desk} Desk */

const MOST_CHARACTERS = 4_000;
/** Settings of `accounts` that are on or off. */
const SWITCHES = ["guests", "search", "show_emails", "ask_strangers"];

/** @param {Desk} desk */
export async function drawRules(desk) {
  const { page, session, words } = desk;
  const { button, make } = page;
  const [{ text }, shown] = await Promise.all([page.api("GET", "moderation/rules"), page.api("GET", "apps/show")]);
  const rules = Object.assign(make("textarea", ""), { value: text, maxLength: MOST_CHARACTERS, rows: 8, dir: "auto" });
  rules.placeholder = words.manage_rules_example;
  const save = button(words.messages_save, "wide");
  save.type = "submit";
  const label = make("label", "field-label", make("span", "", words.manage_house_rules), rules);
  const form = make("form", "panel-form safety-form", label, make("p", "muted", words.manage_rules_hint), save);
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    save.disabled = true;
    desk.attempt(async () => {
      await page.api("POST", "moderation/rules", { text: rules.value });
      page.toast(words.messages_saved);
    }).finally(() => { save.disabled = false; });
  });
  // A group of settings is changed as a whole, and an owner may not send what takes a key.
  const { factor_for: byKey = [], ...settings } = shown.accounts ?? {};
  const isFixed = shown.configured || byKey.length > 0;
  const switches = SWITCHES.filter((each) => each in settings).map((each) => {
    const box = Object.assign(make("input", ""), { type: "checkbox", checked: settings[each], disabled: isFixed });
    box.addEventListener("change", () => desk.attempt(async () => {
      const before = settings[each];
      try {
        settings[each] = box.checked;
        await page.api("POST", "apps/set", { settings: { accounts: settings } });
        page.toast(words.messages_saved);
      } catch (error) {
        settings[each] = before;
        box.checked = before;
        throw error;
      }
    }));
    return make("label", "safety-check", box, make("span", "", words[`manage_set_${each}`]));
  });
  const note = isFixed ? [make("p", "muted", words.manage_fixed)] : [];
  const fields = make("div", "panel-form safety-form", ...switches);
  return [form, make("section", "panel-section", make("h3", "label", words.manage_settings), ...note, fields)];
}
