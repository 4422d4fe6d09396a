// A listening test for one listener, whose signed link is behind the # of the address.
const $ = (id) => document.getElementById(id);
const token = location.hash.slice(1);
const KINDS = {
  acr: {
    what: "You hear one short clip at a time and say how good the speech sounds.",
    ask: "How good does the speech sound?",
    answers: [[5, "Excellent"], [4, "Good"], [3, "Fair"], [2, "Poor"], [1, "Bad"]],
    number: true,
  },
  preference: {
    what: "You hear the same sentence twice and say which one sounds better.",
    ask: "Which one sounds better?",
    answers: [[-1, "A sounds better"], [0, "No difference"], [1, "B sounds better"]],
    number: false,
  },
};
let test = null, at = 0, players = [], ready = new Map();

class Refused extends Error {}

async function call(path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/listen/api/${path}`, { method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers });
  } catch { throw new Error("the server cannot be reached; look at your connection and try again"); }
  if (answer.ok) return answer;
  let message = `the server answered ${answer.status}; try again`;
  try { message = (await answer.json()).error.message; } catch { /* no JSON: the number says enough */ }
  throw answer.status === 403 ? new Refused(message) : new Error(message);
}

function complain(error) {
  $("alert").hidden = !error;
  $("alert").textContent = error ? `${error.message[0].toUpperCase()}${error.message.slice(1)}.` : "";
  if (error instanceof Refused) for (const id of ["start", "trial", "end"]) $(id).hidden = true;
}

function only(id) {
  for (const other of ["start", "trial", "end"]) $(other).hidden = other !== id;
}

async function open() {
  try {
    if (!token) throw new Refused("this address is not complete; open the link as it was sent");
    test = await (await call("test")).json();
  } catch (error) { complain(error); return; }
  const kind = KINDS[test.kind], done = test.trials.filter((t) => t.answer !== null).length, total = test.trials.length;
  document.title = test.title;
  $("title").textContent = test.title;
  $("what").textContent = kind.what;
  const minutes = Math.max(1, Math.round((total - done) * (test.kind === "acr" ? 9 : 15) / 60));
  $("how-long").textContent = done ? `You have answered ${done} of ${total}; about ${minutes} min are left.` : `${total} trials, about ${minutes} min.`;
  $("begin").textContent = done ? "Go on" : "Begin";
  $("ask").textContent = kind.ask;
  at = test.trials.findIndex((t) => t.answer === null);
  if (at < 0) finish(); else only("start");
}

$("begin").addEventListener("click", () => { only("trial"); show(at); });

// ---- one trial
async function fetched(trial, side) {
  const key = `${trial}/${side}`;
  if (!ready.has(key)) {
    const asked = call(`clip/${key}`).then((answer) => answer.blob()).then((blob) => URL.createObjectURL(blob));
    ready.set(key, asked);
    asked.catch(() => ready.delete(key));
  }
  return ready.get(key);
}

async function show(trial) {
  at = trial;
  players.forEach((p) => p.audio.pause());
  const { clips, answer } = test.trials[trial], kind = KINDS[test.kind], total = test.trials.length;
  $("where").textContent = `${trial + 1} of ${total}`;
  $("bar").max = total;
  $("bar").value = trial;
  $("back").disabled = trial === 0;
  $("next").textContent = trial + 1 === total ? "Finish" : "Next";
  $("clips").className = clips > 1 ? "clips two" : "clips";
  players = Array.from({ length: clips }, (_, side) => player(side, clips));
  $("clips").replaceChildren(...players.map((p) => p.button));
  $("answers").replaceChildren(...kind.answers.map(([value, word], k) => choice(value, word, kind, k)));
  allow();
  if (answer !== null) { $("answers").querySelector(`[value="${answer}"]`).checked = true; players.forEach((p) => { p.heard = true; }); }
  allow();
  $("where").focus({ preventScroll: true });
  for (const [side, p] of players.entries()) {
    try { p.audio.src = await fetched(trial, side); complain(null); } catch (error) { complain(error); return; }
    if (at !== trial) return;
  }
  if (trial + 1 < total) for (let side = 0; side < test.trials[trial + 1].clips; side++) fetched(trial + 1, side).catch(() => {});
}

function player(side, clips) {
  const button = document.createElement("button"), audio = new Audio(), name = clips > 1 ? "AB"[side] : "Clip";
  button.type = "button";
  button.className = "clip";
  const knob = document.createElement("span"), words = document.createElement("span"), line = document.createElement("span");
  const strong = document.createElement("strong"), small = document.createElement("small");
  knob.className = "knob";
  line.className = "line";
  knob.ariaHidden = line.ariaHidden = "true";
  strong.textContent = clips > 1 ? name : "Play the clip";
  small.textContent = "not heard yet";
  words.append(strong, small);
  button.append(knob, words, line);
  const made = { button, audio, heard: false };
  const paint = () => {
    const on = !audio.paused && !audio.ended;
    button.classList.toggle("on", on);
    small.textContent = on ? "playing" : made.heard ? "heard; play it again if you like" : "not heard yet";
    button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${clips > 1 ? name : "the clip"}${made.heard ? ", heard" : ""}`);
    line.style.transform = `scaleX(${audio.duration ? audio.currentTime / audio.duration : 0})`;
    if (on) requestAnimationFrame(paint);
  };
  button.addEventListener("click", async () => {
    if (!audio.paused) { audio.pause(); return; }
    players.forEach((p) => { if (p !== made) { p.audio.pause(); p.audio.currentTime = 0; } });
    try {
      if (!audio.src) audio.src = await fetched(at, side);
      await audio.play();
      complain(null);
    } catch (error) { if (error.name !== "AbortError") complain(error instanceof DOMException ? new Error("the clip cannot be played here; try another browser") : error); }
  });
  for (const event of ["play", "pause", "seeked"]) audio.addEventListener(event, paint);
  audio.addEventListener("ended", () => {
    made.heard = true;
    audio.currentTime = 0;
    paint();
    allow();
  });
  paint();
  return made;
}

