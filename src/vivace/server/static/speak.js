import { RATE, Take, context, draw, wav } from "./sound.js";

const $ = (id) => document.getElementById(id);
const MOST_TAKES = 12, LETTER = 0.068; // seconds of speech for a letter: how wide the empty picture is at first
let models = [], take = null, asking = null, painting = false, saved = "";

// ---- the server
function headers(more = {}) {
  const key = sessionStorage.getItem("vivace-key");
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function get(path) {
  const answer = await fetch(path, { headers: headers() });
  if (answer.status === 401) { askForKey(); throw new Error("a key is needed"); }
  if (!answer.ok) throw new Error(await reason(answer));
  return answer.json();
}

async function reason(answer) {
  try { return (await answer.json()).error.message; } catch { return `the server answered ${answer.status}`; }
}

function askForKey() {
  $("key-open").hidden = false;
  if (!$("key-dialog").open) $("key-dialog").showModal();
}
$("key-open").addEventListener("click", askForKey);
$("key-form").addEventListener("submit", () => {
  sessionStorage.setItem("vivace-key", $("key").value.trim());
  $("key").value = "";
  load();
});

// ---- what can be chosen
function options(select, entries) {
  const before = select.value;
  select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  if (entries.some(([value]) => value === before)) select.value = before;
}

let voices = [];
async function load() {
  try {
    const [listed, spoken, evidence] = await Promise.all([get("/v1/models"), get("/v1/audio/voices"), get("/v1/evidence")]);
    [models, voices] = [listed.data, spoken.voices];
    options($("model"), models.map((m) => [m.id, m.id]));
    chosen();
    showVariants(evidence.data);
    complain("");
  } catch (error) { complain(`The server cannot be reached: ${error.message}.`); }
}

function chosen() {
  const model = models.find((m) => m.id === $("model").value);
  if (!model) return;
  options($("voice"), voices.filter((v) => v.model === model.id).map((v) => [v.id, v.name]));
  options($("variant"), [["", model.variants.length > 1 ? "Automatic" : model.variants[0].name], ...(model.variants.length > 1 ? model.variants.map((v) => [v.name, v.name]) : [])]);
}
$("model").addEventListener("change", chosen);

function showVariants(entries) {
  $("variants").replaceChildren(...entries.map((e) => {
    const up = models.find((m) => m.id === e.model)?.variants.find((v) => v.name === e.variant)?.up;
    const passes = e.passes.length ? e.passes.map((p) => element("span", "tag", p)) : [element("span", "quiet", "as it was imported")];
    const title = element("h3", "", "", element("span", "", e.model === e.variant ? e.variant : `${e.model} · ${e.variant}`), element("span", up ? "tag good" : "tag bad", up ? "up" : "down"));
    const facts = element("p", "quiet", `${e.megabytes} MB, ${(e.sample_rate / 1000).toLocaleString("en")} kHz`);
    const more = e.url ? element("a", "button small", "Evidence") : element("small", "", "No evidence: it has not been through the gate.");
    if (e.url) { more.href = e.url; more.target = "_blank"; more.rel = "noopener"; more.setAttribute("aria-label", `Evidence of ${e.variant} (opens a new tab)`); }
    return element("li", "card", "", title, facts, element("p", "passes", "", ...passes), element("p", "", "", more));
  }));
}

function element(tag, name, text = "", ...inside) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text) made.textContent = text;
  made.append(...inside);
  return made;
}

// ---- speaking
function complain(text) {
  $("alert").textContent = text;
  $("alert").hidden = !text;
}

async function speak() {
  const text = $("text").value.trim();
  if (!text) { complain("There is nothing to say: type a text first."); $("text").focus(); return; }
  stop();
  complain("");
  context(); // within the click: browsers allow sound only then
  const mine = new Take(), begun = performance.now();
  mine.text = text;
  take = mine;
  const mineAsking = asking = new AbortController();
  busy(true);
  show(mine);
  try {
    const body = { model: $("model").value, voice: $("voice").value, variant: $("variant").value, speed: Number($("speed").value), input: text, response_format: "pcm", stream_format: "audio" };
    const answer = await fetch("/v1/audio/speech", { method: "POST", body: JSON.stringify(body), headers: headers({ "Content-Type": "application/json" }), signal: mineAsking.signal });
    if (answer.status === 401) askForKey();
    if (!answer.ok) throw new Error(await reason(answer));
    mine.by = decodeURIComponent(answer.headers.get("X-Vivace-Variant") ?? "");
    mine.voice = `${$("model").value}${$("voice").value === $("model").value ? "" : `, ${$("voice").value}`}`;
    let odd = new Uint8Array(0);
    for (const reader = answer.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      const bytes = new Uint8Array(odd.length + value.length);
      bytes.set(odd);
      bytes.set(value, odd.length);
      const even = bytes.length & ~1;
      odd = bytes.slice(even);
      if (!even) continue;
      const samples = Float32Array.from(new Int16Array(bytes.buffer.slice(0, even)), (s) => s / 32768);
      if (!mine.length) {
        mine.ttfa = performance.now() - begun;
        mine.play(0);
        $("told").textContent = "Speaking";
      }
      mine.push(samples);
      mine.spent = (performance.now() - begun) / 1000;
      show(mine);
    }
    mine.done = true;
    if (!mine.length) throw new Error("the voice made no sound");
    finished(mine);
  } catch (error) {
    mine.done = true;
    if (error.name !== "AbortError") {
      complain(mine.length ? `It broke off after ${mine.seconds.toFixed(1)} s: ${error.message}.` : `It could not be spoken: ${error.message}.`);
    }
    if (mine.length) finished(mine);
  } finally {
    if (asking === mineAsking) { asking = null; busy(false); }
    show(mine);
  }
}

