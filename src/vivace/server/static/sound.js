// Sound that grows: samples are kept, played and drawn while more of them arrive.
export const RATE = 24000; // of the server's pcm
const AHEAD = 0.06; // seconds between the first samples and their sound: what the audio thread needs
let shared = null;

// One context for the page, of the samples' own rate: chunks then join without resampling. Call it from a click.
export function context() {
  shared ??= new AudioContext({ sampleRate: RATE });
  if (shared.state === "suspended") shared.resume();
  return shared;
}

// Mono samples in pieces; plays from any place, and goes on into what is still being made.
export class Take {
  constructor() {
    this.pieces = [];
    this.length = 0;
    this.done = false;
    this.playing = false;
    this.place = 0; // seconds, where playing stopped
    this.nodes = new Set();
    this.peaks = [];
    this.bands = new Bands();
    this.waits = 0; // times that a listener heard a gap
  }

  get seconds() { return this.length / RATE; }

  push(samples) {
    this.pieces.push(samples);
    this.length += samples.length;
    addPeaks(this.peaks, samples);
    this.bands.push(samples);
    if (this.playing) this.#schedule(samples);
  }

  play(from = this.position()) {
    const ctx = context();
    this.#silence();
    if (this.done && from >= this.seconds - 0.01) from = 0;
    this.playing = true;
    this.start = ctx.currentTime + AHEAD - from;
    this.next = ctx.currentTime + AHEAD;
    const rest = this.whole().subarray(Math.round(from * RATE));
    if (rest.length) this.#schedule(rest);
  }

  pause() {
    this.place = this.position();
    this.playing = false;
    this.#silence();
  }

  // Seconds from the beginning that are being heard now.
  position() {
    if (!this.playing) return this.place;
    const at = Math.min(Math.max(0, context().currentTime - this.start), this.seconds);
    if (this.done && at >= this.seconds) { this.playing = false; this.place = this.seconds; }
    return at;
  }

  whole() {
    const all = new Float32Array(this.length);
    let at = 0;
    for (const piece of this.pieces) { all.set(piece, at); at += piece.length; }
    this.pieces = [all];
    return all;
  }

  #schedule(samples) {
    const ctx = context();
    const soonest = ctx.currentTime + 0.01;
    if (this.next < soonest) { // what was there has been played: a gap, after which the rest follows
      this.start += soonest - this.next;
      this.next = soonest;
      this.waits += 1;
    }
    const buffer = ctx.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(samples, 0);
    const node = ctx.createBufferSource();
    node.buffer = buffer;
    node.connect(ctx.destination);
    node.start(this.next);
    this.nodes.add(node);
    node.onended = () => this.nodes.delete(node);
    this.next += samples.length / RATE;
  }

  #silence() {
    for (const node of this.nodes) { node.onended = null; node.stop(); }
    this.nodes.clear();
  }
}

const PEAK = 240; // samples for one peak: 10 ms
function addPeaks(peaks, samples) {
  for (let at = 0; at < samples.length; at += PEAK) {
    let most = 0;
    for (let k = at; k < Math.min(samples.length, at + PEAK); k++) most = Math.max(most, Math.abs(samples[k]));
    peaks.push(most);
  }
}

// Mel bands every 10 ms, as bytes: 0 is 80 dB below full scale.
const SIZE = 512, HOP = 240, MELS = 80;
class Bands {
  constructor() { this.columns = []; this.rest = new Float32Array(0); }

  push(samples) {
    const all = new Float32Array(this.rest.length + samples.length);
    all.set(this.rest);
    all.set(samples, this.rest.length);
    let at = 0;
    for (; at + SIZE <= all.length; at += HOP) this.columns.push(column(all, at));
    this.rest = all.slice(at);
  }
}

const window_ = Float32Array.from({ length: SIZE }, (_, k) => 0.5 - 0.5 * Math.cos((2 * Math.PI * k) / SIZE));
const mel = (hz) => 2595 * Math.log10(1 + hz / 700);
const hertz = (m) => 700 * (10 ** (m / 2595) - 1);
const edges = Array.from({ length: MELS + 2 }, (_, k) => (hertz((k * mel(RATE / 2)) / (MELS + 1)) * SIZE) / RATE);
const re = new Float32Array(SIZE), im = new Float32Array(SIZE);

function column(samples, at) {
  for (let k = 0; k < SIZE; k++) { re[k] = samples[at + k] * window_[k]; im[k] = 0; }
  fft(re, im);
  const found = new Uint8Array(MELS);
  for (let band = 0; band < MELS; band++) {
    const [low, mid, high] = [edges[band], edges[band + 1], edges[band + 2]];
    const [rise, fall] = [Math.max(1, mid - low), Math.max(1, high - mid)]; // no band narrower than a bin
    let power = 0, weights = 0;
    for (let bin = Math.ceil(mid - rise); bin <= Math.min(SIZE / 2, mid + fall); bin++) {
      const weight = Math.max(0, Math.min((bin - mid) / rise + 1, (mid - bin) / fall + 1));
      power += weight * (re[bin] ** 2 + im[bin] ** 2);
      weights += weight;
    }
    const db = 10 * Math.log10(power / (weights || 1) + 1e-12) - 20 * Math.log10(SIZE / 4);
    found[band] = Math.max(0, Math.min(255, ((db + 80) / 80) * 255));
  }
  return found;
}

