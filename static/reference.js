// The reference page: the buttons that copy samples, the contents, which say where the reader is, the search, and the
// forms that send requests.

import { copyText } from "./page-parts.js";

const COPIED_MS = 2_000;
const narrow = matchMedia("(max-width: 52rem)");
const contents = document.getElementById("contents");

function foldIfNarrow() {
  contents.open = !narrow.matches;
}

narrow.addEventListener("change", foldIfNarrow);
foldIfNarrow();
contents.addEventListener("click", (event) => {
  if (narrow.matches && event.target.closest("a")) {
    contents.open = false;
  }
});

for (const button of document.querySelectorAll(".copy")) {
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const sample = button.closest(".sample").querySelector("code").textContent;
    if (await copyText(sample)) button.textContent = button.dataset.done;
    setTimeout(() => {
      button.textContent = label;
    }, COPIED_MS);
  });
}

// The id of an operation → its link in the contents.
const links = new Map([...contents.querySelectorAll("li a")].map((link) => [link.hash.slice(1), link]));

/** Marks an operation in the contents as the one that is read. */
function markCurrent(id) {
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
    const crossing = entries.find((entry) => entry.isIntersecting);
    if (crossing) {
      markCurrent(crossing.target.id);
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
    const isFound = searched.every((word) => texts.get(id).includes(word));
    link.parentElement.hidden = !isFound;
    if (isFound) found += 1;
  }
  for (const list of contents.querySelectorAll("ul")) {
    const isEmpty = !list.querySelector("li:not([hidden])");
    list.hidden = isEmpty;
    list.previousElementSibling.hidden = isEmpty; // its heading
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

/** The address of a request and the options of `fetch`. Throws SyntaxError if the body is not JSON. */
function requestOf(operation, form) {
  let path = operation.path.slice("/api/v1/".length); // below the address of this page
  const query = new URLSearchParams();
  const inputs = form.querySelectorAll(".parameters input");
  operation.parameters.forEach((parameter, index) => {
    const { value } = inputs[index];
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
    JSON.parse(body); // only to check it
    headers["Content-Type"] = "application/json";
  }
  return [url, { method: operation.method, headers, body, credentials: "omit", cache: "no-store" }];
}

/** Shows a body as it arrives; JSON is indented at its end. */
async function showBody(response, code) {
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

/** Sends the request of a form, and shows the answer, or why there is none. It may be stopped meanwhile. */
async function send(operation, form) {
  const outcome = form.querySelector(".outcome");
  const answer = form.querySelector("pre");
  const stop = form.querySelector(".stop");
  const button = form.querySelector(".send");
  const controller = new AbortController();
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
  stop.onclick = () => controller.abort();
  try {
    const [url, options] = request;
    const response = await fetch(url, { ...options, signal: controller.signal });
    outcome.textContent = `${response.status} ${response.statusText}`;
    outcome.dataset.good = response.ok;
    answer.hidden = false;
    if (response.body) {
      await showBody(response, answer.firstElementChild);
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

/** The form of an operation: a copy of the template, with the fields that the operation has. */
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
