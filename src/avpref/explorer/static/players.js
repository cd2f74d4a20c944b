// Makes a player of every element with data-player on the page, with its keys and its timeline.

import { isTyping } from "./page.js";
import { Player } from "./player.js";
import { drawTimeline } from "./timeline.js";

for (const root of document.querySelectorAll("[data-player]")) {
  const player = new Player(root);
  root.player = player;
  connect(root, player);
  const timeline = root.querySelector("[data-timeline]");
  if (timeline) drawTimeline(timeline, player);
}

function connect(root, player) {
  const actions = {
    play: () => player.toggle(),
    hear0: () => player.hear(0),
    hear1: () => player.hear(1),
    back: () => player.step(-1),
    forward: () => player.step(1),
    swap: () => root.querySelector(".stage").classList.toggle("swapped"),
  };
  for (const [name, action] of Object.entries(actions)) {
    root.querySelector(`[data-do=${name}]`)?.addEventListener("click", action);
  }
  const loop = root.querySelector("[data-do=loop]");
  const speed = root.querySelector("[data-do=speed]");
  const seek = root.querySelector("[data-do=seek]");
  loop.addEventListener("change", () => player.setLoop(loop.checked));
  speed.addEventListener("change", () => player.setRate(Number(speed.value)));
  seek.addEventListener("input", () => player.seek((seek.value / 1000) * player.duration));
  const faster = (step) => {
    speed.selectedIndex = Math.min(Math.max(speed.selectedIndex + step, 0), speed.options.length - 1);
    player.setRate(Number(speed.value));
  };
  const keys = {
    " ": actions.play,
    a: actions.hear0,
    b: actions.hear1,
    ArrowLeft: actions.back,
    ArrowRight: actions.forward,
    s: actions.swap,
    Home: () => player.seek(0),
    l: () => player.setLoop((loop.checked = !loop.checked)),
    "[": () => faster(-1),
    "]": () => faster(1),
  };
  document.addEventListener("keydown", (event) => {
    const button = event.target.closest?.("button, a, summary");
    if (isTyping(event) || document.querySelector("dialog[open]")) return;
    if ((event.key === " " && button) || (event.target.type === "range" && event.key.startsWith("Arrow"))) return;
    const action = keys[event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  });
  player.addEventListener("change", () => show(root, player, seek));
}

function show(root, player, seek) {
  root.querySelector("[data-do=play]").textContent = player.playing ? "Pause" : "Play";
  root.querySelector("[data-show=time]").textContent = `${player.now().toFixed(2)} of ${player.duration.toFixed(2)} s`;
  root.querySelector("[data-show=drift]").textContent = player.playing ? `drift ${player.driftMs().toFixed(0)} ms` : "";
  if (document.activeElement !== seek || player.playing) seek.value = (player.now() / player.duration) * 1000;
  root.querySelectorAll("[data-side]").forEach((side, index) => {
    side.querySelector(".hearing").hidden = player.heard !== index;
    root.querySelector(`[data-do=hear${index}]`)?.setAttribute("aria-checked", String(player.heard === index));
  });
  const problem = root.querySelector("[data-show=problem]");
  problem.hidden = !player.problem;
  problem.textContent = player.problem;
}
