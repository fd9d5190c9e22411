(() => {
  const $ = (id, from = document) => from.getElementById(id), button = $("pause");
  let paused = false, verdict = $("verdict").textContent;
  const tell = (text, lost) => { $("lost").hidden = !lost; if (text !== verdict) $("said").textContent = verdict = text; };
  button.onclick = () => { button.textContent = (paused = !paused) ? "Resume updates" : "Pause updates"; };
  button.hidden = false;
  setInterval(() => paused || document.hidden || String(getSelection()) || fetch(location.href).then(answer => answer.text()).then(text => {
    const next = new DOMParser().parseFromString(text, "text/html"), at = document.activeElement.id;
    for (const id of ["icon", "page"]) $(id).replaceWith($(id, next).cloneNode(true)); // throws where it is no page of certd's
    document.title = next.title; if (at) $(at)?.focus({preventScroll: true}); tell($("verdict").textContent, false);
  }).catch(() => tell("certd does not answer", true)), 15000);
})();
