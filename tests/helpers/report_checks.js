// What a page of a report shows, measured in the browser: each function gives the faults that it sees, one text each.
const NEAR = 1.5; // px
const boxOf = (element) => element.getBoundingClientRect();
const shown = (element) => { const box = boxOf(element); return box.width > 0 && box.height > 0; };
const plotsDrawn = () => [...document.querySelectorAll(".plot:not(.preview):has(.main-svg)")].filter(shown);
const of = (root, selector) => [...root.querySelectorAll(selector)].filter(shown);
const short = (text) => text.trim().slice(0, 40);
const inside = (inner, outer) => inner.left >= outer.left - NEAR && inner.right <= outer.right + NEAR
  && inner.top >= outer.top - NEAR && inner.bottom <= outer.bottom + NEAR;
const apart = (a, b) => a.right <= b.left + NEAR || b.right <= a.left + NEAR || a.bottom <= b.top + NEAR || b.bottom <= a.top + NEAR;
const unlike = (a, b, share = 0.02) => Math.abs(a / b - 1) > share;

// Pictures, and what lies over them: as many pixels for a unit across as for one down.
function faultsOfPictures() {
  const faults = [];
  for (const picture of [...document.images].filter(shown)) {
    if (unlike(boxOf(picture).width / boxOf(picture).height, picture.naturalWidth / picture.naturalHeight, 0.05))
      faults.push(`the picture "${short(picture.alt)}" is stretched`);
  }
  for (const plot of plotsDrawn()) {
    for (const one of plot._fullLayout.images ?? []) {
      const [x, y] = [one.xref, one.yref].map((name) => plot._fullLayout[name.replace(/^([xy])/, "$1axis")]);
      const [across, down] = [x, y].map((axis) => Math.abs(axis.l2p(1) - axis.l2p(0)));
      if (unlike(across, down)) faults.push(`${plot.id}: a cell of its picture is ${across.toFixed(1)} × ${down.toFixed(1)} px`);
    }
  }
  return faults;
}

