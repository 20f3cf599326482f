// @ts-check
/**
 * Formatting as typed: `code`, ```blocks```, *bold*, **bold** as language models write it, _italic_, ~~struck~~, lists, quotes, links and mentions.
 * A link may have a [text](https://…), which in a text of people must not look like an address itself.
 * Texts of bots are Markdown: headings and tables, too, and *italic*. It never interprets markup.
 */

/** @typedef {{ kind: "text" | "code" | "bold" | "italic" | "struck" | "mention", text: string }} Marked */
/** @typedef {{ kind: "link", text: string, address: string }} Link */
/** @typedef {Marked | Link} Inline */

/**
 * `text` of each: without its marks.
 *
 * @typedef {{ kind: "block", text: string, language: string }} Code
 * @typedef {{ kind: "list", text: string, first: number, items: { depth: number, parts: Inline[] }[] }} List  `first`: number of the first item; 0: no numbers
 * @typedef {{ kind: "quote", text: string, parts: Inline[] }} Quote
 * @typedef {{ kind: "heading", text: string, parts: Inline[] }} Heading
 * @typedef {{ kind: "table", text: string, rows: Inline[][][] }} Table  the first row is its head
 * @typedef {Inline | Code | List | Quote | Heading | Table} Part
 */

/** Kinds of parts that fill lines. */
export const BLOCK_KINDS = new Set(["block", "list", "quote", "heading", "table"]);

