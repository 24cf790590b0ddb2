// A link to something in a fold opens the fold.
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target?.scrollIntoView();
}
if (location.search === "?all") document.querySelectorAll("details.fold").forEach((fold) => { fold.open = true; });
unfold();
window.addEventListener("hashchange", unfold);
