// The address says which card is shown: #SUBJECT/23.3, #SUBJECT/mlp.12, or #SUBJECT for its strongest head.

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
  const title = titleOf(place);
  document.title = `${title} of ${subject.key} · Crosslens`;
  document.getElementById("head-title").textContent = title;
  document.getElementById("head-subject").textContent = `${subject.name}, ${sizeOf(subject.size)}`;
  document.getElementById("head-says").textContent = known ? sentence(subject, place) : unknown(subject, place);
  document.getElementById("head-card").replaceChildren(...(known ? card(subject, place) : []));
  steps(subject, place);
  if (table.subject !== subject) openTable(subject);
  if (document.getElementById("head-map")) mapChoice(subject, place);
}

function steps(subject, place) {
  const number = subject.places.indexOf(place);
  const step = (by, text) => {
    const to = subject.places[number + by];
    return number < 0 || to === undefined ? "" : el("a", { href: hash(subject, to) }, text.replace("…", to));
  };
  document.getElementById("head-steps").replaceChildren(step(-1, "← …"), " ", step(1, "… →"));
}

window.addEventListener("hashchange", show);
if (subjects.length) show();