// In place, radix 2 (Cooley and Tukey 1965).
function fft(a, b) {
  for (let i = 1, j = 0; i < SIZE; i++) {
    let bit = SIZE >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) { [a[i], a[j]] = [a[j], a[i]]; [b[i], b[j]] = [b[j], b[i]]; }
  }
  for (let half = 1; half < SIZE; half <<= 1) {
    for (let k = 0; k < half; k++) {
      const wr = Math.cos((-Math.PI * k) / half), wi = Math.sin((-Math.PI * k) / half);
      for (let i = k; i < SIZE; i += 2 * half) {
        const j = i + half;
        const tr = a[j] * wr - b[j] * wi, ti = a[j] * wi + b[j] * wr;
        a[j] = a[i] - tr; b[j] = b[i] - ti;
        a[i] += tr; b[i] += ti;
      }
    }
  }
}

// From black over violet and orange to pale yellow: evenly brighter, so that it reads without colours too.
const STOPS = [[10, 7, 20], [50, 18, 92], [122, 34, 120], [188, 55, 98], [236, 105, 64], [252, 172, 82], [252, 246, 196]];
const COLOURS = Uint32Array.from({ length: 256 }, (_, k) => {
  const at = (k / 255) * (STOPS.length - 1), low = Math.min(STOPS.length - 2, Math.floor(at));
  const [r, g, b] = STOPS[low].map((c, i) => Math.round(c + (STOPS[low + 1][i] - c) * (at - low)));
  return (255 << 24) | (b << 16) | (g << 8) | r;
});

// Draws `span` seconds of a take; what has been heard is darker.
export function draw(take, wave, spectrum, span, position) {
  const colours = getComputedStyle(wave);
  const colour = (name) => colours.getPropertyValue(name);
  const c = sized(wave);
  const { width, height } = wave;
  const scale = devicePixelRatio || 1, step = 3 * scale, bar = 2 * scale;
  const per = (span * RATE) / PEAK / (width / step);
  const axis = 18 * scale, middle = (height - axis) / 2;
  const loudest = take.peaks.reduce((a, b) => Math.max(a, b), 0.1); // a quiet voice fills the picture too
  for (let x = 0, k = 0; x + bar <= width; x += step, k++) {
    const from = Math.floor(k * per), to = Math.max(from + 1, Math.floor((k + 1) * per));
    if (from >= take.peaks.length) break;
    let most = 0;
    for (let i = from; i < Math.min(to, take.peaks.length); i++) most = Math.max(most, take.peaks[i]);
    const tall = Math.max(scale, (most / loudest) * (middle - 2 * scale));
    c.fillStyle = (x / width) * span <= position ? colour("--wave") : colour("--wave-late");
    c.fillRect(x, middle - tall, bar, 2 * tall);
  }
  c.fillStyle = colour("--muted");
  c.font = `${11 * scale}px system-ui, sans-serif`;
  const tick = [0.5, 1, 2, 5, 10, 20, 30, 60, 120].find((s) => (s / span) * width > 56 * scale) ?? 300;
  for (let t = 0; t < span; t += tick) {
    const x = (t / span) * width;
    if (x < width - 30 * scale) c.fillText(`${+t.toFixed(1)} s`, x, height - 3 * scale);
  }
  head(c, colour("--head"), (position / span) * width, height - axis, scale);

  const s = sized(spectrum);
  const picture = s.createImageData(spectrum.width, spectrum.height);
  const pixels = new Uint32Array(picture.data.buffer).fill(COLOURS[0]);
  const columns = take.bands.columns, w = spectrum.width, h = spectrum.height;
  const rows = Uint16Array.from({ length: h }, (_, y) => Math.min(MELS - 1, Math.floor(((h - 1 - y) / h) * MELS)));
  for (let x = 0; x < w; x++) {
    const at = Math.floor(((x / w) * span * RATE) / HOP);
    if (at >= columns.length) break;
    for (let y = 0; y < h; y++) pixels[y * w + x] = COLOURS[columns[at][rows[y]]];
  }
  s.putImageData(picture, 0, 0);
  s.font = `${11 * scale}px system-ui, sans-serif`;
  s.textAlign = "right";
  for (const khz of [0.5, 1, 2, 4, 8]) {
    const y = h - (mel(1000 * khz) / mel(RATE / 2)) * h;
    s.fillStyle = "rgb(255 255 255 / .35)";
    s.fillRect(w - 6 * scale, y, 6 * scale, scale);
    s.fillStyle = "rgb(255 255 255 / .85)";
    s.fillText(`${khz} kHz`, w - 10 * scale, y + 4 * scale);
  }
  head(s, "#fff", (position / span) * w, h, scale);
}

function head(c, colour, x, height, scale) {
  if (x <= 0) return;
  c.fillStyle = colour;
  c.fillRect(Math.min(x, c.canvas.width - 2 * scale), 0, 2 * scale, height);
}

// A canvas of as many dots as the screen has there.
function sized(canvas) {
  const scale = devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * scale)), height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const c = canvas.getContext("2d");
  c.clearRect(0, 0, width, height);
  return c;
}

// A 16-bit WAV of a take.
export function wav(samples) {
  const out = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (at, text) => [...text].forEach((letter, k) => out.setUint8(at + k, letter.charCodeAt(0)));
  word(0, "RIFF"); out.setUint32(4, 36 + 2 * samples.length, true); word(8, "WAVEfmt ");
  out.setUint32(16, 16, true); out.setUint16(20, 1, true); out.setUint16(22, 1, true);
  out.setUint32(24, RATE, true); out.setUint32(28, 2 * RATE, true); out.setUint16(32, 2, true); out.setUint16(34, 16, true);
  word(36, "data"); out.setUint32(40, 2 * samples.length, true);
  samples.forEach((s, k) => out.setInt16(44 + 2 * k, Math.max(-1, Math.min(1, s)) * 32767, true));
  return new Blob([out.buffer], { type: "audio/wav" });
}
