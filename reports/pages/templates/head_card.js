const words = { place: (mlp) => (mlp ? "MLP" : "head"), many: (mlp) => (mlp ? "MLPs" : "heads"), role: "role by rule",
  between: "␣ is a leading space; | parts one prompt from the next." };
const titleOf = (place) => (isMlp(place) ? `MLP ${place.slice(4)}` : `Head ${place}`);
const sizeOf = ([layers, heads]) => `${layers} layers of ${heads} heads, counted from 0`;
const unknown = (subject, place) => `No run of ${subject.key} says anything of ${place}.`;

// The card of one head or MLP: what rules call it, its numbers among those of all others, its words, where it is named.
function card(subject, place) {
  const mlp = isMlp(place);
  const index = placesOf(subject, mlp).indexOf(place);
  const measures = subject.measures.filter((m) => m.mlp === mlp && at(m, index) !== null);
  return [
    ...roleParts(subject, place),
    ...namedParts(subject, place),
    ...subject.sections.flatMap((name, number) => section(subject, name, measures.filter((m) => m.section === number), index)),
    ...wordParts(subject, place),
  ];
}

function sentence(subject, place) {
  const named = subject.roles.filter((role) => role.names[place]);
  if (named.length) return named.map((role) => `${role.names[place]} on ${role.where}`).join("; ");
  const inside = subject.roles.filter((role) => role.stages[place]);
  if (inside.length) return `In the circuit of ${inside.map((role) => role.where).join("; ")}, without a name`;
  return subject.roles.length && !isMlp(place) ? "In no circuit" : "";
}

function roleParts(subject, place) {
  if (isMlp(place) || !subject.roles.length) return [];
  const lines = subject.roles.map((role) => {
    const stages = role.stages[place];
    const said = stages ? `${role.names[place] || "no name"}; chosen at: ${stages.join(", ")}` : "not in the circuit of any stage";
    return el("li", {}, el("a", { href: `${encodeURIComponent(role.run)}.html` }, role.where), `: ${said}`);
  });
  const rules = [...new Set(subject.roles.map((role) => role.rule))].map((rule) => el("p", {}, rule));
  return [el("h2", {}, "Role by rule"), el("ul", {}, ...lines), el("details", {}, el("summary", {}, "The rule"), ...rules)];
}

function namedParts(subject, place) {
  const found = subject.named.filter((one) => one.heads.includes(place) || one.heads.includes(`L${place.replace("mlp.", "")}`));
  if (!found.length) return [];
  const lines = found.map((one) => el("li", {}, el("a", { href: one.address }, one.text)));
  return [el("h2", {}, "Named in"), el("ul", {}, ...lines)];
}
