// The card of one neuron: where it is largest, what it writes, how far labels explain it.
const words = { place: () => "neuron", many: () => "neurons", role: "specific to",
  between: "A token's leading space belongs to it; · parts one from the next." };
const titleOf = (place) => `Neuron ${place}`;
const sizeOf = ([layers, width]) => `${layers} layers${width ? ` of ${width.toLocaleString("en")} neurons` : ""}, counted from 0`;

function unknown(subject, place) {
  const [layers, width] = subject.size;
  const asked = /^(\d+)\.(\d+)$/.exec(place);
  if (!asked) return `“${place}” names no neuron: an address ends in LAYER.NEURON, such as ${subject.places[0]}.`;
  const outside = Number(asked[1]) >= layers || (width && Number(asked[2]) >= width);
  if (outside) return `${subject.key} has no neuron ${place}: it has ${sizeOf(subject.size)}.`;
  return `No run of ${subject.key} shows neuron ${place}: cards are of the most specific ones, listed below.`;
}

function sentence(subject, place) {
  const named = subject.roles.filter((role) => role.names[place]);
  return named.length ? `Specific to ${named.map((role) => `${role.names[place]} (${role.where})`).join("; ")}` : "";
}

function card(subject, place) {
  const index = subject.places.indexOf(place);
  const measures = subject.measures.filter((m) => at(m, index) !== null);
  return [
    ...subject.heard.flatMap((one) => heard(subject, one, place)),
    ...wordParts(subject, place),
    ...subject.sections.flatMap((name, number) => section(subject, name, measures.filter((m) => m.section === number), index)),
  ];
}

function heard(subject, one, place) {
  const [contexts, ngrams] = [one.contexts[place] ?? [], one.ngrams[place] ?? []];
  if (!contexts.length) return [];
  const below = one.sides[place] === "below 0" ? " Its large activations lie below 0: all numbers of the card are turned round." : "";
  const lines = contexts.map(([value, before, peak, behind]) => el("tr", {},
    el("td", { class: "number" }, shown(value)), el("td", { class: "context" }, before, el("mark", {}, peak), behind)));
  const head = el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "activation"), el("th", { scope: "col" }, "text, its largest token marked")));
  const many = ngrams.map(([value, count, text]) => el("li", {}, el("mark", {}, text), ` ${shown(value)}, ${count}×`));
  return [
    el("h2", {}, "Where it is largest"),
    el("p", { class: "source" }, `${one.where}, held-out texts, one place in each; ↵ is the end of a line.${below}`),
    el("table", { class: "data contexts" }, head, el("tbody", {}, ...lines)),
    el("p", { class: "source" }, "Tokens in a row at whose end it is largest: its mean activation there, and how often they occur."),
    el("ul", { class: "ngrams" }, ...many),
  ];
}
