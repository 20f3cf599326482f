// What the reference page does beyond being read: samples are copied, the contents say where one is.

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
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.closest(".sample").querySelector("code").textContent);
    button.textContent = button.dataset.done;
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
