// Formatting as typed, links and mentions, and the lines about changes of a group.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { it } from "node:test";

import { isEditable, mentions } from "./static/messages/parts/entries.js";
import { mentionable } from "./static/messages/conversation/completions.js";
import { ALL_NAMES, fitOf, namedIn, namesIn } from "./static/messages/parts/names.js";
import { parse, unformatted } from "./static/messages/parts/format.js";
import { withoutEmpty } from "./static/messages/parts/formatted.js";
import { runFrom } from "./static/messages/conversation/kinds.js";
import { noticeText } from "./static/messages/parts/summary.js";

const shown = (text, names) => parse(text, names).map(({ kind, text: content }) => (kind === "text" ? content : `<${kind}>${content}`));

it("formats what is typed", () => {
  for (const [text, ...parts] of [
    ["*bold* and `co*d*e`", "<bold>bold", " and ", "<code>co*d*e"],
    ["2*3*4 * 5 a*b*c", "2*3*4 * 5 a*b*c"],
    ["**Boil** the water: **5 min**.", "<bold>Boil", " the water: ", "<bold>5 min", "."],
    ["2**3**4, ** a **, **kwargs, *args, **a*, *b** ****", "2**3**4, ** a **, **kwargs, *args, **a*, *b** ****"],
    ["水要**烧开**再泡", "水要", "<bold>烧开", "再泡"],
    ["箱子*湿透*了", "箱子", "<bold>湿透", "了"],
    ["```\na *b*\n  c\n```\nafter", "<block>a *b*\n  c", "after"],
    ["see https://a.example/x_(y)?q=1#z.", "see ", "<link>https://a.example/x_(y)?q=1#z", "."],
    ["(http://a.example/b)", "(", "<link>http://a.example/b", ")"],
    ["看https://a.example/路，好", "看", "<link>https://a.example/路", "，好"],
    ["javascript:alert(1) ftp://a https://", "javascript:alert(1) ftp://a https://"],
    ["<b>&amp;</b> `", "<b>&amp;</b> `"],
    ["_so_ and ~~not~~, snake_case __init__ a_b_c /x/_y_/z _ a _", "<italic>so", " and ", "<struck>not", ", snake_case __init__ a_b_c /x/_y_/z _ a _"],
    ["好~谢谢~ ~~~a~~~ ~~ b ~~", "好~谢谢~ ~~~a~~~ ~~ b ~~"],
    ["真_好_吃", "真", "<italic>好", "吃"],
    ["```python\nprint(1)\n```", "<block>print(1)"],
    ["```python print(1)```", "<block>python print(1)"],
    ["see www.a.example/x. or www.x", "see ", "<link>www.a.example/x", ". or www.x"],
    ["to ann.b+c@mail.example.org, not a@b @c.de x@y.z@q.de", "to ", "<link>ann.b+c@mail.example.org", ", not a@b @c.de x@y.z@q.de"],
    ["tea:\n- *green*\n  - sencha\n1. one\n2) two\n> said\n> he\nend", "tea:", "<list>green sencha", "<list>one two", "<quote>said\nhe", "end"],
    ["-5 degrees\n*bold*\n>_<\n2024. x\n>\n- ", "-5 degrees\n", "<bold>bold", "\n>_<\n2024. x\n>\n- "],
    ["", ...[]],
  ]) assert.deepEqual(shown(text), parts, text);
});