function choice(value, word, kind, k) {
  const label = document.createElement("label"), input = document.createElement("input"), span = document.createElement("span");
  label.className = "choice";
  input.type = "radio";
  input.name = "answer";
  input.value = value;
  input.addEventListener("change", allow);
  if (kind.number) { const b = document.createElement("b"); b.textContent = value; span.append(b); }
  span.append(word);
  if (!kind.number) {
    const key = document.createElement("kbd");
    key.textContent = k + 1;
    key.ariaHidden = "true";
    span.append(key);
  }
  label.append(input, span);
  return label;
}

// Answers wait until every clip was heard to its end; the next trial waits for an answer.
function allow() {
  const heard = players.every((p) => p.heard);
  for (const input of $("answers").querySelectorAll("input")) input.disabled = !heard;
  const chosen = $("answers").querySelector("input:checked");
  $("next").disabled = !heard || !chosen;
  const left = players.filter((p) => !p.heard).length;
  $("hint").textContent = heard ? (chosen ? "" : "Choose an answer.") : players.length > 1 ? (left === 2 ? "Hear both first." : "Hear the other one too.") : "Hear the clip first.";
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const chosen = $("answers").querySelector("input:checked");
  if ($("next").disabled || !chosen) return;
  $("next").disabled = true;
  const trial = at, answer = Number(chosen.value);
  try {
    await call("rating", { trial, answer });
  } catch (error) { complain(error); $("next").disabled = false; return; } // still here, still chosen: try again
  complain(null);
  test.trials[trial].answer = answer;
  const open = test.trials.findIndex((t, k) => k > trial && t.answer === null);
  const rest = test.trials.findIndex((t) => t.answer === null);
  if (rest < 0) finish(); else show(open < 0 ? rest : open);
});
$("back").addEventListener("click", () => show(Math.max(0, at - 1)));
$("again").addEventListener("click", () => { only("trial"); show(test.trials.length - 1); });

document.addEventListener("keydown", (event) => {
  if ($("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const digit = Number(event.key), kind = KINDS[test.kind];
  const inputs = [...$("answers").querySelectorAll("input")];
  const wanted = event.key === "0" ? null : kind.number ? inputs.find((i) => i.value === event.key) : inputs[digit - 1];
  if (wanted && !wanted.disabled) { wanted.checked = true; wanted.focus(); allow(); event.preventDefault(); }
  const side = players.length > 1 ? { a: 0, b: 1 }[event.key.toLowerCase()] : { p: 0 }[event.key.toLowerCase()];
  if (side !== undefined) { players[side].button.click(); event.preventDefault(); }
  if (event.key === "Enter" && event.target.matches("[name=answer], #where") && !$("next").disabled) { $("form").requestSubmit(); event.preventDefault(); }
});

function finish() {
  players.forEach((p) => p.audio.pause());
  only("end");
  $("thanks").focus();
}

$("comment-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const comment = $("comment").value.trim();
  if (!comment) return;
  try {
    await call("comment", { comment });
    $("comment").value = "";
    $("told").textContent = "Sent";
    $("comment-form").querySelector("[type=submit]").textContent = "Sent, thank you";
    complain(null);
  } catch (error) { complain(error); }
});

addEventListener("hashchange", () => location.reload());
open();