// Words inside their figure; panel titles clear of each other; words in cells no wider than these.
function faultsOfText() {
  const faults = [];
  for (const plot of plotsDrawn()) {
    const box = boxOf(plot.querySelector(".main-svg"));
    // Points beyond their axes are there, cut off by these: pictures beside the window.
    for (const text of of(plot, ".main-svg text").filter((one) => !one.closest("[clip-path]")))
      if (!inside(boxOf(text), box)) faults.push(`${plot.id}: "${short(text.textContent)}" lies outside the figure`);
    const notes = of(plot, ".annotation-text, .xtitle, .ytitle");
    notes.forEach((one, at) => notes.slice(at + 1).forEach((other) => {
      if (!apart(boxOf(one), boxOf(other)))
        faults.push(`${plot.id}: "${short(one.textContent)}" lies over "${short(other.textContent)}"`);
    }));
    for (const [trace] of plot.calcdata.map((points) => [points[0].trace]).filter(([one]) => one.visible === true && one.mode === "text"))
      faults.push(...widerThanCells(plot, trace));
    const ticks = of(plot, ".xtick text");
    ticks.forEach((one, at) => {
      const next = ticks[at + 1];
      if (next && !/rotate\((?!0)/.test(one.getAttribute("transform") ?? "") && !apart(boxOf(one), boxOf(next)))
        faults.push(`${plot.id}: the ticks "${short(one.textContent)}" and "${short(next.textContent)}" lie over each other`);
    });
  }
  return faults;
}

function widerThanCells(plot, trace) {
  const axis = plot._fullLayout[trace.xaxis.replace("x", "xaxis")];
  const cell = Math.abs(axis.l2p(1) - axis.l2p(0));
  const words = of(plot, `.trace${trace.uid} .textpoint text`);
  return words.filter((one) => boxOf(one).width > cell + NEAR)
    .map((one) => `${plot.id}: "${short(one.textContent)}" is wider than its cell`);
}

// Every figure is there.
function faultsOfDrawing() {
  return of(document, ".plot:not(:has(.main-svg))").map((plot) => `${plot.id} is not drawn`);
}

// What a caption names is drawn: controls by their names, marks by their kinds.
const MARKS = {
  Dotted: (trace) => trace.line?.dash === "dot",
  Dashed: (trace, shape) => (shape ?? trace).line?.dash === "dash",
  Bands: (trace) => trace.fill === "toself",
  Whiskers: (trace) => trace.error_x?.array?.length > 0 || trace.error_y?.array?.length > 0,
  "Grey ticks": (trace) => /-thin|line-ns|y-down|asterisk|hash|y-up/.test(trace.marker?.symbol ?? ""),
  "Grey:": (trace) => trace.type === "heatmap" && trace.hoverinfo === "skip",
};

function faultsOfCaptions() {
  const faults = [];
  for (const plot of plotsDrawn()) {
    const said = plot.closest("figure")?.querySelector(".caption, figcaption p")?.textContent ?? "";
    const { data, layout } = plot;
    for (const [mark, drawn] of Object.entries(MARKS)) {
      const there = data.some((trace) => drawn(trace)) || (layout.shapes ?? []).some((shape) => drawn({}, shape));
      if (said.includes(mark) && !there) faults.push(`${plot.id}: its caption says "${mark}", which is not drawn`);
    }
    const names = data.flatMap((trace) => [trace.name, trace.meta]).filter((name) => typeof name === "string").map(unescaped);
    let left = /the control: ([^.]*)\./.exec(said)?.[1] ?? "";
    names.filter((name) => name.startsWith("control: ")).sort((a, b) => b.length - a.length)
      .forEach((name) => { left = left.replace(name.slice(9), ""); });
    if (/\w/.test(left)) faults.push(`${plot.id}: its caption names "${left}", which is no trace`);
  }
  return faults;
}

function unescaped(text) {
  return Object.assign(document.createElement("textarea"), { innerHTML: text }).value;
}

// The first screen, the length of the page, and words of programs where a reader looks first.
function faultsOfForm(tall, open, late) {
  const faults = [];
  document.querySelectorAll("details.fold").forEach((fold) => { fold.open = false; });
  const first = document.querySelector("figure .plot");
  const height = document.documentElement.scrollHeight;
  const opened = of(document, ".content > figure, .first > figure, main > figure");
  if (first && boxOf(first).top + scrollY > late) faults.push(`the first figure begins at ${Math.round(boxOf(first).top + scrollY)} px`);
  if (document.body.classList.contains("run") && height > tall) faults.push(`${height} px tall with folds closed`);
  if (opened.length > open) faults.push(`${opened.length} figures stand open`);
  document.querySelectorAll("details.fold").forEach((fold) => { fold.open = true; });
  const words = "h1, h2, h3, summary, thead th, .xtitle, .ytitle, .cbtitle text, .annotation-text, .legendtext";
  for (const one of document.querySelectorAll(words))
    if (one.textContent.includes("_")) faults.push(`"${short(one.textContent)}" is a heading with _`);
  return faults;
}

// A claim shows its control, or says that it is held against its threshold alone.
function faultsOfClaims() {
  return [...document.querySelectorAll("table.claims .entry, table.claims:not(.wide) td:has(> .numbers)")]
    .filter((one) => one.querySelector(".axis"))
    .filter((one) => !one.querySelector(".axis .control") && !one.textContent.includes("its threshold alone"))
    .map((one) => `the claim "${short((one.closest("tr").querySelector("th") ?? one.previousElementSibling).textContent)}" shows no control`);
}

const plotHeights = () => Object.fromEntries(plotsDrawn().map((plot) => [plot.id, plot._fullLayout._size.h]));

// On paper: every figure and its colour bar within the page's width, nothing cut.
function faultsOfPrint(width) {
  const faults = [];
  for (const plot of plotsDrawn()) {
    for (const part of of(plot, ".main-svg, .colorbar, .cbbg, .legend"))
      if (boxOf(part).right > width + NEAR || boxOf(part).left < -NEAR)
        faults.push(`${plot.id}: ${part.classList[0]} reaches from ${Math.round(boxOf(part).left)} to ${Math.round(boxOf(part).right)} px of ${width} on paper`);
    const bars = plot.data.filter((trace) => trace.showscale !== false && trace.visible !== false && (trace.colorbar || trace.coloraxis));
    if (bars.length && !of(plot, ".colorbar, .cbbg").length) faults.push(`${plot.id}: no colour bar on paper`);
  }
  return faults;
}