it("texts of bots are Markdown", () => {
  const markdown = (text) => parse(text, [], true).map(({ kind, text: content }) => (kind === "text" ? content : `<${kind}>${content}`));
  for (const [text, ...parts] of [
    ["# Tea *now*\n## Two\nend #3", "<heading>Tea now", "<heading>Two", "end #3"],
    ["a\n| Tea | Price |\n|:--|--:|\n| *green* | 3 \\| 4 |\nb", "a", "<table>Tea Price green 3 | 4", "b"],
    ["see [the *map*](https://a.example/x), [no](javascript:alert(1)) [x](y)", "see ", "<link>the *map*", ", [no](javascript:alert(1)) [x](y)"],
    ["| no table |\nx", "| no table |\nx"],
    ["#no heading", "#no heading"],
    ["*so* and **now**", "<italic>so", " and ", "<bold>now"],
  ]) assert.deepEqual(markdown(text), parts, text);
  assert.deepEqual(shown("# Tea"), ["# Tea"], "texts of people are not");
  assert.deepEqual(shown("[a map](https://a.example)"), ["<link>a map"]);
  for (const text of ["[b.example](https://a.example)", "[me@b](https://a.example)"]) assert.deepEqual(shown(text), [text], "what looks like another address is none");
  const drawn = withoutEmpty(parse("a\n\nb:\n\n```\nc\n```\n\n  d\n\n- e\n\n```\nf\n```\n\n\n", [], true));
  assert.deepEqual(drawn.map(({ text }) => text), ["a\n\nb:", "c", "  d", "e", "f"], "empty lines beside blocks end them");
  assert.deepEqual(withoutEmpty(parse("\n a\n\nb \n\n", [], true)).map(({ text }) => text), ["\n a\n\nb"], "a stopped answer ends with its last line");
  const [link] = parse("[a](https://b.example)", [], true);
  assert.deepEqual([link.text, link.address], ["a", "https://b.example"]);
  const began = performance.now();
  for (const text of ["[".repeat(100_000), "[a](".repeat(25_000), "| ".repeat(50_000), `|${" -".repeat(50_000)}`]) markdown(`${text}\n${text}`);
  assert.ok(performance.now() - began < 10_000);
});

it("links lead where their text says, and blocks know their language", () => {
  const links = (text) => parse(text).map((part) => part.address).filter(Boolean);
  assert.deepEqual(links("http://a.example www.b.example c@d.example"), ["http://a.example", "https://www.b.example", "mailto:c@d.example"]);
  assert.deepEqual(links("www.javascript:alert(1) www.<b>.c data:x@y.example%0d%0a"), ["mailto:x@y.example"]);
  assert.deepEqual([parse("```c++\nx```")[0].language, parse("```\nx```")[0].language], ["c++", ""]);
  const [list] = parse("3. *a*\n4. b");
  assert.deepEqual([list.first, list.items.length, unformatted("a\n- *b*\nc")], [3, 2, "a b c"]);
  assert.equal(unformatted("# Teas\n| Tea | Price |\n|---|---|\n| green | 3 |\n[map](https://example.com/map)"), "Teas  Tea Price green 3 map");
});

it("names of sites are links without https://, names of files and ends of sentences are none", async () => {
  const rows = JSON.parse(await readFile(new URL("links.json", import.meta.url), "utf8"));
  for (const [text, links] of rows) assert.deepEqual(parse(text).map((part) => part.address).filter((each) => each && !each.startsWith("mailto:")), links, text);
  const began = performance.now();
  for (const piece of ["a", "a.", "a-", "com.", "a.com", "a.com ", "a.com/", "a.com:1"]) parse(piece.repeat(50_000));
  assert.ok(performance.now() - began < 10_000);
});

it("marks the names of mentioned people, the longest first", () => {
  assert.deepEqual(shown("hi @Ann Lee, @Ann and @Bob", ["Ann", "Ann Lee"]), ["hi ", "<mention>@Ann Lee", ", ", "<mention>@Ann", " and @Bob"]);
  assert.deepEqual(shown("@A.*(x)|[y]^$?{1}\\@A", ["A", "A.*(x)|[y]^$?{1}\\"]), ["<mention>@A.*(x)|[y]^$?{1}\\", "<mention>@A"]);
});

it("needs no longer than usual for long texts", () => {
  const began = performance.now();
  const address = `http://a${".".repeat(200_000)}x`;
  assert.deepEqual(shown(`see ${address}.`), ["see ", `<link>${address}`, "."]);
  const mentions = 15_000;
  const names = Array.from({ length: 100 }, (_, number) => `Bob${number}`);
  assert.equal(shown("@Ann ".repeat(mentions), [...names, "Ann"]).length, 2 * mentions);
  assert.ok(performance.now() - began < 10_000);
});

it("a mention of all is one in each language, but none of its author; all are the last that are offered", () => {
  const entry = /** @type {any} */ ({ from: "ann", meta: { mentions: ["all"] } });
  assert.deepEqual([mentions(entry, "bob"), mentions(entry, "ann")], [true, false]);
  assert.deepEqual(shown("@所有人 茶 @all", ALL_NAMES), ["<mention>@所有人", " 茶 ", "<mention>@all"]);
  const names = { all: "all", ann: "Ann", bob: "Bob", ali: "Ali" };
  const offered = (typed, most = 8) => mentionable(["ann", "bob", "ali"], typed, (user) => names[user], most);
  assert.deepEqual([offered(""), offered("a"), offered("al"), offered("x"), offered("", 2)], [["ann", "bob", "ali", "all"], ["ann", "ali", "all"], ["ali", "all"], [], ["ann", "all"]]);
});

