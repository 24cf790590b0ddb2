// Draws every .plot from the JSON beside it when it comes near the screen; "?all" or printing draws all at once.
const config = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d"] };

function draw(div) {
  if (div.dataset.drawn) return;
  div.dataset.drawn = "yes";
  const figure = JSON.parse(document.getElementById(div.id + "-data").textContent);
  if (!window.Plotly) {
    div.textContent = "This figure needs the file plotly.min.js beside the page.";
    return;
  }
  const still = div.classList.contains("preview");
  Plotly.newPlot(div, figure.data, figure.layout, { ...config, staticPlot: still });
}

const plots = [...document.querySelectorAll(".plot")];
if (location.search === "?all" || !("IntersectionObserver" in window)) {
  plots.forEach(draw);
} else {
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "800px" });
  plots.forEach((div) => seen.observe(div));
  window.addEventListener("beforeprint", () => plots.forEach(draw));
}
