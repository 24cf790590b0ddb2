// The data of the page, read once; the bytes of a map when it is first shown.
const look = JSON.parse(await unpacked("look-data"));
const $ = (id) => document.getElementById(id);
const read = new Map();

// An element with attributes and children; text is only ever text.
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function bytesOf(values) {
  if (!read.has(values)) read.set(values, Uint8Array.from(atob(values.bytes), (c) => c.charCodeAt(0)));
  return read.get(values);
}

// The mean over some rows (numbers of tokens × levels) of values [..., c] in 8 bits: scale · (byte / 255)².
function meanOf(values, rows) {
  const [width, bytes] = [values.shape.at(-1), bytesOf(values)];
  const sum = new Float64Array(width);
  for (const row of rows) {
    const scale = values.scale[row] / (255 * 255 * rows.length);
    for (let i = 0; i < width; i++) sum[i] += scale * bytes[row * width + i] ** 2;
  }
  return sum;
}

// Three digits; "–" where there is no value.
function shown(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  const text = size && (size < 1e-3 || size >= 1e5) ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", "−");
}

const percent = (value) => (value === null || value === undefined ? "–" : `${shown(100 * value)} %`);
const mean = (values) => values.reduce((a, b) => a + b, 0) / (values.length || 1);
// A token as a word: a leading space is the gap between two words, a line break has a sign.
const word = (text) => text.replace(/^ /, "").replaceAll("\n", "↵") || "␣";

// A colour of a scale of [place, "rgb(…)" or "#rrggbb"] at 0 … 1, as [red, green, blue].
function parsed(colour) {
  if (colour.startsWith("#")) return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
  return colour.match(/[\d.]+/g).slice(0, 3).map(Number);
}
const scales = Object.fromEntries(Object.entries(look.colours).map(([name, stops]) => [name, stops.map(([at, colour]) => [at, parsed(colour)])]));
function colourAt(scale, share) {
  const stops = scales[scale];
  const place = Math.min(1, Math.max(0, share));
  const next = Math.max(1, stops.findIndex(([at]) => at >= place));
  const [[low, a], [high, b]] = [stops[next - 1], stops[next]];
  const part = (place - low) / (high - low || 1);
  return a.map((value, i) => Math.round(value + (b[i] - value) * part));
}
