// What card, map and table share.
const SHOWN = 20;

// An element with attributes and children; text is only ever text.
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

// Three digits; "–" where there is no value.
function shown(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size && size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", "−");
}

const isMlp = (place) => place.startsWith("mlp.");
const hash = (subject, place) => `#${encodeURIComponent(subject.key)}/${place}`;
const heading = (m) => `${m.title} (${[m.unit, m.where].filter(Boolean).join("; ")})`;
const at = (m, index, of = "value") => m[of]?.[index] ?? null;

// Places of one kind in order, which is the order of the values of its measures.
function placesOf(subject, mlp) {
  return subject.places.filter((place) => isMlp(place) === mlp);
}

// By which number a measure ranks: its size where it has signs.
const weight = (m, value) => (value === null ? null : m.signed ? Math.abs(value) : value);

function rank(m, index) {
  const own = weight(m, at(m, index));
  if (own === null) return "";
  const known = m.value.filter((value) => value !== null);
  return `rank ${1 + known.filter((value) => weight(m, value) > own).length} of ${known.length}${m.signed ? " by size" : ""}`;
}

// The names that rules give a place, in the circuits of all tasks.
function namesOf(subject, place) {
  return [...new Set(subject.roles.map((role) => role.names[place]).filter(Boolean))];
}
