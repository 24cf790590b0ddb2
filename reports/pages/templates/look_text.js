// A text with its attention: a word under the mouse (or locked by a click), a head, and what is shaded.
const n = look.tokens.length;
const names = look.heads.map((one) => `${one.layer}.${one.head}`);
const maps = { pattern: bytesOf(look.patterns), mean: bytesOf(look.means) };
const state = { kind: "pattern", at: 0, token: n - 1, locked: false, direction: "reads" };

// Attention of query on key: 0 above the diagonal.
function value(kind, at, query, key) {
  if (key > query) return 0;
  const kept = kind === "pattern" ? look.patterns : look.means;
  const byte = maps[kind][at * kept.shape[1] + (query * (query + 1)) / 2 + key];
  return kept.scale[at] * (byte / 255) ** 2;
}
const now = (query, key) => value(state.kind, state.at, query, key);
const nameOf = () => (state.kind === "pattern" ? `head ${names[state.at]}` : `mean over the heads, ${look.levels[state.at]}`);

function show() {
  const pairs = look.tokens.map((_, other) => (state.direction === "reads" ? now(state.token, other) : now(other, state.token)));
  [...$("text").children].forEach((button, i) => {
    button.style.background = pairs[i] < 0.005 ? "" : `rgba(0, 114, 178, ${Math.min(0.75, 0.08 + 0.7 * pairs[i])})`;
    button.toggleAttribute("aria-current", i === state.token);
    button.setAttribute("aria-pressed", String(state.locked && i === state.token));
  });
  const best = [...pairs.keys()].sort((a, b) => pairs[b] - pairs[a]).slice(0, 5).filter((i) => pairs[i] >= 0.0005);
  const list = best.map((i) => `“${word(look.tokens[i].text)}” ${percent(pairs[i])}`).join(", ");
  const what = state.direction === "reads" ? "attends to" : "is attended to by";
  $("says").textContent = `${nameOf()}: “${word(look.tokens[state.token].text)}” (word ${state.token + 1}) ${what} ${list || "nothing"}.${state.locked ? " Kept: click it again to let go." : ""}`;
  drawMatrix();
}

// A map of n × n pixels, light where much attention is, its square root so that small values are seen.
function pixels(kind, at) {
  const image = new ImageData(n, n);
  for (let query = 0; query < n; query++) {
    for (let key = 0; key < n; key++) {
      const seen = key <= query;
      const [red, green, blue] = seen ? colourAt("unsigned", Math.sqrt(value(kind, at, query, key))) : [228, 228, 228];
      image.data.set([red, green, blue, 255], 4 * (query * n + key));
    }
  }
  return image;
}

function drawMatrix() {
  const canvas = $("matrix");
  const size = Math.max(4, Math.ceil(480 / n));
  [canvas.width, canvas.height] = [n * size, n * size];
  const small = new OffscreenCanvas(n, n);
  small.getContext("2d").putImageData(pixels(state.kind, state.at), 0, 0);
  const brush = canvas.getContext("2d");
  brush.imageSmoothingEnabled = false;
  brush.drawImage(small, 0, 0, canvas.width, canvas.height);
  [brush.strokeStyle, brush.lineWidth] = ["#d55e00", Math.max(2, size / 8)];
  const at = state.token * size;
  if (state.direction === "reads") brush.strokeRect(1, at, at + size - 2, size);
  else brush.strokeRect(at, at, size, canvas.height - at - 1);
}

// All heads that are kept, each where its layer and number are.
const THUMB = 26;
function drawEvery() {
  const layers = [...new Set(look.heads.map((one) => one.layer))].sort((a, b) => a - b);
  const rows = Math.max(...look.heads.map((one) => one.head)) + 1;
  const canvas = $("every");
  [canvas.width, canvas.height] = [layers.length * THUMB, rows * THUMB];
  const small = new OffscreenCanvas(n, n);
  const brush = canvas.getContext("2d");
  look.heads.forEach((one, i) => {
    small.getContext("2d").putImageData(pixels("pattern", i), 0, 0);
    brush.drawImage(small, layers.indexOf(one.layer) * THUMB + 1, one.head * THUMB + 1, THUMB - 2, THUMB - 2);
  });
  const headAt = (event) => {
    const frame = canvas.getBoundingClientRect();
    const layer = layers[Math.floor(((event.clientX - frame.left) / frame.width) * layers.length)];
    const head = Math.floor(((event.clientY - frame.top) / frame.height) * rows);
    return look.heads.findIndex((one) => one.layer === layer && one.head === head);
  };
  canvas.onpointermove = (event) => { canvas.title = headAt(event) >= 0 ? `head ${names[headAt(event)]}` : ""; };
  canvas.onclick = (event) => headAt(event) >= 0 && chooseMap(`pattern ${headAt(event)}`);
}

function chooseMap(text) {
  const [kind, at] = text.split(" ");
  Object.assign(state, { kind, at: Number(at) });
  $("map").value = text;
  show();
}

const ordered = [...names.keys()].sort((a, b) => look.heads[a].layer - look.heads[b].layer || look.heads[a].head - look.heads[b].head);
const group = (label, entries) => { const made = el("optgroup", { label }); made.append(...entries.map(([id, text]) => el("option", { value: id }, text))); return made; };
$("map").append(group("heads", ordered.map((i) => [`pattern ${i}`, `head ${names[i]}`])), group("mean over heads", look.levels.map((text, i) => [`mean ${i}`, text])));
$("map").onchange = (event) => chooseMap(event.target.value);
$("direction").onchange = (event) => { state.direction = event.target.value; show(); };
const point = (i) => { if (!state.locked) { state.token = i; show(); } };
$("text").append(...look.tokens.map((token, i) => {
  const made = el("button", { type: "button" }, word(token.text));
  made.onpointerenter = made.onfocus = () => point(i);
  made.onclick = () => { state.locked = !(state.locked && state.token === i); state.token = i; show(); };
  return made;
}));
$("matrix").onclick = (event) => {
  const frame = event.currentTarget.getBoundingClientRect();
  const place = (at, start, size) => Math.min(n - 1, Math.max(0, Math.floor(((at - start) / size) * n)));
  state.token = state.direction === "reads" ? place(event.clientY, frame.top, frame.height) : place(event.clientX, frame.left, frame.width);
  state.locked = true;
  show();
};
const rows = look.heads.slice(0, look.listed).map((one, i) => {
  const open = el("button", { type: "button" }, names[i]);
  open.onclick = () => { chooseMap(`pattern ${i}`); $("text").scrollIntoView({ behavior: "smooth", block: "center" }); };
  return el("tr", {}, el("td", {}, open), el("td", { class: "number" }, shown(one.logit)), ...(look.beside ? [el("td", { class: "number" }, shown(one.beside))] : []));
});
$("heads").append(el("thead", {}, el("tr", {}, ...["head", `logits of ${look.answer}`, ...(look.beside ? [`logits of ${look.beside}`] : [])].map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, ...rows));
chooseMap("pattern 0");
drawEvery();
document.body.dataset.ready = "yes";
