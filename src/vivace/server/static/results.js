// What the listeners said, for who has the link to it. All that people wrote is set as text, never as markup.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function element(tag, name, text, ...inside) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  made.append(...inside);
  return made;
}

function part(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// One line for each estimate on a common axis.
function forest(rows, low, high, ticks, { band, zero, write }) {
  const width = Math.min(760, $("found").clientWidth), left = Math.min(150, width * 0.32), right = width - 28, height = 46 * rows.length + 34;
  const x = (value) => left + ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (right - left);
  const told = rows.map((r) => `${r.name}: ${r.estimate ? `${write(r.estimate.mean)} (${span(r.estimate, write)})` : "no ratings yet"}`).join("; ");
  const made = part("svg", { class: "forest", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told });
  if (band) made.append(part("rect", { class: "band", x: x(band[0]), y: 0, width: x(band[1]) - x(band[0]), height: height - 28 }));
  for (const tick of ticks) {
    made.append(part("line", { class: "axis", x1: x(tick), x2: x(tick), y1: 0, y2: height - 28 }));
    made.append(part("text", { class: "tick", x: x(tick), y: height - 10, "text-anchor": "middle" }, write(tick)));
  }
  if (zero !== undefined) made.append(part("line", { class: "zero", x1: x(zero), x2: x(zero), y1: 0, y2: height - 28 }));
  rows.forEach((row, k) => {
    const y = 46 * k + 30, e = row.estimate;
    made.append(part("text", { x: 0, y: y + 4 }, row.name.length > 20 ? `${row.name.slice(0, 19)}…` : row.name));
    if (!e) { made.append(part("text", { class: "tick", x: left + 8, y: y + 4 }, "no ratings yet")); return; }
    if (e.low !== null) made.append(part("line", { class: "range", x1: x(e.low), x2: x(e.high), y1: y, y2: y }));
    made.append(part("circle", { class: "dot", cx: x(e.mean), cy: y, r: 6 }));
    made.append(part("text", { x: Math.min(right - 30, Math.max(left + 30, x(e.mean))), y: y - 12, "text-anchor": "middle" }, write(e.mean)));
  });
  return made;
}

const span = (e, write) => (e.low === null ? "not known yet: two listeners and two texts are the least" : `${write(e.low)} to ${write(e.high)}`);

// Ties go to the even digit, as Python writes them: the same figure reads the same in the terminal.
function plain(value) {
  const size = Math.abs(value), tie = (size * 8) % 2 === 1, down = Math.floor(size * 100);
  return `${value < 0 ? "−" : ""}${(tie ? (down + (down % 2)) / 100 : size).toFixed(2)}`;
}

const signed = (value) => `${value > 0 ? "+" : ""}${plain(value)}`;
const share = (value) => `${Math.round(100 * Number(plain(value)))}%`;

function verdict(c, kind, margin) {
  const e = c.difference, write = kind === "acr" ? signed : share;
  if (!e) return "Nobody who counts has rated both yet.";
  const much = kind === "acr" ? `${margin} points` : `${share(margin)}`;
  const first = kind === "acr" ? `${c.system} lies ${write(e.mean)} from ${c.reference} (95% interval ${span(e, write)})` : `${share(e.mean)} prefer ${c.system} to ${c.reference} (95% interval ${span(e, write)}; a tie counts half)`;
  return `${first}; ${share(c.ties)} ties, ${e.n} pairs of ${e.listeners} listeners and ${e.texts} texts. ${c.holds ? `Not worse by ${much}: proven.` : `Not worse by ${much}: not proven.`}`;
}

async function load() {
  const answer = await fetch("/listen/api/results", { headers: { Authorization: `Bearer ${location.hash.slice(1)}` } }).catch(() => null);
  const body = await answer?.json().catch(() => null);
  if (!answer?.ok || !body) {
    $("found").hidden = true;
    $("alert").hidden = false;
    $("alert").textContent = body?.error?.message ? `${body.error.message}.` : "The server cannot be reached; try again.";
    return;
  }
  $("alert").hidden = true;
  $("found").hidden = false;
  const acr = body.kind === "acr";
  document.title = `Results: ${body.title}`;
  $("title").textContent = body.title;
  $("summary").textContent = `${body.ratings} ratings by ${body.counted} ${body.counted === 1 ? "listener who counts" : "listeners who count"}; ${body.screened_out} screened out; ${body.not_begun} invited who ${body.not_begun === 1 ? "has" : "have"} not begun.`;
  $("mos-section").hidden = !acr;
  if (acr) $("mos").replaceChildren(forest(body.systems.map((s) => ({ name: s.name, estimate: s.mos })), 1, 5, [1, 2, 3, 4, 5], { write: (v) => (Number.isInteger(v) ? String(v) : plain(v)) }));
  $("change-title").textContent = acr ? "Difference" : "Preference";
  $("change-lead").textContent = acr ? `Points of MOS from the first system, the same listener and text; green is within the margin of ${body.margin} that was fixed before.` : `Share that prefers it; green is within the margin of ${share(body.margin)} that was fixed before.`;
  const most = acr ? Math.max(1, ...body.comparisons.flatMap((c) => [c.difference?.low, c.difference?.high].map((v) => Math.ceil(Math.abs(v ?? 0) * 2) / 2))) : 0;
  const [low, high, ticks, middle] = acr ? [-most, most, [-most, -most / 2, 0, most / 2, most], 0] : [0, 1, [0, 0.25, 0.5, 0.75, 1], 0.5];
  const rows = body.comparisons.map((c) => ({ name: c.system, estimate: c.difference }));
  $("changes").replaceChildren(
    forest(rows, low, high, ticks, { band: [middle - body.margin, middle + body.margin], zero: middle, write: acr ? signed : share }),
    ...body.comparisons.map((c) => element("p", "verdict", verdict(c, body.kind, body.margin))),
  );
  const heads = [...document.querySelectorAll("thead th")].map((head) => head.textContent);
  $("people").replaceChildren(...body.verdicts.map((v, k) => {
    const mark = v.counted ? element("span", "tag good", "yes") : element("span", v.answered ? "tag bad" : "tag", `no: ${v.reason}`);
    const figures = [`${v.answered} of ${v.trials}`, `${v.checks_passed} of ${v.checks}`, v.hasty, v.agreement === null ? "–" : plain(v.agreement)];
    const cells = figures.map((text, column) => {
      const cell = element("td", "", text);
      cell.dataset.head = heads[column + 1]; // shown where the heads are not: on a phone
      return cell;
    });
    return element("tr", "", undefined, element("td", "word", body.names[k]), ...cells, element("td", "word", undefined, mark));
  }));
  $("comments-section").hidden = !body.comments.length;
  $("comments").replaceChildren(...body.comments.map(([who, text]) => element("li", "", undefined, element("p", "", text), element("small", "", body.names[who - 1]))));
}

$("again").addEventListener("click", load);
addEventListener("hashchange", load);
load();
