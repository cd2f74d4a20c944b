// The voting page: answers by keys or by touch, after both clips were played; a vote is sent at once and is safe when it is confirmed.

const form = document.getElementById("ballot");
const aspects = [...form.querySelectorAll("[data-aspect]")];
const [send, undo, hint, problem] = ["send", "undo", "hint", "problem"].map((id) => document.getElementById(id));
const player = document.querySelector("[data-player]").player;
const begun = performance.now();
const ANSWERS = { 1: "left", 2: "tie", 3: "right" };
let marked = 0;
let sending = false;

const answer = (aspect) => aspect.querySelector("input:checked")?.value;
const needed = (side) => Number(form.dataset.heardShare) * side.duration;
const isHeard = () => player.sides.every((side) => side.heardS >= needed(side));

function refresh() {
  const open = aspects.filter((aspect) => !answer(aspect)).length;
  const unheard = player.sides.map((side, index) => (side.heardS >= needed(side) ? "" : "AB"[index])).filter(Boolean);
  send.disabled = sending || open > 0 || unheard.length > 0;
  hint.textContent = unheard.length
    ? `Play with the sound of ${unheard.join(" and ")} first (keys a and b).`
    : open ? `${open} of ${aspects.length} to answer.` : "Ready to save.";
  aspects.forEach((aspect, index) => aspect.classList.toggle("marked", index === marked));
}

function mark(index) {
  marked = Math.min(Math.max(index, 0), aspects.length - 1);
  refresh();
  aspects[marked].scrollIntoView({ block: "nearest" });
}

function choose(value) {
  aspects[marked].querySelector(`input[value=${value}]`).checked = true;
  const next = aspects.findIndex((aspect, index) => index > marked && !answer(aspect));
  mark(next < 0 ? marked + 1 : next);
}

async function save() {
  if (send.disabled) return refresh();
  sending = true;
  refresh();
  const vote = {
    revision: Number(form.dataset.revision),
    answers: Object.fromEntries(aspects.map((aspect) => [aspect.dataset.aspect, answer(aspect)])),
    seconds: (performance.now() - begun) / 1000,
    heard_s: player.sides.map((side) => side.heardS),
  };
  try {
    const reply = await fetch(form.dataset.send, { method: "POST", body: JSON.stringify(vote), headers: { "Content-Type": "application/json" } });
    const document = await reply.json();
    if (reply.ok) return location.assign(document.next);
    show(`Not saved: ${document.found}. ${document.fix}`);
  } catch {
    show("Not saved: the server does not answer. Your answers are still here; try again when it is back.");
  }
  sending = false;
  refresh();
}

function show(text) {
  problem.textContent = text;
  problem.hidden = false;
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.().catch(() => show("This browser shows no full screen."));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  save();
});
form.addEventListener("change", (event) => mark(aspects.indexOf(event.target.closest("[data-aspect]"))));
undo.addEventListener("click", () => form.dataset.undo && location.assign(form.dataset.undo));
document.getElementById("full").addEventListener("click", fullScreen);
player.addEventListener("change", () => (isHeard() || player.playing) && refresh());

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const actions = {
    ArrowUp: () => mark(marked - 1),
    ArrowDown: () => mark(marked + 1),
    Enter: save,
    u: () => undo.click(),
    f: fullScreen,
  };
  const action = event.key in ANSWERS ? () => choose(ANSWERS[event.key]) : actions[event.key];
  if (!action || (event.key === "Enter" && event.target.closest("button, a, summary"))) return;
  event.preventDefault();
  action();
});
refresh();
