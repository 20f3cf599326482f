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
/** The beginning of an item of a list, or of a line of a quote. “>_<” is no quote. */
const LINE = /^( {0,8})(?:[-*•]|(\d{1,3})[.)]) +(?=\S)|^> (?=\S)/;
const HAS_LINES = new RegExp(LINE.source, "m");
const HEADING = /^#{1,6} +(?=\S)/;
const HAS_MORE_LINES = /^(?:#{1,6} +\S|\|.*\|)/m;
const TABLE_ROW = /^ {0,3}\|(.*)\| *$/;
const TABLE_RULE = /^ {0,3}\|(?: *:?-+:? *\|)+ *$/;
const WORD = "\\p{Lu}\\p{Ll}\\p{N}";
/**
 * Ends of names that are links without https:// before them. The second ones are words, too: they need a path. Ends of files (py, sh) are
 * no such ends.
 */
const ENDS = "(?:com|org|net|edu|gov|io|dev|app|ai|tv|eu|uk|us|ca|au|nz|de|ch|fr|nl|es|pt|se|dk|fi|cz|gr|hu|ro|ua|ru|cn|hk|tw|jp|kr|sg|th|vn|"
  + "ae|tr|ir|il|br|mx|ar|za|xyz|site|online|shop|blog|tech|cloud|wiki)|(?:at|be|co|id|in|info|is|it|me|my|no|to)(?=\\/)";
/** Characters of an address behind its name. */
const REST = "[^\\s<>\"'`，。；！？、（）《》「」]";
const NAME = `(?:[A-Za-z\\d](?:[A-Za-z\\d-]{0,61}[A-Za-z\\d])?\\.){1,5}(?:${ENDS})(?![${WORD}_@-]|\\.[${WORD}])(?::\\d{1,5}(?!\\d))?(?:[/?#]${REST}*)?`;
/** A link with a text. Its lengths are limited, which keeps the time linear. */
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
/** Matches each text that has a match of the patterns. The list of conversations has many texts without, which need no more work. */
const HAS_MARK = /[`*_~@]|\/\/|\.\S/;
/** The patterns in one, made when a text has a mark: they take a slow phone 20 ms. @type {RegExp | null} */
let marks = null;
const KINDS = /** @type {Marked["kind"][]} */ (["code", "bold", "italic", "struck"]);
/** A link with such a text could pretend to lead elsewhere. */
const LIKE_ADDRESS = /[@/\\]|\.\S/;
/** Looking behind keeps the time linear. */
const END_OF_SENTENCE = /(?<![.,:;!?'"*])[.,:;!?'"*]+$/;

/** How a text is read: `mentions` are names after an @; null: there are none. @typedef {{ mentions: RegExp | null, isMarkdown: boolean }} Reading */

/**
 * Splits a text into its parts, in order. Within blocks of code nothing else is looked for.
 *
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
  const parts = parse(text, [], true);
  return parts.map(({ kind, text: part }) => (BLOCK_KINDS.has(kind) ? ` ${part} ` : part)).join("").trim();
}

/**
 * Lines of one kind that follow each other.
 *
 * @typedef {object} Group
 * @property {"text" | "quote" | "list" | "heading" | "table"} kind
 * @property {boolean} isNumbered
 * @property {number} first  number of the first item of a list; 0: no numbers
 * @property {{ depth: number, text: string }[]} rows  `text`: without the mark at the beginning
 */

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
  /** @type {Group[]} */
  const groups = [];
  const lines = text.split("\n");
  for (const [index, line] of lines.entries()) {
    const before = groups.at(-1);
    const match = LINE.exec(line) ?? (isMarkdown ? HEADING.exec(line) : null);
    // A table begins with the line above its rule.
    const isTable = isMarkdown && TABLE_ROW.test(line) && (before?.kind === "table" || TABLE_RULE.test(lines[index + 1] ?? ""));
    const kind = isTable ? "table" : kindOf(match?.[0]);
    const isNumbered = match?.[2] !== undefined;
    const row = { depth: Math.floor((match?.[1]?.length ?? 0) / 2), text: line.slice(match?.[0].length ?? 0) };
    if (before && before.kind === kind && before.isNumbered === isNumbered && kind !== "heading") before.rows.push(row);
    else groups.push({ kind, isNumbered, first: Number(match?.[2] ?? 0), rows: [row] });
  }
  return groups.flatMap((group) => partsOf(group, reading));
}

/**
 * @param {string | undefined} mark  at the beginning of a line
 * @returns {Group["kind"]}
 */
function kindOf(mark) {
  if (!mark) return "text";
  if (mark.startsWith("#")) return "heading";
  return mark.startsWith(">") ? "quote" : "list";
}

/**
 * @param {Group} group
 * @param {Reading} reading
 * @returns {Part[]}
 */
function partsOf({ kind, first, rows }, reading) {
  if (kind === "list") {
    const items = rows.map(({ depth, text }) => ({ depth, parts: inline(text, reading) }));
    return [{ kind, first, items, text: items.map(({ parts }) => plainOf(parts)).join(" ") }];
  }
  if (kind === "table") {
    const cells = rows.filter(({ text }) => !TABLE_RULE.test(text)).map(({ text }) => cellsOf(text, reading));
    return [{ kind, rows: cells, text: cells.map((row) => row.map(plainOf).join(" ")).join(" ") }];
  }
  const parts = inline(rows.map(({ text }) => text).join("\n"), reading);
  return kind === "text" ? parts : [{ kind, parts, text: plainOf(parts) }];
}

/**
 * @param {string} row  of a table
 * @param {Reading} reading
 * @returns {Inline[][]}
 */
function cellsOf(row, reading) {
  const cells = (TABLE_ROW.exec(row)?.[1] ?? "").split(/(?<!\\)\|/);
  return cells.map((cell) => inline(cell.trim().replaceAll("\\|", "|"), reading));
}

/** @param {Inline[]} parts  joined without their marks */
function plainOf(parts) {
  return parts.map(({ text }) => text).join("");
}

/**
 * The marks, links and mentions of a text without blocks.
 *
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
    // The end of a sentence behind an address belongs to the text after it.
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
 * @returns {RegExp | null}  matches the longest of several names that begin alike; null: there are no names
 */
function mentionsOf(names) {
  if (!names.length) return null;
  const sorted = [...names].sort((one, other) => other.length - one.length);
  const patterns = sorted.map((name) => name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  return new RegExp(`@(?:${patterns.join("|")})`, "g");
}

/**
 * @param {Record<string, string | undefined>} groups  of a match
 * @param {boolean} isMarkdown
 * @returns {Link | null} null: it is no link, or none that may be shown
 */
function linkOf({ address, site, mail, label, target }, isMarkdown) {
  if (label && target) {
    const isAllowed = URL.canParse(target) && (isMarkdown || !LIKE_ADDRESS.test(label));
    return isAllowed ? { kind: "link", text: label, address: target } : null;
  }
  if (mail) return { kind: "link", text: mail, address: `mailto:${mail}` };
  const text = withoutEnd(address ?? site ?? "");
  const whole = site ? `https://${text}` : text;
  const isSite = !text.startsWith("www.") || /^www\.[^./]+\.[^./]/.test(text);
  return text && isSite && URL.canParse(whole) ? { kind: "link", text, address: whole } : null;
}

/**
 * @param {string} address
 * @returns {string} without the end of the sentence around it
 */
function withoutEnd(address) {
  const text = address.replace(END_OF_SENTENCE, "");
  return text.endsWith(")") && !text.includes("(") ? text.slice(0, -1).replace(END_OF_SENTENCE, "") : text;
}
