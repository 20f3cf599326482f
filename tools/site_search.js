// The search of the documents' site: the worker that its pages start in place of zensical's, with the same messages.
// Each word of a question, English or Chinese, becomes the stems that mean it: its own, those of site_words.txt, and
// of words one letter away if no page has it. BM25 over title, path and text ranks; stop words ask for nothing.

const STOP = new Set(
  `a about after all also am an and any are as at be been but by can change could did do does doing for from get give
  go goes happen happens has have he her his how i if in into is it its just let like make me much my need now of on one
  only or our out own possible put set she should so some somebody someone than that the their them then there these
  they this to try trying up use using want was way we were what when where which while who whom why will with without
  work works would you your`.split(/\s+/),
);
const FIELDS = [
  { of: (item) => item.title, weight: 8, share: 0.5 },
  { of: (item) => item.path.join(" "), weight: 2, share: 0.5 },
  { of: (item) => item.text, weight: 1, share: 0.7 },
];
const WORD = /<[^>]*>|&[a-z]+;|\p{Script=Han}+|\p{Lu}+(?=\p{Lu}\p{Ll})|\p{Lu}?[\p{Ll}\p{N}]+|\p{Lu}+|\p{Lo}+/gu;

let items = [];
let postings = new Map(); // stem → item → its weighted frequency
let synonyms = new Map(); // stems with spaces, or Chinese → lists of stems: the meaning, then what is near it

/** The words of a text that may have tags, with their places. */
const words = (text) =>
  [...text.matchAll(WORD)]
    .filter(([word]) => !/^[<&]/.test(word))
    .map(({ 0: word, index }) => ({ word: word.toLowerCase(), index }));

/** A word without endings of number, time and person. */
const stem = (word) => {
  if (word.length < 4 || /[^a-z]/.test(word)) return word;
  let root = word.replace(/ie[sd]$/, "y").replace(/(ss|us|is)$|s$/, "$1");
  if (/[aeiouy].*(ing|ed)$/.test(root)) root = root.replace(/(ing|ed)$/, "").replace(/([^aeiouls])\1$/, "$1");
  return root.length > 3 ? root.replace(/e$/, "") : root;
};

const begin = (index) => {
  items = index.items.map((item) => ({ ...item, path: item.path ?? [] }));
  postings = new Map();
  for (const { of, weight, share } of FIELDS) {
    const stems = items.map((item) => words(of(item)).map(({ word }) => stem(word)));
    const mean = stems.reduce((sum, list) => sum + list.length, 0) / items.length;
    stems.forEach((list, id) => {
      for (const each of list) {
        const rows = postings.get(each) ?? postings.set(each, new Map()).get(each);
        rows.set(id, (rows.get(id) ?? 0) + weight / (1 - share + (share * list.length) / mean));
      }
    });
  }
  const stems = (text, between) => text.split(between).map(stem);
  const rows = index.config.words;
  synonyms = new Map(rows.map(([said, to]) => [stems(said, " ").join(" "), to.map((each) => stems(each, "+"))]));
};

/** Whether one letter makes the difference: another, one more or less, or two that changed places. */
const isNear = (one, other) => {
  let at = 0;
  while (at < one.length && one[at] === other[at]) at++;
  const [left, right] = [one.slice(at), other.slice(at)];
  const isSwapped = left[0] === right[1] && left[1] === right[0] && left.slice(2) === right.slice(2);
  return isSwapped || left.slice(1) === right.slice(1) || left.slice(1) === right || left === right.slice(1);
};

/** The Chinese synonyms in a text without spaces, the longest first. */
const segments = (text) => {
  for (let size = Math.min(6, text.length); size > 0; size--) {
    if (synonyms.has(text.slice(0, size))) return [text.slice(0, size), ...segments(text.slice(size))];
  }
  return text ? segments(text.slice(1)) : [];
};

