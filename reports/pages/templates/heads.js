// A click on a cell of a map leads to the card of that head or MLP: head.html#SUBJECT/23.3.
// customdata of a cell: "23.3" or "mlp.12", or a list that begins with it. Returns the place, "" where there is none.
window.crosslensOpenHead = function openHead(event, subject) {
  const custom = event?.points?.[0]?.customdata;
  const place = String(Array.isArray(custom) ? custom[0] : custom ?? "");
  if (!/^(mlp\.\d+|\d+\.\d+)$/.test(place) || !subject) return "";
  window.location.href = `head.html#${encodeURIComponent(subject)}/${place}`;
  return place;
};
