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

  /** The rules of the style sheets for dark themes. */
  const dark = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]).filter((rule) => rule instanceof CSSMediaRule && rule.conditionText === DARK);
  const colours = [...document.querySelectorAll("meta[name=theme-color]")].map((meta) => ({ meta, isDark: meta.getAttribute("media") === DARK, media: meta.getAttribute("media") ?? "" }));

  const show = () => {
    const { theme, size, enter } = stored();
    root.dataset.enter = enter ?? (matchMedia("(hover: none) and (pointer: coarse)").matches ? "line" : "send"); // the keyboard of a phone has no Shift + Enter
    root.style.colorScheme = theme ?? "";
    root.style.fontSize = size ? `${size}%` : "";
    for (const rule of dark) if (rule instanceof CSSMediaRule) rule.media.mediaText = theme ? (theme === "dark" ? "all" : "not all") : DARK;
    for (const { meta, isDark, media } of colours) meta.setAttribute("media", theme ? (isDark === (theme === "dark") ? "all" : "not all") : media);
  };

  const address = new URL(location.href);
  const { language } = stored();
  if (language && !root.lang.startsWith(language) && address.searchParams.get("lang") !== language) {
    root.hidden = true;
    address.searchParams.set("lang", language);
    location.replace(address);
  }
  show();
  addEventListener("look", show);
  addEventListener("storage", ({ key }) => key === KEY && show()); // changed in another tab
  addEventListener("click", ({ target }) => {
    const link = target instanceof Element ? target.closest("a.language") : null;
    if (link instanceof HTMLAnchorElement && stored().language) localStorage.setItem(KEY, JSON.stringify({ ...stored(), language: link.hreflang }));
  });
}
