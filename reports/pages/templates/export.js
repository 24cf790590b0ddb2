// The row under a figure: the picture with title, n and run inside it, in the size of a page or of a paper's columns.
const COLUMNS = { one: 3.3 * 96, two: 6.8 * 96 }; // inches at 96 px
const LETTERS = { page: 13, one: 32 / 3, two: 32 / 3 }; // px; 32/3 px are 8 pt

function wrapped(text, length) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (longer.length > length && lines.at(-1)) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// The figure as it is saved: {data, layout} with width and height in px.
async function toSave(box, size) {
  await unpack(box.dataset.figure);
  const figure = figureOf(box.dataset.figure, false);
  const div = document.getElementById(box.dataset.figure);
  const shown = div.clientWidth || 900;
  const width = Math.round(COLUMNS[size] ?? Math.max(shown, 700));
  const letters = LETTERS[size];
  const title = wrapped(box.dataset.title, width / (letters * 0.6)).map(escaped);
  const note = wrapped(box.dataset.note, width / (letters * 0.52)).map(escaped);
  const top = Math.round((title.length + note.length) * letters * 1.35 + 34);
  const height = Number.parseInt(div.style.height);
  const { layout } = figure;
  const small = `<span style="font-size:${Math.round(letters * 0.88)}px">${note.join("<br>")}</span>`;
  layout.title = { text: `${title.join("<br>")}<br>${small}`, x: 0.01, xref: "container", xanchor: "left",
    y: 1, yref: "container", yanchor: "top", pad: { t: 8 }, font: { size: letters + 1 } };
  layout.margin = { ...layout.margin, t: top };
  layout.width = width;
  layout.height = Math.round((size === "page" ? height : Math.max(height * Math.sqrt(width / shown), width * 0.6)) + top - 44);
  layout.updatemenus = [];
  layout.font = { ...layout.font, size: letters };
  if (size !== "page") {
    layout.legend = { ...layout.legend, font: { size: letters } };
    (layout.annotations ?? []).forEach((one) => { one.font = { ...one.font, size: letters }; });
  }
  return figure;
}

async function save(box, format) {
  const size = box.querySelector("select").value;
  const figure = await toSave(box, size);
  const { width, height } = figure.layout;
  const scale = format !== "png" ? 1 : size === "page" ? 2 : 300 / 96;
  const link = document.createElement("a");
  link.href = await Plotly.toImage(figure, { format, width, height, scale });
  link.download = `${box.dataset.file}.${format}`;
  link.click();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: text }));
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

for (const box of document.querySelectorAll(".export")) {
  const tell = (text) => { box.querySelector(".done").textContent = text; };
  box.addEventListener("click", async (event) => {
    const { save: format, copy: what } = event.target.dataset;
    if (format) await save(box, format);
    if (format) tell(`${box.dataset.file}.${format} saved`);
    if (!what) return;
    const caption = box.closest("figure").querySelector(".caption").textContent;
    const link = `${location.href.split("#")[0].split("?")[0]}#${box.dataset.figure}-box`;
    await copy(what === "link" ? link : `${box.dataset.title}. ${caption} ${box.dataset.note}`);
    tell("copied");
  });
}