/** What a question asks for: for each thing the stems that mean it, with their weights. */
const read = (question) => {
  const parts = ({ word }) => (/\p{Script=Han}/u.test(word) ? segments(word) : word);
  const list = words(question.normalize("NFKC")).flatMap(parts);
  const things = [];
  for (let at = 0; at < list.length; at++) {
    const pair = list.slice(at, at + 2).map(stem).join(" ");
    if (at + 1 < list.length && synonyms.has(pair)) things.push(...meanings(pair, ++at));
    else if (!STOP.has(list[at])) things.push(...meanings(stem(list[at]), at + 1 === list.length));
  }
  return things;
};

const meanings = (said, isLast) => {
  const own = new Map(said.split(" ").map((each) => [each, 1]));
  let others = synonyms.get(said);
  if (!others && !postings.has(said) && said.length > 3) {
    for (const each of postings.keys()) {
      if (isNear(each, said) || (isLast && each.startsWith(said))) own.set(each, 0.7);
    }
    if (own.size === 1) others = synonyms.get([...synonyms.keys()].find((each) => isNear(each, said)));
  }
  if (!others) return [own];
  const [meaning, ...near] = others;
  return meaning.map((each) => new Map([...own, ...near.map(([other]) => [other, 0.8]), [each, 1]]));
};

/** Items with their scores, best first. Pages for those who change the code come after those for users. */
const rank = (things) => {
  const scores = new Map();
  for (const thing of things) {
    const best = new Map();
    for (const [each, weight] of thing) {
      const rows = postings.get(each) ?? new Map();
      const rarity = weight * Math.log(1 + (items.length - rows.size + 0.5) / (rows.size + 0.5));
      rows.forEach((share, id) => best.set(id, Math.max(best.get(id) ?? 0, (rarity * share) / (share + 1.2))));
    }
    best.forEach((score, id) => scores.set(id, [...(scores.get(id) ?? []), score]));
  }
  const stems = new Set(things.flatMap((thing) => [...thing.keys()]));
  const value = ({ title, location, path }, list) => {
    const titled = words(title).filter(({ word }) => !STOP.has(word));
    const named = titled.filter(({ word }) => stems.has(stem(word))).length / (titled.length || 1);
    const inner = path.length < 2 || path[0] === "Internals" || location.startsWith("why/");
    const kind = inner ? 0.6 : /^(guides|operations)\//.test(location) ? 1.2 : 1;
    const sum = list.reduce((part, each) => part + each);
    return sum * (0.4 + (0.6 * list.length) / things.length) * (1 + named / 2) * kind;
  };
  const rows = [...scores].map(([id, list]) => ({ id, score: value(items[id], list) }));
  return { stems, best: rows.sort((a, b) => b.score - a.score || a.id - b.id).slice(0, 20) };
};

/** Where a text has the stems, from its densest part on. */
const marks = (text, stems) => {
  const hits = words(text).filter(({ word }) => stems.has(stem(word)));
  const within = (at) => hits.filter(({ index }) => index >= at && index < at + 300);
  const near = (at) => new Set(within(at).map(({ word }) => stem(word))).size;
  const start = hits.reduce((best, { index }) => (near(index) > near(best) ? index : best), hits[0]?.index);
  const ranges = hits.map(({ word, index }) => ({ start: index, end: index + word.length, value: word.length }));
  return { highlight: { ranges: ranges.filter((range) => range.start >= start) } };
};

const answer = (question) => {
  const { stems, best } = rank(read(question));
  const matches = (item) => ["title", "text"].map((field) => ({ field, value: marks(item[field], stems) }));
  const rows = best.map(({ id }) => ({ id, matches: matches(items[id]) }));
  return { items: rows, pagination: { total: rows.length }, aggregations: [] };
};

self.onmessage = ({ data: { type, data } }) => {
  if (type === 0) begin(data);
  self.postMessage(type === 0 ? { type: 1 } : { type: 3, data: answer(String(data.input)) });
};