const BLOCKS = /```(?:([A-Za-z][\w+#.-]{0,19})?\n)?([\s\S]+?)\n?```\n?/g;
const LINE = /^( {0,8})(?:[-*•]|(\d{1,3})[.)]) +(?=\S)|^> (?=\S)/; // “>_<” is no quote
const HAS_LINES = new RegExp(LINE.source, "m");
const HEADING = /^#{1,6} +(?=\S)/;
const HAS_MORE_LINES = /^(?:#{1,6} +\S|\|.*\|)/m;
const TABLE_ROW = /^ {0,3}\|(.*)\| *$/;
const TABLE_RULE = /^ {0,3}\|(?: *:?-+:? *\|)+ *$/;
const WORD = "\\p{Lu}\\p{Ll}\\p{N}";
/** Ends of names that are links without https:// before them. The second ones are words, too: they need a path. Ends of files (py, sh) are no such ends. */
const ENDS = "(?:com|org|net|edu|gov|io|dev|app|ai|tv|eu|uk|us|ca|au|nz|de|ch|fr|nl|es|pt|se|dk|fi|cz|gr|hu|ro|ua|ru|cn|hk|tw|jp|kr|sg|th|vn|ae|tr|ir|il|br|mx|ar|za|xyz|site|online|shop|blog|tech|cloud|wiki)|(?:at|be|co|id|in|info|is|it|me|my|no|to)(?=\\/)";
const REST = "[^\\s<>\"'`，。；！？、（）《》「」]";
const NAME = `(?:[A-Za-z\\d](?:[A-Za-z\\d-]{0,61}[A-Za-z\\d])?\\.){1,5}(?:${ENDS})(?![${WORD}_@-]|\\.[${WORD}])(?::\\d{1,5}(?!\\d))?(?:[/?#]${REST}*)?`;
/** Their lengths are limited, which keeps the time linear. */
const LINK = "\\[(?<label>[^\\[\\]\\n]{1,200})\\]\\((?<target>https?:\\/\\/[^\\s()<>\"]{1,2000})\\)";
const PATTERNS = [
  "`(?<code>[^`\\n]+)`",
  `(?<![${WORD}*])(?<stars>\\*\\*?)(?! )(?<bold>[^*\\n]+?)(?<! )\\k<stars>(?![${WORD}*])`,
  `(?<![${WORD}_/\\\\])_(?! )(?<italic>[^_\\n]+?)(?<! )_(?![${WORD}_/\\\\])`,
  "(?<!~)~~(?![~ ])(?<struck>[^~\\n]+?)(?<! )~~(?!~)",
  `(?<address>https?:\\/\\/${REST}+)`,
  `(?<![${WORD}._%+:/\\\\@-])(?<site>www\\.${REST}+|${NAME})`,
  `(?<![${WORD}._%+/@-])(?<mail>[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\\.){1,8}[A-Za-z]{2,24})(?![${WORD}@-])`,
];
/** In each text that matches one of the patterns. The list of conversations has many texts without. */
const HAS_MARK = /[`*_~@]|\/\/|\.\S/;
/** The patterns in one, made when a text has a mark: they take a slow phone 20 ms. @type {RegExp | null} */
let marks = null;
const KINDS = /** @type {Marked["kind"][]} */ (["code", "bold", "italic", "struck"]);
/** A link with such a text could pretend to lead elsewhere. */
const LIKE_ADDRESS = /[@/\\]|\.\S/;
const END_OF_SENTENCE = /(?<![.,:;!?'"*])[.,:;!?'"*]+$/; // looking behind keeps the time linear

/** How a text is read: `mentions` are names after an @; null: there are none. @typedef {{ mentions: RegExp | null, isMarkdown: boolean }} Reading */

/**
 * @param {string} text
 * @param {string[]} [names]  names after an @ that are marked
 * @param {boolean} [isMarkdown]  it has headings, tables and links with a text
 * @returns {Part[]}
 */
export function parse(text, names = [], isMarkdown = false) {
  const reading = { mentions: mentionsOf(names), isMarkdown };
  /** @type {Part[]} */
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(BLOCKS)) {
    parts.push(...linesOf(text.slice(end, match.index), reading), { kind: "block", text: match[2], language: match[1] ?? "" });
    end = match.index + match[0].length;
  }
  return [...parts, ...linesOf(text.slice(end), reading)];
}

/**
 * @param {string} text
 * @returns {string} without its marks, also those of Markdown; blocks have spaces around them
 */
export function unformatted(text) {
  return parse(text, [], true).map(({ kind, text: part }) => (BLOCK_KINDS.has(kind) ? ` ${part} ` : part)).join("").trim();
}

/**
 * Text, lists, quotes, headings and tables.
 *
 * @param {string} text
 * @param {Reading} reading
 * @returns {Part[]}
 */
function linesOf(text, reading) {
  const { isMarkdown } = reading;
  if (!HAS_LINES.test(text) && !(isMarkdown && HAS_MORE_LINES.test(text))) return inline(text, reading);
  /** @type {{ kind: "text" | "quote" | "list" | "heading" | "table", isNumbered: boolean, first: number, rows: { depth: number, text: string }[] }[]} */
  const groups = [];
  const lines = text.split("\n");
  for (const [index, line] of lines.entries()) {
    const match = LINE.exec(line) ?? (isMarkdown ? HEADING.exec(line) : null);
    const isTable = isMarkdown && TABLE_ROW.test(line) && (groups.at(-1)?.kind === "table" || TABLE_RULE.test(lines[index + 1] ?? ""));
    const kind = isTable ? "table" : !match ? "text" : match[0].startsWith("#") ? "heading" : match[0].startsWith(">") ? "quote" : "list";
    const isNumbered = match?.[2] !== undefined;
    const before = groups.at(-1);
    const row = { depth: Math.floor((match?.[1]?.length ?? 0) / 2), text: line.slice(match?.[0].length ?? 0) };
    if (before && before.kind === kind && before.isNumbered === isNumbered && kind !== "heading") before.rows.push(row);
    else groups.push({ kind, isNumbered, first: Number(match?.[2] ?? 0), rows: [row] });
  }
  return groups.flatMap(/** @returns {Part[]} */ ({ kind, first, rows }) => {
    if (kind === "list") {
      const items = rows.map(({ depth, text: item }) => ({ depth, parts: inline(item, reading) }));
      return [{ kind, first, items, text: items.map(({ parts }) => plainOf(parts)).join(" ") }];
    }
    if (kind === "table") {
      const cells = rows.filter((row) => !TABLE_RULE.test(row.text)).map((row) => cellsOf(row.text, reading));
      return [{ kind, rows: cells, text: cells.map((each) => each.map(plainOf).join(" ")).join(" ") }];
    }
    const parts = inline(rows.map((row) => row.text).join("\n"), reading);
    if (kind === "heading") return [{ kind, parts, text: plainOf(parts) }];
    return kind === "quote" ? [{ kind, parts, text: plainOf(parts) }] : parts;
  });
}

/**
 * @param {string} row  of a table
 * @param {Reading} reading
 * @returns {Inline[][]}
 */
function cellsOf(row, reading) {
  return (TABLE_ROW.exec(row)?.[1] ?? "").split(/(?<!\\)\|/).map((cell) => inline(cell.trim().replaceAll("\\|", "|"), reading));
}

/** @param {Inline[]} parts */
function plainOf(parts) {
  return parts.map(({ text }) => text).join("");
}

/**
 * @param {string} text
 * @param {Reading} reading
 * @returns {Inline[]}
 */
function inline(text, { mentions, isMarkdown }) {
  /** @type {Inline[]} */
  const parts = [];
  let end = 0;
  for (const match of HAS_MARK.test(text) ? text.matchAll(marksOf()) : []) {
    const groups = match.groups ?? {};
    const link = linkOf(groups, isMarkdown);
    const kind = KINDS.find((each) => groups[each] !== undefined);
    if (!kind && !link) continue;
    parts.push(...plain(text.slice(end, match.index), mentions));
    if (kind) parts.push({ kind: isMarkdown && groups.stars === "*" ? "italic" : kind, text: groups[kind] });
    else if (link) parts.push(link);
    end = match.index + (link && !groups.label ? link.text.length : match[0].length);
  }
  parts.push(...plain(text.slice(end), mentions));
  return parts;
}

/** @returns {RegExp} */
function marksOf() {
  marks ??= new RegExp([LINK, ...PATTERNS].join("|"), "gu");
  return marks;
}

/**
 * @param {string} text
 * @param {RegExp | null} mentions  null: there are none
 * @returns {Inline[]}
 */
function plain(text, mentions) {
  /** @type {Inline[]} */
  const parts = [];
  let end = 0;
  for (const { 0: mention, index } of mentions ? text.matchAll(mentions) : []) {
    if (index > end) parts.push({ kind: "text", text: text.slice(end, index) });
    parts.push({ kind: "mention", text: mention });
    end = index + mention.length;
  }
  if (end < text.length) parts.push({ kind: "text", text: text.slice(end) });
  return parts;
}

/**
 * @param {string[]} names
 * @returns {RegExp | null}  the longest of several names that begin alike
 */
function mentionsOf(names) {
  const sorted = [...names].sort((a, b) => b.length - a.length);
  return sorted.length ? new RegExp(`@(?:${sorted.map((name) => name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|")})`, "g") : null;
}

/**
 * @param {Record<string, string | undefined>} groups  of a match
 * @param {boolean} isMarkdown
 * @returns {Link | null}
 */
function linkOf({ address, site, mail, label, target: named }, isMarkdown) {
  if (label && named) return URL.canParse(named) && (isMarkdown || !LIKE_ADDRESS.test(label)) ? { kind: "link", text: label, address: named } : null;
  if (mail) return { kind: "link", text: mail, address: `mailto:${mail}` };
  const text = withoutEnd(address ?? site ?? "");
  const target = site ? `https://${text}` : text;
  const isSite = !text.startsWith("www.") || /^www\.[^./]+\.[^./]/.test(text);
  return text && isSite && URL.canParse(target) ? { kind: "link", text, address: target } : null;
}

/**
 * @param {string} address
 * @returns {string} without the end of the sentence around it
 */
function withoutEnd(address) {
  const text = address.replace(END_OF_SENTENCE, "");
  return text.endsWith(")") && !text.includes("(") ? text.slice(0, -1).replace(END_OF_SENTENCE, "") : text;
}