it("a handle of a group is marked as a name is, also before the server has answered", () => {
  const names = namesIn({ mentions: ["1", "@qa"], handles: ["design"] }, (user) => (user === "1" ? "Ann" : user)).map(([name]) => name);
  assert.deepEqual(shown("@design, @Ann @qa", names), ["<mention>@design", ", ", "<mention>@Ann", " ", "<mention>@qa"]);
});

it("of names that begin alike, the one that is written is mentioned", () => {
  const mentioned = new Map([["Ann", "1"], ["Anna", "2"], ["design", "@design"], ["design-team", "@design-team"]]);
  assert.deepEqual(namedIn(mentioned, "@Anna, @design-team").map(([, user]) => user), ["@design-team", "2"]);
  assert.deepEqual(namedIn(mentioned, "@Anna @Ann, design").map(([, user]) => user), ["2", "1"]);
});

it("who has written lately is offered first, then who has a word that begins so, then the others", () => {
  const names = { all: "all", 1: "Ann José", 2: "Joe", 3: "Ana Banjo", 4: "伟小王", 5: "Jo" };
  const offered = (typed, writers = []) => mentionable(["1", "2", "3", "4", "5"], typed, (user) => names[user], 3, writers);
  assert.deepEqual([offered("jo"), offered("jó", ["9", "3", "4"]), offered("小")], [["1", "2", "5"], ["3", "1", "2"], ["4"]]);
  assert.deepEqual([fitOf("José Pérez jperez", "perez jos"), fitOf("José", "os"), fitOf("José", "x"), fitOf("José", ""), fitOf("Łukasz Weiß", "weiss lukasz")], [0, 1, 2, 0, 0]);
});

it("a name is completed across a space, but no text behind a mention", () => {
  const names = { all: "all", 1: "Björn Kovač", 2: "Björn", 3: "Ann Hill", 4: "Jean-Luc Maria Picard" };
  const offered = (typed) => mentionable(["1", "2", "3", "4"], typed, (user) => names[user], 8);
  assert.deepEqual([offered("bjorn kov"), offered("bjorn"), offered("jean-luc pic"), offered("hill an")], [["1"], ["1", "2"], ["4"], ["3"]]);
  assert.deepEqual([offered("bjorn hello"), offered("an hi"), offered("bjorn ova"), offered("all hello")], [[], [], [], []]);
});

it("a text may have a form for what oneself has done", () => {
  const words = { messages_you: "Du", messages_you_inside: "dich", messages_and: ", ", messages_left: "{name} ist gegangen|Du bist gegangen", messages_removed: "{name} hat {names} entfernt|Du hast {names} entfernt" };
  const session = /** @type {any} */ ({ words, language: "de", user: "ann", people: { nameOf: (user) => user.toUpperCase() } });
  const line = (from, users) => noticeText(/** @type {any} */ ({ kind: "leave", from, time: 1_000, meta: { users } }), session);
  assert.deepEqual([line("ann", ["bob"]), line("bob", ["ann"]), line("ann", []), line("bob", [])], ["Du hast BOB entfernt", "BOB hat dich entfernt", "Du bist gegangen", "BOB ist gegangen"]);
});