function finished(mine) {
  mine.done = true;
  $("told").textContent = `Done: ${mine.seconds.toFixed(1)} seconds of speech, first sound after ${Math.round(mine.ttfa)} milliseconds, real-time factor ${factor(mine)}.`;
  remember(mine);
}

function stop() {
  asking?.abort();
  take?.pause();
}

function busy(on) {
  $("go-word").textContent = on ? "Stop" : "Speak";
  $("go").querySelector("path").setAttribute("d", on ? "M3 3h10v10H3z" : "M3 1.5v13L14 8z");
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (asking) stop(); else speak();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); stop(); speak(); }
  if (event.key === "Escape" && !$("key-dialog").open && (asking || take?.playing)) { stop(); show(take); }
});

// ---- what is shown
const factor = (t) => (t.spent / t.seconds).toFixed(t.spent / t.seconds < 0.1 ? 3 : 2);
const time = (s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;

function show(mine) {
  if (mine !== take) return;
  $("ttfa").textContent = mine.ttfa === undefined ? "…" : `${Math.round(mine.ttfa)} ms`;
  $("rtf").textContent = mine.length ? factor(mine) : "…";
  $("length").textContent = mine.length ? `${mine.seconds.toFixed(1)} s` : "…";
  $("length-note").textContent = mine.waits ? `with ${mine.waits} ${mine.waits === 1 ? "gap" : "gaps"} while it was made` : "seconds of sound";
  $("by").textContent = mine.by || "…";
  $("by-note").textContent = mine.voice || "the variant that answered";
  $("empty").hidden = true;
  $("play").disabled = $("seek").disabled = !mine.length;
  $("save").hidden = !(mine.done && mine.length);
  if (!painting) { painting = true; requestAnimationFrame(paint); }
}

function paint() {
  painting = false;
  if (!take) return;
  const at = take.position();
  const span = take.done ? take.seconds || 1 : Math.max(take.seconds, LETTER * take.text.length, 1);
  draw(take, $("wave"), $("spectrum"), span, at);
  $("play").setAttribute("aria-pressed", String(take.playing));
  $("play").setAttribute("aria-label", take.playing ? "Pause" : "Play");
  if (document.activeElement !== $("seek") || take.playing) $("seek").value = Math.round((1000 * at) / span);
  $("clock").textContent = `${time(at)} / ${time(take.seconds)}`;
  $("seek").setAttribute("aria-valuetext", `${at.toFixed(1)} of ${take.seconds.toFixed(1)} seconds`);
  $("wave").setAttribute("aria-label", `Waveform of ${take.seconds.toFixed(1)} seconds of speech`);
  $("spectrum").setAttribute("aria-label", `Spectrogram of ${take.seconds.toFixed(1)} seconds of speech, up to 12 kilohertz`);
  for (const row of $("takes").rows) row.cells[0].firstChild.setAttribute("aria-pressed", String(row.take === take && take.playing));
  if (take.playing || asking) { painting = true; requestAnimationFrame(paint); }
}
addEventListener("resize", () => { if (take) show(take); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (take) show(take); });

$("play").addEventListener("click", () => { if (take.playing) take.pause(); else take.play(); show(take); });
$("seek").addEventListener("input", () => {
  const to = (Number($("seek").value) / 1000) * take.seconds;
  if (take.playing) take.play(to); else take.place = to;
  show(take);
});
for (const canvas of [$("wave"), $("spectrum")]) {
  canvas.addEventListener("click", (event) => {
    if (!take?.done || !take.length) return;
    take.play((event.offsetX / canvas.clientWidth) * take.seconds);
    show(take);
  });
}
$("save").addEventListener("click", () => {
  if (saved) URL.revokeObjectURL(saved);
  saved = URL.createObjectURL(wav(take.whole()));
  $("save").href = saved;
  $("save").download = "vivace.wav";
});

// ---- takes
function remember(mine) {
  const play = element("button", "round tiny");
  play.type = "button";
  play.setAttribute("aria-label", `Play: ${mine.text.slice(0, 60)}, by ${mine.by}`);
  play.setAttribute("aria-pressed", "false");
  play.addEventListener("click", () => {
    if (take === mine && mine.playing) mine.pause();
    else { stop(); take = mine; mine.play(0); }
    show(mine);
  });
  const cell = (name, text) => element("td", name, text);
  const row = element("tr", "", "", element("td", "", "", play), cell("word said", mine.text), cell("word by", `${mine.by} (${mine.voice})`), cell("figure", `${Math.round(mine.ttfa)} ms`), cell("figure rtf", factor(mine)), cell("figure", `${mine.seconds.toFixed(1)} s`));
  row.take = mine;
  $("takes").prepend(row);
  while ($("takes").rows.length > MOST_TAKES) $("takes").lastChild.remove();
  $("takes-section").hidden = false;
}

const count = () => { $("count").textContent = `${$("text").value.length.toLocaleString("en")} of 4,096`; };
$("text").addEventListener("input", count);
$("speed").addEventListener("input", () => { $("speed-told").textContent = `${Number($("speed").value).toFixed(2).replace(/0$/, "")}×`; });
count();
load();
