// What is chosen (word, way, layer, head, side) and what is shown of it.
const ALL = -1;
const state = { token: ALL, way: 0, level: ALL, head: ALL, side: "asked" };
const LENS = look.maps.length; // the lens comes behind the maps
const lens = { key: "lens", title: "Words that each place says (logit lens)", unit: "probability",
  says: "The likeliest word of each part of the picture, if its state were the last. The picture is read before the question: no place knows what is asked.",
  levels: look.lens.states.map((at) => (at === look.lens.states.at(-1) ? `state ${at}, the last` : `state ${at}`)), values: { asked: look.lens.values } };
const ways = [...look.maps, lens];
const differences = { "−general": ["asked", "general"], "−blank": ["asked", "blank"] };
let current = { maps: {}, unit: "" };

const tokens = () => (state.token === ALL ? look.tokens.map((_, i) => i) : [state.token]);
const ofHead = () => state.head !== ALL && ways[state.way].key === "attention";

// The map of one side for what is chosen: mean over its words and layers.
function sideMap(side) {
  const way = ways[state.way];
  const kept = ofHead() ? look.heads.values[side] : way.values[side];
  const levels = kept.shape.at(-2);
  const level = way === lens ? (state.level === ALL ? levels - 1 : state.level) : state.level;
  const chosen = ofHead() ? [state.head] : level === ALL ? [...Array(levels).keys()] : [Math.min(level, levels - 1)];
  const rows = way === lens ? chosen : tokens().flatMap((token) => chosen.map((one) => token * levels + one));
  return meanOf(kept, rows);
}

function show() {
  const way = ways[state.way];
  const sides = Object.keys(ofHead() ? look.heads.values : way.values);
  const maps = Object.fromEntries(sides.map((side) => [side, sideMap(side)]));
  const pair = differences[state.side];
  const values = pair ? maps[pair[0]].map((value, i) => value - maps[pair[1]][i]) : maps[state.side];
  const leaveOut = $("sinks").checked && sinks.size > 0;
  const range = rangeOf(pair ? [values] : Object.values(maps), Boolean(pair), leaveOut);
  const scale = pair ? "signed" : "unsigned";
  current = { maps, values, unit: way.unit };
  const words = way === lens ? (cell) => word(lensWords(cell)[0]) : null;
  for (const box of boxes) drawMap(box, values, { range, scale, strength: $("strength").value / 100, words, leftOut: (cell) => leaveOut && sinks.has(cell) });
  drawScale(range, scale, way.unit);
  sayStrongest(values, leaveOut);
  label(way);
}

function lensWords(cell) {
  const at = ways[state.way] === lens && state.level !== ALL ? state.level : look.lens.states.length - 1;
  return look.lens.words[at][cell].map((number) => look.lens.vocabulary[number]);
}

function sayStrongest(values, leaveOut) {
  const order = [...values.keys()].filter((cell) => !(leaveOut && sinks.has(cell))).sort((a, b) => values[b] - values[a]);
  const best = order.slice(0, 3).map((cell) => `${placeOf(cell)} (${shown(values[cell])})`);
  $("strongest").textContent = look.unknown ? "" : `Strongest: ${best.join("; ")}.`;
}

function sayCell(picture, row, column) {
  const cell = look.pictures[picture].cells[row][column];
  const sides = Object.entries(current.maps).map(([side, values]) => `${look.sides[side]} ${shown(values[cell])}`);
  const sink = sinks.has(cell) ? " A sink token: it draws attention whatever is asked." : "";
  const said = lensWords(cell).map((text) => `“${word(text)}”`).join(" or ");
  $("cell-says").textContent = `${placeOf(cell)}: ${sides.join(", ")} (${current.unit}). The place itself says ${said}.${sink}`;
}

function label(way) {
  const token = state.token === ALL ? "all words of the answer" : `the word ${word(look.tokens[state.token].text)}`;
  for (const box of boxes) box.querySelector("canvas").setAttribute("aria-label", `${way.title}, ${token}: ${$("strongest").textContent}`);
}

// ---------------------------------------------------------------- words

function bar(value, control, top) {
  const at = (one) => `${(100 * Math.min(1, (one ?? 0) / (top || 1))).toFixed(1)}%`;
  return el("i", {}, el("b", { style: `width:${at(value)}` }), el("s", { style: `left:calc(${at(control)} - 1px)` }));
}

function makeWords() {
  const tops = ["share", "vhd"].map((name) => Math.max(...look.tokens.flatMap((t) => [t[name], t[name === "vhd" ? "vhd_general" : "share_blank"]])));
  const buttons = look.tokens.map((token, i) => {
    const made = el("button", { type: "button", "aria-pressed": "false" }, word(token.text), bar(token.share, token.share_blank, tops[0]), bar(token.vhd, token.vhd_general, tops[1]));
    made.onclick = () => choose({ token: state.token === i ? ALL : i });
    return made;
  });
  const all = el("button", { type: "button", "aria-pressed": "true" }, "all words");
  all.onclick = () => choose({ token: ALL });
  $("words").replaceChildren(...(buttons.length > 1 ? [all] : []), ...buttons);
  if (buttons.length === 1) state.token = 0;
}

