// The table of all heads (or MLPs): a dozen columns, the largest twenty first; a heading sorts, a box filters.
const table = { subject: null, measures: [], sort: null, way: 0, all: false };
const ways = (m) => (m.signed ? ["size", "ascending", "descending"] : ["descending", "ascending"]);

// What can be shown: the first measures of every run, then those of each run, of heads and of MLPs.
function sets(subject) {
  const found = [];
  for (const mlp of [false, true]) {
    const kind = words.many(mlp);
    const mine = subject.measures.map((m, number) => [m, number]).filter(([m]) => m.mlp === mlp);
    if (mine.length) found.push({ name: `${kind}: the chief measures`, mlp, numbers: subject.chief[mlp ? "mlp" : "head"] });
    subject.runs.forEach((run, place) => {
      const own = mine.filter(([m]) => m.run === place).map(([, number]) => number);
      for (let from = 0; from < own.length; from += 10) {
        const more = own.length > 10 ? `, ${from + 1}–${Math.min(from + 10, own.length)}` : "";
        found.push({ name: `${kind}: ${run.title}${more}`, mlp, numbers: own.slice(from, from + 10) });
      }
    });
  }
  return found;
}

function openTable(subject) {
  const choice = document.getElementById("table-of");
  const known = sets(subject);
  choice.replaceChildren(...known.map((set, number) => el("option", { value: number }, set.name)));
  choice.onchange = () => chooseSet(subject, known[Number(choice.value)]);
  document.getElementById("table-subject").textContent = subject.key;
  document.getElementById("table-filter").oninput = drawTable;
  document.getElementById("table-more").onclick = () => { table.all = !table.all; drawTable(); };
  chooseSet(subject, known[0]);
}

function chooseSet(subject, set) {
  const listed = set ? set.numbers.map((number) => subject.measures[number]) : [];
  const wheres = [...new Set(listed.map((m) => m.where))];  // columns of one task and condition stand together
  const measures = wheres.flatMap((where) => listed.filter((m) => m.where === where));
  Object.assign(table, { subject, measures, mlp: set?.mlp ?? false, sort: measures[0] ?? null, way: 0, all: false });
  drawTable();
}

function ordered(rows) {
  const m = table.sort;
  if (!m) return rows;
  const way = ways(m)[table.way];
  const key = (row) => (way === "size" ? weight(m, at(m, row.index)) : at(m, row.index));
  return [...rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return way === "ascending" ? x - y : y - x;
  });
}

function drawTable() {
  const { subject, measures } = table;
  const asked = document.getElementById("table-filter").value.trim().toLowerCase();
  const rows = placesOf(subject, table.mlp).map((place, index) => ({ place, index, names: namesOf(subject, place).join(", ") }));
  const said = (place) => subject.words.map((one) => one.texts[place] ?? "").join(" ");
  const fits = ({ place, names }) => place.startsWith(asked) || names.toLowerCase().includes(asked) || said(place).toLowerCase().includes(asked);
  const found = ordered(asked ? rows.filter(fits) : rows);
  const some = table.all ? found : found.slice(0, SHOWN);
  document.getElementById("head-table").replaceChildren(tableHead(measures), el("tbody", {}, ...some.map((row) => tableRow(subject, measures, row))));
  document.getElementById("table-count").textContent = `${some.length} of ${found.length}`;
  const more = document.getElementById("table-more");
  more.hidden = found.length <= SHOWN;
  more.textContent = table.all ? `Only the first ${SHOWN}` : `All ${found.length}`;
}

// Two rows: what was measured on (task and condition), then the measures with their units.
function tableHead(measures) {
  const spans = [];
  for (const m of measures) {
    if (spans.at(-1)?.where === m.where) spans.at(-1).count += 1;
    else spans.push({ where: m.where, count: 1 });
  }
  const over = spans.map(({ where, count }) => el("th", { scope: "colgroup", colspan: count }, where));
  return el("thead", {}, el("tr", {}, el("td"), el("td"), ...over),
    el("tr", {}, el("th", { scope: "col" }, words.place(table.mlp)), el("th", { scope: "col" }, words.role), ...measures.map(sortable)));
}

function sortable(m) {
  const button = el("button", { type: "button", "aria-label": heading(m) }, m.title, el("small", {}, m.unit));
  button.onclick = () => {
    table.way = table.sort === m ? (table.way + 1) % ways(m).length : 0;
    table.sort = m;
    drawTable();
    document.querySelector("#head-table th[aria-sort] button")?.focus();
  };
  const way = ways(m)[table.way];
  return el("th", { scope: "col", ...(table.sort === m ? { "aria-sort": way === "size" ? "other" : way } : {}) }, button);
}

function tableRow(subject, measures, { place, index, names }) {
  const cells = measures.map((m) => el("td", { class: "number", title: number(m, index) }, shown(at(m, index))));
  const link = el("a", { href: hash(subject, place) }, place);
  return el("tr", {}, el("th", { scope: "row" }, link), el("td", {}, names || "–"), ...cells);
}
