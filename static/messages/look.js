// @ts-check
/**
 * How the page looks on this device: theme, size of texts, language, and what Enter does, as the settings have stored them.
 *
 * This is no module: it runs before the page is drawn for the first time, so that nobody sees another look. It looks again at
 * each event `look`.
 */
{
  const KEY = "imserver:look";
  const DARK = "(prefers-color-scheme: dark)";
  const root = document.documentElement;

  /** @returns {{ theme?: "light" | "dark", size?: number, language?: string, enter?: "send" | "line" }} missing: that of the system or browser */
  const stored = () => {
    try {
      return JSON.parse(localStorage.getItem(KEY) ?? "{}");
    } catch {
      return {}; // no storage
    }
  };

  const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
  /** The rules of the style sheets for dark themes. */
  const darkRules = rules.flatMap((rule) => (rule instanceof CSSMediaRule && rule.conditionText === DARK ? [rule] : []));
  /** The colours of the browser around the page, with the media for which the page has them. */
  const colours = [...document.querySelectorAll("meta[name=theme-color]")].map((meta) => ({ meta, media: meta.getAttribute("media") ?? "" }));

  const show = () => {
    const { theme, size, enter } = stored();
    // The keyboard of a phone has no Shift + Enter.
    const isPhone = matchMedia("(hover: none) and (pointer: coarse)").matches;
    root.dataset.enter = enter ?? (isPhone ? "line" : "send");
    root.style.colorScheme = theme ?? "";
    root.style.fontSize = size ? `${size}%` : "";
    // A chosen theme replaces the question whether the system has a dark one.
    const mediaIf = (/** @type {boolean} */ isUsed) => (isUsed ? "all" : "not all");
    for (const { media } of darkRules) media.mediaText = theme ? mediaIf(theme === "dark") : DARK;
    for (const { meta, media } of colours) {
      const isOfTheme = (media === DARK) === (theme === "dark");
      meta.setAttribute("media", theme ? mediaIf(isOfTheme) : media);
    }
  };

  const address = new URL(location.href);
  const { language } = stored();
  // The server has sent another language than the stored one: the page is loaded again, hidden meanwhile.
  if (language && !root.lang.startsWith(language) && address.searchParams.get("lang") !== language) {
    root.hidden = true;
    address.searchParams.set("lang", language);
    location.replace(address);
  }
  show();
  addEventListener("look", show);
  addEventListener("storage", ({ key }) => {
    if (key === KEY) show(); // changed in another tab
  });
  // A link to another language changes the stored one, if there is one.
  addEventListener("click", ({ target }) => {
    const link = target instanceof Element ? target.closest("a.language") : null;
    if (link instanceof HTMLAnchorElement && stored().language) localStorage.setItem(KEY, JSON.stringify({ ...stored(), language: link.hreflang }));
  });
}