function sayWord() {
  const chosen = tokens().map((i) => look.tokens[i]);
  const of = (name) => mean(chosen.map((token) => token[name]));
  const one = state.token !== ALL;
  const name = one ? `“${word(chosen[0].text)}”` : "All words, mean";
  const sure = `probability ${shown(of("probability"))}, with a plain grey picture ${shown(of("probability_blank"))}`;
  const share = `${percent(of("share"))} of its attention is on the picture (a grey one: ${percent(of("share_blank"))}; the general question: ${percent(of("share_general"))}; looking at everything alike: ${percent(of("uniform"))})`;
  const vhd = `without the picture its heads move by ${shown(of("vhd"))} (T-VHD), under the general question by ${shown(of("vhd_general"))}`;
  $("word-says").textContent = `${name}: ${sure}. ${share[0].toUpperCase()}${share.slice(1)}; ${vhd}.`;
}

// ---------------------------------------------------------------- controls

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => el("option", { value, ...(value === chosen ? { selected: "" } : {}) }, text)));
}

function makeLevels() {
  const way = ways[state.way];
  const many = way.levels.length > 1 && !ofHead();
  $("level-label").hidden = !many;
  const whole = way === lens ? [] : [[ALL, "all layers, mean"]];
  if (state.level >= way.levels.length) state.level = ALL;
  options($("level"), [...whole, ...way.levels.map((text, i) => [i, text])], way === lens && state.level === ALL ? way.levels.length - 1 : state.level);
  makeBars(many && way !== lens ? way.levels : []);
}

// Attention on the picture by layer, as bars that choose one; the line is the grey picture's.
function makeBars(levels) {
  $("layers").hidden = $("layers-say").hidden = !levels.length;
  const width = Math.ceil(look.layers.length / (levels.length || 1));
  const groups = levels.map((_, i) => look.layers.slice(i * width, (i + 1) * width));
  const numbers = groups.map((group) => [mean(group.map((l) => l.share)), mean(group.map((l) => l.blank))]);
  const top = Math.max(...numbers.flat(), 1e-9);
  $("layers").replaceChildren(...numbers.map(([share, blank], i) => {
    const said = `${levels[i]}: ${percent(share)} of the attention on the picture, ${percent(blank)} on a grey one`;
    const made = el("button", { type: "button", title: said, "aria-label": said, "aria-pressed": String(state.level === i) },
      el("b", { style: `height:${(100 * share) / top}%` }), el("s", { style: `bottom:${(100 * blank) / top}%` }));
    made.onclick = () => choose({ level: state.level === i ? ALL : i });
    return made;
  }));
}

const SAYS = {
  asked: "", general: "The same words behind a general question about the same picture: what is looked at whatever is asked.",
  blank: "The same question about a plain grey picture: what the place alone draws, whatever is to be seen.",
  "−general": "Above 0: what this question adds to the general one.", "−blank": "Above 0: what the picture adds to a grey one.",
};
function makeSides() {
  const known = ways[state.way].values;
  const entries = [...Object.entries(look.sides), ["−general", "difference: this − general"], ["−blank", "difference: this − grey"]];
  const there = (side) => (differences[side] ?? [side]).every((one) => one in known);
  if (!there(state.side)) state.side = "asked";
  const made = entries.map(([side, text]) => {
    const radio = el("input", { type: "radio", name: "side", value: side, ...(side === state.side ? { checked: "" } : {}), ...(there(side) ? {} : { disabled: "" }) });
    radio.onchange = () => choose({ side });
    return el("label", {}, radio, el("span", {}, ` ${text}`));
  });
  $("side").replaceChildren($("side").querySelector("legend"), ...made);
  $("side-says").textContent = SAYS[state.side];
}

function makeHeads() {
  const names = look.heads.rows.map((row) => `${row.layer}.${row.head}`);
  $("head-label").hidden = ways[state.way].key !== "attention";
  options($("head"), [[ALL, "all heads, mean"], ...names.map((name, i) => [i, `head ${name}`])], state.head);
  const titles = ["head", "this question", "general question", "grey picture", "gained by the picture"];
  const rows = look.heads.rows.map((row, i) => {
    const open = el("button", { type: "button" }, names[i]);
    open.onclick = () => { choose({ way: 0, head: i }); $("words").scrollIntoView({ behavior: "smooth" }); };
    const cells = [row.share, row.general, row.blank, row.gain].map((value) => el("td", { class: "number" }, percent(value)));
    return el("tr", ofHead() && state.head === i ? { "aria-current": "true" } : {}, el("td", {}, open), ...cells);
  });
  $("heads").replaceChildren(el("thead", {}, el("tr", {}, ...titles.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, ...rows));
}

function choose(changes) {
  Object.assign(state, changes);
  const buttons = [...$("words").children];
  buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i - (buttons.length > 1 ? 1 : 0) === state.token)));
  $("way").value = state.way;
  $("way-says").textContent = ways[state.way].says;
  sayWord();
  makeHeads();
  makeLevels();
  makeSides();
  show();
}

options($("way"), ways.map((way, i) => [i, way.title]), 0);
$("way").onchange = (event) => choose({ way: Number(event.target.value), level: ALL, head: ALL });
$("level").onchange = (event) => choose({ level: Number(event.target.value) });
$("head").onchange = (event) => choose({ head: Number(event.target.value), level: ALL });
$("sinks").onchange = show;
$("strength").oninput = show;
$("sink-label").hidden = !sinks.size;
$("sink-says").textContent = look.sinks.tau === null ? "No dimension of this model is massive here: no sink tokens are marked." : `${sinks.size} of the image tokens ${sinks.size === 1 ? "is a sink" : "are sinks"}${sinks.size ? ", framed" : ""}.`;
for (const box of boxes) {
  const canvas = box.querySelector("canvas");
  canvas.onpointermove = canvas.onpointerdown = (event) => sayCell(...cellAt(event));
}
new ResizeObserver(() => current.values && show()).observe($("pictures"));
makeWords();
choose({});
document.body.dataset.ready = "yes";
