// Draws every .plot from the data beside it when it comes near the screen; "?all" draws all at once.
const night = matchMedia("(prefers-color-scheme: dark)");
const NIGHT = { white: "#15171a", "#ffffff": "#15171a", "#fff": "#15171a", "#1b1b1b": "#e6e6e6", "#6b6b6b": "#a5a9ad",
  "#e4e4e4": "#34383c", "#ececec": "#2c3034", "#000000": "#f0f0f0", black: "#f0f0f0", "#0072b2": "#4aa8e0" };
const config = { responsive: true, displayModeBar: "hover", displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d"] };
const PRINTED = 680; // px: the width of an A4 page between its margins
const texts = new Map(); // id of a plot -> its figure as JSON, once it is unpacked

async function unpack(id) {
  if (!texts.has(id)) texts.set(id, await unpacked(`${id}-data`));
}

// A colour that stands alone changes with the page; one in a list (a scale, letters on cells) belongs to the data.
function atNight(key, value) {
  return typeof value === "string" && !Array.isArray(this) ? NIGHT[value.toLowerCase()] ?? value : value;
}

function figureOf(id, dark) {
  return JSON.parse(texts.get(id), dark ? atNight : undefined);
}

function draw(div, dark = night.matches, width = undefined) {
  const figure = figureOf(div.id, dark);
  Object.assign(figure.layout, { height: Number.parseInt(div.style.height), width });
  Plotly.react(div, figure.data, figure.layout, { ...config, staticPlot: div.classList.contains("preview") });
}

async function drawFirst(div) {
  if (div.dataset.drawn) return;
  div.dataset.drawn = "yes";
  if (!window.Plotly) {
    div.textContent = "This figure needs the file plotly.min.js beside the page.";
    return;
  }
  await unpack(div.id);
  draw(div);
  if (!div.dataset.address) return;
  div.classList.add("leads");
  div.on("plotly_click", (event) => window.crosslensOpenHead?.(event, div.dataset.subject));
}

const plots = [...document.querySelectorAll(".plot")];
const drawn = () => plots.filter((div) => div.querySelector(".main-svg"));
if (location.search === "?all") {
  plots.forEach(drawFirst);
} else {
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      drawFirst(entry.target);
    }
  }, { rootMargin: "400px" });
  plots.forEach((div) => seen.observe(div));
}
// Printing cannot wait: what may be printed is unpacked when there is time.
window.addEventListener("load", () => setTimeout(() => plots.forEach((div) => unpack(div.id)), 1500));
night.addEventListener("change", () => drawn().forEach((div) => draw(div)));
window.addEventListener("beforeprint", () => {
  if (!window.Plotly) return;
  for (const div of plots.filter((one) => one.checkVisibility() && texts.has(one.id))) {
    div.dataset.drawn = "yes";
    draw(div, false, PRINTED);
  }
});
window.addEventListener("afterprint", () => {
  for (const div of drawn()) {
    draw(div);
    if (div.checkVisibility()) Plotly.Plots.resize(div); // the width of print does not stay
  }
});
