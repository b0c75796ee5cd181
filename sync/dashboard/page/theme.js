// Before anything is drawn, so that no page flashes in the other theme. Not a module: those come too late.
(() => {
  let kept = null;
  try { kept = localStorage.getItem("tandem-theme"); } catch { /* a browser that keeps nothing */ }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
