// Keys of every page: the list of keys, rows of tables, pages, search, saved views.

const TYPING = new Set(["INPUT", "TEXTAREA", "SELECT"]);

/** Whether a key press belongs to a field that takes text. */
export function isTyping(event) {
  const target = event.target;
  return event.ctrlKey || event.metaKey || event.altKey
    || (TYPING.has(target.tagName) && !["checkbox", "range"].includes(target.type)) || target.isContentEditable;
}

const keys = document.getElementById("keys");
document.getElementById("show-keys")?.addEventListener("click", () => keys.showModal());

function rowLinks() {
  return [...document.querySelectorAll("[data-rows] tbody tr")].map((row) => row.querySelector("a")).filter(Boolean);
}

function moveRow(step) {
  const links = rowLinks();
  if (!links.length) return;
  const now = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
  const next = now < 0 ? 0 : Math.min(Math.max(now + step, 0), links.length - 1);
  links[next].focus();
}

function follow(relation) {
  document.querySelector(`a[rel=${relation}]`)?.click();
}

const ACTIONS = {
  "?": () => keys.showModal(),
  j: () => moveRow(1),
  k: () => moveRow(-1),
  n: () => follow("next"),
  p: () => follow("prev"),
  "/": () => document.querySelector("[data-key='/']")?.focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.key === "Enter" && event.target.form) event.target.form.requestSubmit();
  if (isTyping(event) || keys.open) return;
  const action = ACTIONS[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
});

const views = document.getElementById("views");
if (views) savedViews(views);

/** Saved views are addresses; this browser keeps them under names. */
function savedViews(box) {
  const place = `avpref views of ${box.dataset.table}`;
  const list = document.getElementById("view-list");
  const read = () => {
    try {
      return JSON.parse(localStorage.getItem(place)) ?? {};
    } catch {
      return {};
    }
  };
  const draw = () => {
    const rows = Object.entries(read()).map(([name, query]) => {
      const row = document.createElement("li");
      const link = Object.assign(document.createElement("a"), { href: query || "?", textContent: name });
      const remove = Object.assign(document.createElement("button"), { type: "button", textContent: "Remove" });
      remove.setAttribute("aria-label", `Remove the view ${name}`);
      remove.addEventListener("click", () => {
        const { [name]: gone, ...others } = read();
        localStorage.setItem(place, JSON.stringify(others));
        draw();
      });
      row.append(link, " ", remove);
      return row;
    });
    list.replaceChildren(...rows);
  };
  document.getElementById("save-view").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = document.getElementById("view-name");
    localStorage.setItem(place, JSON.stringify({ ...read(), [field.value]: location.search }));
    field.value = "";
    draw();
  });
  draw();
}
