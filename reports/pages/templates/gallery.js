// Chips, choices and one search box show the runs and findings that meet all of them.
const shown = [...document.querySelectorAll("[data-words]")];
const search = document.getElementById("search");
const told = document.getElementById("told");

function wanted() {
  const choices = new Map();
  for (const chip of document.querySelectorAll(".chips [aria-pressed=true]")) {
    choices.set(chip.dataset.filter, [...(choices.get(chip.dataset.filter) ?? []), chip.dataset.value]);
  }
  for (const one of document.querySelectorAll("select[data-filter]")) {
    if (one.value) choices.set(one.dataset.filter, [one.value]);
  }
  return choices;
}

const parts = (one, name) => (name === "paper" ? one.dataset.paper.split(" ") : one.dataset[name].split("|"));

function filter() {
  const choices = [...wanted()];
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const one of shown) {
    const fits = choices.every(([name, values]) => parts(one, name).some((part) => values.includes(part)));
    one.hidden = !(fits && words.every((word) => one.dataset.words.includes(word)));
  }
  const left = document.querySelectorAll("#runs article:not([hidden])").length;
  told.textContent = choices.length || words.length ? `${left} of ${document.querySelectorAll("#runs article").length} runs` : "";
  if ("heads" in search.dataset && /^\d+\.\d+$/.test(search.value.trim())) leadToHead(search.value.trim());
}

// "23.3" is a head: of each model there is a card of it.
function leadToHead(head) {
  for (const model of new Set(shown.map((one) => one.dataset.model))) {
    const link = Object.assign(document.createElement("a"), { textContent: `head ${head} of ${model}` });
    link.href = `head.html#${encodeURIComponent(model)}/${head}`;
    told.append(" · ", link);
  }
}

if (search) {
  search.addEventListener("input", filter);
  for (const one of document.querySelectorAll("select[data-filter]")) one.addEventListener("change", filter);
  for (const chip of document.querySelectorAll(".chips button")) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      filter();
    });
  }
}
for (const missing of document.querySelectorAll("[data-command]")) {
  missing.addEventListener("click", async () => {
    const { command } = missing.dataset;
    document.getElementById("command").textContent = command;
    try { await navigator.clipboard.writeText(command); } catch { /* the command stands there to be copied by hand */ }
  });
}