it("lines about oneself are sentences", () => {
  const words = {
    messages_you: "You", messages_you_inside: "you", messages_and: ", ", messages_and_more: " and {count} other| and {count} others", messages_joined: "{names} joined", messages_added: "{name} added {names}",
    messages_removed: "{name} removed {names}", messages_muted: "{name} muted {names}", messages_unmuted: "{name} unmuted {names}", messages_role_admin: "{names} is now an admin",
    messages_role_admin_you: "You are now an admin",
  };
  const session = /** @type {any} */ ({ words, language: "en", user: "ann", people: { nameOf: (user) => user.toUpperCase() } });
  const line = (kind, from, users, more = {}) => noticeText(/** @type {any} */ ({ kind, from, time: 1_000, meta: { users, ...more } }), session);
  const chinese = { ...session, language: "zh-CN", words: { ...words, messages_you: "你", messages_you_inside: "你", messages_removed: "{name} 把 {names} 移出了群聊" } };
  const removed = (from, user) => noticeText(/** @type {any} */ ({ kind: "leave", from, time: 1_000, meta: { users: [user] } }), chinese);
  assert.deepEqual([removed("ann", "bob"), removed("bob", "ann")], ["你把 BOB 移出了群聊", "BOB 把你移出了群聊"], "你 has no spaces around it");
  assert.equal(line("join", "bob", ["cat", "ann"]), "BOB added CAT, you");
  assert.equal(line("join", "ann", ["cat", "ann"]), "You added CAT");
  assert.equal(line("join", "", ["ann"]), "You joined");
  assert.equal(line("join", "cat", ["cat"]), "CAT joined");
  assert.equal(line("leave", "bob", ["ann"]), "BOB removed you");
  assert.equal(line("join", "bob", ["ann", "c", "d", "e", "f", "g"]), "BOB added you, C, D and 3 others", "not all of many");
  const change = { change: "member", role: "admin", muted_until: 0 };
  assert.equal(line("group", "bob", ["ann"], change), "You are now an admin");
  assert.equal(line("group", "bob", ["cat"], change), "CAT is now an admin");
  assert.equal(line("group", "bob", ["cat"], { ...change, muted_until: 2 }), "CAT is now an admin", "and stays muted");
  assert.equal(line("group", "bob", ["ann"], { ...change, change: "mute", muted_until: 2 }), "BOB muted you");
  assert.equal(line("group", "bob", ["ann"], { ...change, change: "mute" }), "BOB unmuted you");
});

it("people who come or go one after the other have one line", () => {
  const words = { messages_you: "You", messages_you_inside: "you", messages_and: ", ", messages_and_more: " and {count} other| and {count} others", messages_added: "{name} added {names}", messages_joined_by_link: "{names} joined by the link", messages_left: "{name} left" };
  const session = /** @type {any} */ ({ words, language: "en", user: "ann", people: { nameOf: (user) => user.toUpperCase() } });
  let id = 0;
  const entry = (kind, from, users, more = {}) => /** @type {any} */ ({ id: ++id, kind, from, time: 1_000, meta: { users, ...more } });
  const byLink = (user) => entry("join", user, [user], { invited_by: "dan" });
  const lines = (entries, end = 0) => {
    const found = [];
    for (let index = 0; index < entries.length; index++) {
      const run = runFrom(session, entries, index, end);
      found.push(run?.entry.line ?? noticeText(run?.entry ?? entries[index], session));
      index = run?.index ?? index;
    }
    return found;
  };
  assert.deepEqual(lines([byLink("bob"), byLink("cat"), entry("leave", "bob", ["bob"]), entry("leave", "eve", ["eve"])]), ["BOB, CAT joined by the link", "BOB, EVE left"]);
  assert.deepEqual(lines(["bob", "cat", "eve", "fay", "gil", "ann"].map(byLink)), ["You, BOB, CAT and 3 others joined by the link"]);
  assert.deepEqual(lines([entry("join", "bob", ["c", "d", "e", "f"]), entry("join", "bob", ["g", "ann"]), entry("join", "cat", ["h"])]), ["BOB added you, C, D and 3 others", "CAT added H"]);
  const [first, second] = [byLink("bob"), byLink("cat")];
  assert.equal(lines([first, second], second.id).length, 2, "what is unread begins anew");
  assert.equal(lines([byLink("bob"), { ...byLink("cat"), time: 90_000_000 }]).length, 2, "so does a day");
});

it("offers no edit of what somebody has answered", () => {
  const message = { kind: "message", text: "tea?" };
  const asks = [{}, { options: [], answers: [] }, { poll: { voters: 0 } }, { fixed: true }, { answers: [{ user: "bob" }] }, { poll: { voters: 1 } }];
  assert.deepEqual(asks.map((ask) => isEditable({ ...message, meta: { ask } })), [true, true, true, false, false, false]);
  const others = [{ ...message, meta: { forwarded: {} } }, { ...message, kind: "recall" }, { kind: "message", data: {} }, message];
  assert.deepEqual(others.map(isEditable), [false, false, false, true]);
});
