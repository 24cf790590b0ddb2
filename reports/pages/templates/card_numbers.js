// The numbers of a card, a table for each section, every value among those of all others; and its words.
function section(subject, name, measures, index) {
  if (!measures.length) return [];
  const head = ["measure", "value [95 % interval]", "among all"];
  const rows = measures.map((m) => el("tr", {},
    el("th", { scope: "row" }, el("a", { href: m.figure }, m.title), el("small", {}, [m.where, m.sample].filter(Boolean).join("; "))),
    el("td", {}, number(m, index), el("small", {}, `${m.unit}${significance(m, index)}`), controlled(m, index)),
    el("td", {}, strip(m, index), el("small", {}, rank(m, index)))));
  const table = el("table", { class: "data head-numbers" },
    el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, ...rows));
  return [el("h2", {}, name), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, table)];
}

function number(m, index) {
  const [low, high] = [at(m, index, "lower"), at(m, index, "upper")];
  return shown(at(m, index)) + (low === null || high === null ? "" : ` [${shown(low)}, ${shown(high)}]`);
}

function significance(m, index) {
  const p = at(m, index, "p");
  return p === null ? "" : `; ${m.pName}: ${shown(p)}`;
}

function controlled(m, index) {
  const control = at(m, index, "control");
  return control === null ? "" : el("small", {}, `control, ${m.controlName}: ${shown(control)}`);
}

// All values as thin ticks, this one as a dot with its interval, the control as a grey square: where it lies among all.
function strip(m, index) {
  const known = m.value.filter((value) => value !== null);
  const ends = [...known, at(m, index, "lower"), at(m, index, "upper"), 0].filter((value) => value !== null);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const x = (value) => (6 + (148 * (value - low)) / (high - low || 1)).toFixed(1);
  const svg = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const drawn = svg("svg", { width: 160, height: 20, role: "img", class: "strip",
    "aria-label": `${shown(at(m, index))}, all from ${shown(Math.min(...known))} to ${shown(Math.max(...known))}` });
  drawn.append(svg("path", { class: "others", d: known.map((value) => `M${x(value)} 5V15`).join("") }));
  drawn.append(svg("path", { class: "zero", d: `M${x(0)} 1V19` }));
  const [a, b, control] = ["lower", "upper", "control"].map((of) => at(m, index, of));
  if (control !== null) drawn.append(svg("path", { class: "control", d: `M${x(control)} 2V18` }));
  if (a !== null && b !== null) drawn.append(svg("path", { class: "own", d: `M${x(a)} 10H${x(b)}` }));
  drawn.append(svg("circle", { class: "own", cx: x(at(m, index)), cy: 10, r: 4 }));
  return drawn;
}

function wordParts(subject, place) {
  const found = subject.words.filter((one) => one.texts[place]);
  if (!found.length) return [];
  const lines = found.flatMap((one) => [el("dt", {}, one.title), el("dd", {}, one.texts[place])]);
  return [el("h2", {}, "Words"), el("p", { class: "source" }, words.between), el("dl", { class: "head-words" }, ...lines)];
}
