/**
 * Which parts of the page are too faint, as it is shown now: what axe-core leaves out, or cannot judge. Run as the body of a function.
 *
 * Colours are those of the elements and of all that is behind them in the tree: backgrounds, each stop of a gradient, opacity. A picture
 * counts as white and as black. Texts need 4.5 : 1 (large ones, and those of disabled controls, 3 : 1); icons, signs of seals, and edges of
 * what one writes in need 3 : 1. Returns one line for each fault.
 */

const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
const known = new Map();
/** A CSS colour as red, green, blue (0 to 255) and opacity (0 to 1). */
const rgba = (colour) => {
  if (!known.has(colour)) {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = "transparent";
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = pen.getImageData(0, 0, 1, 1).data;
    known.set(colour, [red, green, blue, alpha / 255]);
  }
  return known.get(colour);
};
const over = ([r1, g1, b1, a1], [r2, g2, b2, a2]) => {
  const alpha = a1 + a2 * (1 - a1);
  const mix = (top, below) => (alpha ? (top * a1 + below * a2 * (1 - a1)) / alpha : 0);
  return [mix(r1, r2), mix(g1, g2), mix(b1, b2), alpha];
};
const luminance = (colour) => {
  const [red, green, blue] = colour.slice(0, 3).map((each) => (each / 255 <= 0.04045 ? each / 255 / 12.92 : ((each / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const ratio = (one, other) => {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
};

const canvasColour = rgba("Canvas");
/** What is seen of a box: it without what an element and its ancestors cut off. */
const seenOf = ({ left, top, right, bottom }, element) => {
  for (let each = element; each && each !== document.body; each = each.parentElement) {
    if (getComputedStyle(each).overflow === "visible") continue;
    const clip = each.getBoundingClientRect();
    [left, top, right, bottom] = [Math.max(left, clip.left), Math.max(top, clip.top), Math.min(right, clip.right), Math.min(bottom, clip.bottom)];
  }
  return { left, top, right, bottom };
};
const boxOf = (element) => seenOf(element.getBoundingClientRect(), element.parentElement);
const pictures = [...document.querySelectorAll("img, video, canvas")].filter((each) => each.checkVisibility()).map((picture) => ({ picture, box: boxOf(picture) }));
const meets = (one, other) => Math.min(one.right, other.right) > Math.max(one.left, other.left) && Math.min(one.bottom, other.bottom) > Math.max(one.top, other.top);

/** What an element paints behind its content: each colour that may be there. */
const groundsOf = (style) => {
  const stops = style.backgroundImage.includes("gradient") ? (style.backgroundImage.match(/(?:rgba?|color|oklch|oklab|lab|lch|hsl)\([^()]*\)/g) ?? []) : [];
  const flat = rgba(style.backgroundColor);
  return stops.length ? stops.map((each) => over(rgba(each), flat)) : [flat];
};

/** The least contrast between a colour that an element paints and what is behind it. */
function least(paint, element, rect, own = null) {
  let pairs = [[rgba(paint), [0, 0, 0, 0]]]; // a point that is painted, and one beside it
  if (own) pairs = groundsOf(own).map((ground) => [over(rgba(paint), ground), ground]);
  let inside = element;
  for (let each = element; each; inside = each, each = each.parentElement) {
    const style = getComputedStyle(each);
    if (pictures.some(({ picture, box }) => each.contains(picture) && !inside.contains(picture) && meets(box, rect))) pairs = pairs.flatMap(([on, beside]) => [[255, 255, 255, 1], [0, 0, 0, 1]].map((ground) => [over(on, ground), over(beside, ground)]));
    pairs = pairs.flatMap(([on, beside]) => groundsOf(style).map((ground) => [over(on, ground), over(beside, ground)]));
    const opacity = Number(style.opacity);
    if (opacity < 1) pairs = pairs.map((pair) => pair.map(([red, green, blue, alpha]) => [red, green, blue, alpha * opacity]));
    else if (pairs.every((pair) => pair[1][3] > 0.999)) break;
    if (each.matches("dialog:modal")) break; // behind it is a backdrop
  }
  return Math.min(...pairs.map(([on, beside]) => ratio(over(on, canvasColour), over(beside, canvasColour))));
}

const faults = new Set();
const isSeen = (each) => each.checkVisibility({ visibilityProperty: true, opacityProperty: true });
const isClipped = (each) => each && (getComputedStyle(each).clipPath === "inset(50%)" || isClipped(each.parentElement));
const nameOf = (each) => `${each.localName}${each.id && `#${each.id}`}${[...each.classList].map((name) => `.${name}`).join("")}`;
const demand = (what, element, paint, needed, { rect = seenOf(element.getBoundingClientRect(), element), own = null, from = element } = {}) => {
  if (rect.right <= rect.left || rect.bottom <= rect.top) return; // scrolled out of what shows it
  const found = least(paint, from, rect, own);
  if (found < needed) faults.add(`${what} of ${nameOf(element.parentElement ?? element)} > ${nameOf(element)}: ${found.toFixed(2)} of ${needed}`);
};
const neededBy = (element, style) => {
  const size = parseFloat(style.fontSize);
  const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  return isLarge || element.closest(":disabled, [aria-disabled=true], [aria-busy=true]") ? 3 : 4.5;
};
const EMOJI = /^[\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}\u200d\ufe0f\s]*$/u;
const layer = [...document.querySelectorAll("dialog:modal")].at(-1) ?? document.body;

for (const element of [layer, ...layer.querySelectorAll("*")]) {
  if (!isSeen(element) || isClipped(element)) continue;
  const style = getComputedStyle(element);
  if (element instanceof SVGElement) {
    if (element.matches(".seal .sign, .seal .cut, .icon")) {
      const paint = element.matches(".sign") ? style.fill : style.stroke;
      const block = element.closest(".seal")?.querySelector(".block");
      if (block) demand("a sign", element, paint, 3, { own: { backgroundColor: getComputedStyle(block).fill, backgroundImage: "none" }, from: element.closest(".seal") });
      else if (!element.closest(":disabled")) demand("an icon", element, paint, 3);
    }
    continue;
  }
  for (const node of element.childNodes) {
    if (node.nodeType !== Node.TEXT_NODE || EMOJI.test(node.data)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const rect = range.getBoundingClientRect();
    if (rect.width > 1 && rect.height > 1) demand("a text", element, style.color, neededBy(element, style), { rect: seenOf(rect, element) });
  }
  for (const part of ["::before", "::after"]) {
    const painted = getComputedStyle(element, part);
    const text = /^"(.*?)"/.exec(painted.content)?.[1] ?? "";
    if (EMOJI.test(text) || painted.visibility === "hidden" || painted.display === "none") continue;
    demand(part, element, painted.color, neededBy(element, painted), { own: painted });
  }
  if (element.matches("input, textarea, select") && style.opacity !== "0") {
    const isText = !element.matches("[type=checkbox], [type=radio], [type=range], [type=file]");
    if (isText && element.placeholder && !element.value) demand("the placeholder", element, getComputedStyle(element, "::placeholder").color, neededBy(element, style));
    if (isText && element.value) demand("the value", element, style.color, neededBy(element, style));
    if (isText || style.appearance === "none") {
      let framed = element;
      for (let up = 0; up < 2 && !parseFloat(getComputedStyle(framed).borderBottomWidth); up++) framed = framed.parentElement;
      const edge = getComputedStyle(framed);
      if (!parseFloat(edge.borderBottomWidth)) faults.add(`no edge of ${nameOf(element)}`);
      else {
        if (isText) demand("the edge (inside)", element, edge.borderBottomColor, 3, { from: framed }); // others are filled when they are on
        demand("the edge (outside)", element, edge.borderBottomColor, 3, { from: framed.parentElement });
      }
    }
  }
}
return [...faults];
