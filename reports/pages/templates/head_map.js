// Beside the card: a map of one measure, the card's own cell outlined.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

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
