// Maps over the pictures: cells of image tokens, sinks framed, what lies under the mouse in words.
const sinks = new Set(look.sinks.cells);
const boxes = [...document.querySelectorAll(".picture[data-picture]")];

// The range of the colours: the same for the measured map and its controls, so that they can be compared.
function rangeOf(maps, signed, leaveSinksOut) {
  const kept = maps.flatMap((values) => [...values].filter((_, cell) => !(leaveSinksOut && sinks.has(cell))));
  const top = Math.max(...kept.map(Math.abs), 1e-12);
  return signed ? [-top, top] : [0, top];
}

function drawMap(box, values, { range, scale, strength, words, leftOut }) {
  const picture = look.pictures[Number(box.dataset.picture)];
  const canvas = box.querySelector("canvas");
  const [rows, columns] = [picture.cells.length, picture.cells[0].length];
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  [canvas.width, canvas.height] = [box.clientWidth * ratio, box.clientHeight * ratio];
  const [wide, tall] = [canvas.width / columns, canvas.height / rows];
  const brush = canvas.getContext("2d");
  brush.clearRect(0, 0, canvas.width, canvas.height);
  picture.cells.forEach((line, row) => line.forEach((cell, column) => {
    const share = (values[cell] - range[0]) / (range[1] - range[0]);
    const [red, green, blue] = colourAt(scale, share);
    const size = scale === "signed" ? Math.abs(share - 0.5) * 2 : share;
    const opacity = leftOut(cell) ? 0 : strength * (0.06 + 0.89 * Math.min(1, Math.sqrt(Math.max(0, size))));
    brush.fillStyle = `rgba(${red}, ${green}, ${blue}, ${opacity})`;
    brush.fillRect(column * wide, row * tall, wide + 0.5, tall + 0.5);
    if (words) write(brush, words(cell), (column + 0.5) * wide, (row + 0.5) * tall, wide, tall);
  }));
  if (sinks.size) frameSinks(brush, picture, wide, tall, ratio);
}

function write(brush, text, x, y, wide, tall) {
  const size = Math.min(tall * 0.5, (1.7 * wide) / Math.max(text.length, 3), 26);
  if (size < 8) return; // too small to read: the word is under the mouse
  brush.font = `${size}px system-ui, sans-serif`;
  [brush.textAlign, brush.textBaseline] = ["center", "middle"];
  [brush.strokeStyle, brush.lineWidth] = ["rgba(0, 0, 0, 0.85)", size / 5];
  brush.strokeText(text, x, y);
  brush.fillStyle = "#fff";
  brush.fillText(text, x, y);
}

function frameSinks(brush, picture, wide, tall, ratio) {
  picture.cells.forEach((line, row) => line.forEach((cell, column) => {
    if (!sinks.has(cell)) return;
    for (const [colour, width, dash] of [["#fff", 4, []], ["#d55e00", 2, [4, 3]]]) {
      [brush.strokeStyle, brush.lineWidth] = [colour, width * ratio];
      brush.setLineDash(dash.map((part) => part * ratio));
      brush.strokeRect(column * wide + 2 * ratio, row * tall + 2 * ratio, wide - 4 * ratio, tall - 4 * ratio);
    }
    brush.setLineDash([]);
  }));
}

function drawScale([low, high], scale, unit) {
  const canvas = document.querySelector("#scale canvas");
  const brush = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    brush.fillStyle = `rgb(${colourAt(scale, x / (canvas.width - 1)).join(", ")})`;
    brush.fillRect(x, 0, 1, canvas.height);
  }
  $("scale-low").textContent = shown(low);
  $("scale-high").textContent = `${shown(high)} ${unit}`;
}

// Which cell of a picture an event lies on: [picture, row, column].
function cellAt(event) {
  const box = event.currentTarget.closest(".picture");
  const frame = box.getBoundingClientRect();
  const picture = Number(box.dataset.picture);
  const { cells } = look.pictures[picture];
  const place = (at, start, size, count) => Math.min(count - 1, Math.max(0, Math.floor(((at - start) / size) * count)));
  const row = place(event.clientY, frame.top, frame.height, cells.length);
  return [picture, row, place(event.clientX, frame.left, frame.width, cells[0].length)];
}

// "row 3, column 4", counted from 1, and the picture's number where there are several.
function placeOf(cell) {
  for (const [number, { cells }] of look.pictures.entries()) {
    for (const [row, line] of cells.entries()) {
      const column = line.indexOf(cell);
      if (column >= 0) return `${look.pictures.length > 1 ? `picture ${number + 1}, ` : ""}row ${row + 1}, column ${column + 1}`;
    }
  }
  return `image token ${cell + 1}`;
}
