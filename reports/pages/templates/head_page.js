// The address says which card is shown: #SUBJECT/23.3, #SUBJECT/mlp.12, or #SUBJECT for its strongest head.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function asked() {
  const raw = location.hash.slice(1);
  const cut = raw.lastIndexOf("/");
  const plain = (text) => { try { return decodeURIComponent(text); } catch { return text; } };
  const whole = subjects.find((one) => one.key === plain(raw));
  const subject = whole ?? subjects.find((one) => one.key === plain(raw.slice(0, Math.max(cut, 0)))) ?? subjects[0];
  return { subject, place: whole || cut < 0 ? strongest(subject) : plain(raw.slice(cut + 1)) };
}

function strongest(subject) {
  const m = subject.measures[subject.chief.head[0] ?? subject.chief.mlp[0]];
  if (!m) return subject.places[0];
  const sizes = m.value.map((value) => weight(m, value) ?? -Infinity);
  return placesOf(subject, m.mlp)[sizes.indexOf(Math.max(...sizes))];
}

function show() {
  const { subject, place } = asked();
  const known = subject.places.includes(place);
  const title = isMlp(place) ? `MLP ${place.slice(4)}` : `Head ${place}`;
  const [layers, heads] = subject.size;
  document.title = `${title} of ${subject.key} · Crosslens`;
  document.getElementById("head-title").textContent = title;
  document.getElementById("head-subject").textContent = `${subject.name}, ${layers} layers of ${heads} heads, counted from 0`;
  document.getElementById("head-says").textContent = known ? sentence(subject, place) : `No run of ${subject.key} says anything of ${place}.`;
  document.getElementById("head-card").replaceChildren(...(known ? card(subject, place) : []));
  steps(subject, place);
  if (table.subject !== subject) openTable(subject);
  mapChoice(subject, place);
}

function steps(subject, place) {
  const number = subject.places.indexOf(place);
  const step = (by, text) => {
    const to = subject.places[number + by];
    return number < 0 || to === undefined ? "" : el("a", { href: hash(subject, to) }, text.replace("…", to));
  };
  document.getElementById("head-steps").replaceChildren(step(-1, "← …"), " ", step(1, "… →"));
}

function mapChoice(subject, place) {
  const choice = document.getElementById("head-map-of");
  const mlp = isMlp(place);
  const mine = subject.measures.filter((m) => m.mlp === mlp);
  const before = choice.selectedOptions[0]?.textContent;
  choice.replaceChildren(...mine.map((m, number) => el("option", { value: number, ...(heading(m) === before ? { selected: "" } : {}) }, heading(m))));
  choice.onchange = () => drawMap(subject, mine[Number(choice.value)], place);
  drawMap(subject, mine[Number(choice.value) || 0], place);
}

// Layers from left to right as in every figure; colours end where all but one in a hundred cells lie.
function drawMap(subject, m, place) {
  const box = document.getElementById("head-map");
  if (!m || !window.Plotly) return;
  const mlp = isMlp(place);
  const cells = placesOf(subject, mlp).map((one, index) => ({ one, at: one.split(".").map(Number), value: at(m, index) }));
  const spot = ({ at: [a, b] }) => (mlp ? [b, 0] : [a, b]);
  const columns = Math.max(...cells.map((cell) => spot(cell)[0])) + 1;
  const rows = Math.max(...cells.map((cell) => spot(cell)[1])) + 1;
  const grid = () => Array.from({ length: rows }, () => Array(columns).fill(null));
  const [z, custom] = [grid(), grid()];
  for (const cell of cells) {
    const [column, row] = spot(cell);
    [z[row][column], custom[row][column]] = [cell.value, cell.one];
  }
  const sizes = m.value.filter((value) => value !== null).map(Math.abs).sort((a, b) => a - b);
  const reach = sizes[Math.min(sizes.length - 1, Math.floor(sizes.length * 0.99))] || sizes.at(-1) || 1;
  const trace = { type: "heatmap", z, customdata: custom, xgap: 1, ygap: 1, zmin: m.signed ? -reach : 0, zmax: reach,
    colorscale: m.signed ? colours.signed : colours.unsigned, colorbar: { thickness: 8, outlinewidth: 0 },
    hovertemplate: `%{customdata}<br><b>%{z:.3g}</b><extra></extra>` };
  const here = cells.find((cell) => cell.one === place);
  const [column, row] = here ? spot(here) : [-9, -9];
  const axis = { showgrid: false, zeroline: false, color: colour("--ink") || "#1b1b1b" };
  const outline = { type: "rect", x0: column - 0.5, x1: column + 0.5, y0: row - 0.5, y1: row + 0.5, line: { color: "#000", width: 3 } };
  const halo = { ...outline, line: { color: "#fff", width: 6 } };
  const layout = { height: 90 + Math.min(320, Math.max(rows * 17, 40)), margin: { l: 36, r: 8, t: 8, b: 36 }, shapes: here ? [halo, outline] : [],
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "#e4e4e4", font: { size: 11, color: axis.color }, dragmode: false,
    xaxis: { ...axis, title: { text: "layer" }, range: [-0.5, columns - 0.5] },
    yaxis: { ...axis, title: { text: mlp ? "" : "head" }, showticklabels: !mlp, range: [-0.5, rows - 0.5] } };
  window.Plotly.react(box, [trace], layout, { responsive: true, displayModeBar: false });
  box.removeAllListeners("plotly_click");
  box.on("plotly_click", (event) => window.crosslensOpenHead?.(event, subject.key));
}

window.addEventListener("hashchange", show);
if (subjects.length) show();
