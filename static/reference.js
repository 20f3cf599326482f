// What the reference page does beyond being read: samples are copied, the contents say where one is and can be
// searched, requests are tried.

import { copyText } from "./page-parts.js";

const narrow = matchMedia("(max-width: 52rem)");
const contents = document.getElementById("contents");

function fold() {
  contents.open = !narrow.matches;
}

narrow.addEventListener("change", fold);
fold();
contents.addEventListener("click", (event) => {
  if (narrow.matches && event.target.closest("a")) {
    contents.open = false;
  }
});

for (const button of document.querySelectorAll(".copy")) {
  const said = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    if (await copyText(button.closest(".sample").querySelector("code").textContent)) button.textContent = button.dataset.done;
    setTimeout(() => {
      button.textContent = said;
    }, 2000);
  });
}

const links = new Map([...contents.querySelectorAll("li a")].map((link) => [link.hash.slice(1), link]));

function mark(id) {
  for (const [each, link] of links) {
    if (each === id) {
      link.setAttribute("aria-current", "true");
      if (!narrow.matches) {
        link.scrollIntoView({ block: "nearest" });
      }
    } else {
      link.removeAttribute("aria-current");
    }
  }
}

// The operation that crosses a line near the top of the window is the one that is read.
const watcher = new IntersectionObserver(
  (entries) => {
    const seen = entries.find((entry) => entry.isIntersecting);
    if (seen) {
      mark(seen.target.id);
    }
  },
  { rootMargin: "-12% 0px -87% 0px" },
);
for (const article of document.querySelectorAll("article.operation:not(.shape)")) {
  watcher.observe(article);
}

// --- search

const search = document.getElementById("search");
const nothing = document.getElementById("nothing");
const texts = new Map(
  [...links.keys()].map((id) => [id, document.getElementById(id).textContent.toLowerCase()]),
);

search.hidden = false;
search.addEventListener("input", () => {
  const searched = search.value.toLowerCase().split(/\s+/);
  let found = 0;
  for (const [id, link] of links) {
    const fits = searched.every((word) => texts.get(id).includes(word));
    link.parentElement.hidden = !fits;
    found += fits ? 1 : 0;
  }
  for (const list of contents.querySelectorAll("ul")) {
    const empty = !list.querySelector("li:not([hidden])");
    list.hidden = empty;
    list.previousElementSibling.hidden = empty;
  }
  nothing.hidden = found > 0;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, textarea")) {
    event.preventDefault();
    contents.open = true;
    search.focus();
  }
});

// --- try it

const MOST_CHARACTERS = 100_000;
const { operations, say } = JSON.parse(document.getElementById("page-data").textContent);
const trial = document.getElementById("trial");
// The key is in this field and nowhere else: browsers neither store nor fill it.
const key = document.getElementById("key");

document.getElementById("key-field").hidden = false;
key.value = "";
addEventListener("pagehide", () => {
  key.value = "";
});

function parameterField(parameter) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "text";
  input.autocomplete = "off";
  input.spellcheck = false;
  input.value = parameter.value;
  label.append(parameter.name, input);
  return label;
}

/** The address of a request, below the address of this page, and the rest of what `fetch` takes. */
function requestOf(operation, form) {
  let path = operation.path.slice("/api/v1/".length);
  const query = new URLSearchParams();
  const inputs = form.querySelectorAll(".parameters input");
  operation.parameters.forEach((parameter, place) => {
    const value = inputs[place].value;
    if (parameter.in === "path") {
      path = path.replace(`{${parameter.name}}`, encodeURIComponent(value));
    } else if (value !== "") {
      query.set(parameter.name, value);
    }
  });
  const url = new URL(path, location.href);
  url.search = query.toString();
  const headers = {};
  if (key.value.trim()) {
    headers.Authorization = `Bearer ${key.value.trim()}`;
  }
  let body;
  if (operation.file) {
    body = form.querySelector(".file input").files[0];
  } else if (operation.body !== null) {
    body = form.querySelector(".body textarea").value;
    JSON.parse(body);
    headers["Content-Type"] = "application/json";
  }
  return [url, { method: operation.method, headers, body, credentials: "omit", cache: "no-store" }];
}

/** Show a body as it arrives; JSON is indented at its end. */
async function show(response, code) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) {
      break;
    }
    text += value;
    if (text.length > MOST_CHARACTERS) {
      code.textContent = text.slice(0, MOST_CHARACTERS) + say.cut;
      await reader.cancel();
      return;
    }
    code.textContent = text;
  }
  try {
    code.textContent = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    code.textContent = text;
  }
}

async function send(operation, form) {
  const outcome = form.querySelector(".outcome");
  const answer = form.querySelector("pre");
  const stop = form.querySelector(".stop");
  const button = form.querySelector(".send");
  const ending = new AbortController();
  outcome.textContent = "";
  answer.hidden = true;
  answer.firstElementChild.textContent = "";
  let request;
  try {
    request = requestOf(operation, form);
  } catch (error) {
    outcome.textContent = `${say.bad_json}: ${error.message}`;
    return;
  }
  button.disabled = true;
  stop.hidden = false;
  stop.onclick = () => ending.abort();
  try {
    const [url, options] = request;
    const response = await fetch(url, { ...options, signal: ending.signal });
    outcome.textContent = `${response.status} ${response.statusText}`;
    outcome.dataset.good = response.ok;
    answer.hidden = false;
    if (response.body) {
      await show(response, answer.firstElementChild);
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      outcome.textContent = `${say.no_answer}: ${error.message}`;
      outcome.dataset.good = false;
    }
  } finally {
    button.disabled = false;
    stop.hidden = true;
  }
}

function formOf(operation) {
  const form = trial.content.cloneNode(true).firstElementChild;
  form.querySelector(".parameters").append(...operation.parameters.map(parameterField));
  if (operation.body === null) {
    form.querySelector(".body").remove();
  } else {
    form.querySelector(".body textarea").value = operation.body;
  }
  if (!operation.file) {
    form.querySelector(".file").remove();
  }
  form.querySelector(".send").addEventListener("click", () => send(operation, form));
  return form;
}

for (const button of document.querySelectorAll(".try")) {
  const article = button.closest("article");
  let form;
  button.hidden = false;
  button.addEventListener("click", () => {
    if (!form) {
      form = formOf(operations[article.id]);
      article.querySelector(".halves").before(form);
    } else {
      form.hidden = !form.hidden;
    }
    button.setAttribute("aria-expanded", String(!form.hidden));
  });
}
