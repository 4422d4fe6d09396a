"use strict";
// One position, two recordings: the pair is compared at the same share of its length.
const clock = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
const pairs = [...document.querySelectorAll(".ab")].map((box) => {
  const clips = [box.dataset.a, box.dataset.b].map((id) => document.getElementById(id));
  const [play, slider, time] = [".play", "input", ".clock"].map((part) => box.querySelector(part));
  const sides = [...box.querySelectorAll(".switch button")];
  let on = 0;
  const share = () => (clips[on].duration ? clips[on].currentTime / clips[on].duration : 0);
  const seek = (clip, to) => { if (clip.duration) clip.currentTime = to * clip.duration; };
  const paint = () => {
    const playing = !clips[on].paused;
    box.classList.toggle("playing", playing);
    play.setAttribute("aria-label", playing ? "Pause" : "Play");
    slider.value = Math.round(share() * 1000);
    time.textContent = `${clock(clips[on].currentTime)} / ${clock(clips[on].duration || 0)}`;
    slider.setAttribute("aria-valuetext", time.textContent);
    if (playing) requestAnimationFrame(paint);
  };
  const choose = (side) => {
    if (side === on) return;
    const [old, next] = [clips[on], clips[side]];
    const playing = !old.paused;
    old.pause();
    seek(next, share());
    on = side;
    sides.forEach((button, k) => button.setAttribute("aria-pressed", String(k === on)));
    if (playing) next.play();
    paint();
  };
  const pair = { toggle: () => choose(1 - on), press: () => (clips[on].paused ? clips[on].play() : clips[on].pause()) };
  play.addEventListener("click", () => { current = pair; pair.press(); });
  sides.forEach((button, k) => button.addEventListener("click", () => { current = pair; choose(k); }));
  slider.addEventListener("input", () => { seek(clips[on], slider.value / 1000); paint(); });
  clips.forEach((clip) => {
    ["play", "pause", "ended", "loadedmetadata", "seeked"].forEach((name) => clip.addEventListener(name, paint));
    clip.addEventListener("play", () => { current = pair; });
  });
  box.hidden = false;
  paint();
  return pair;
});
let current = pairs[0];
document.addEventListener("keydown", (event) => {
  if (!current || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = { x: current.toggle, k: current.press }[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
});
document.addEventListener("play", (event) => {
  document.querySelectorAll("audio").forEach((other) => { if (other !== event.target) other.pause(); });
}, true);

document.querySelectorAll("table[data-sortable]").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, k) => row.cells[k].dataset.order ?? row.cells[k].textContent.trim();
  heads.forEach((head, k) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = new Intl.Collator(undefined, { numeric: true }).compare;
      const order = (a, b) => (isNaN(a) || isNaN(b) ? compare(a, b) : a - b);
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (up ? 1 : -1) * order(key(a, k), key(b, k))).forEach((row) => table.tBodies[0].append(row));
    });
  });
});
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((part) => { part.open = true; });
});
window.addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));
