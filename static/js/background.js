// The pages of background work and of what waits for it: bars move by themselves; what else changed is drawn anew where nobody is at it.
"use strict";

(() => {
  const page = document.getElementById("background");
  const every = 3000;

  function move(entry) {
    const row = document.getElementById(entry.key);
    const bar = row?.querySelector("progress");
    if (!bar) return;
    if (entry.total) {
      bar.max = entry.total;
      bar.value = entry.done;
      row.querySelector("[data-count]").textContent = `${Centinela.format(entry.done)} / ${Centinela.format(entry.total)}`;
    }
    row.querySelector("[data-stage]").textContent = entry.stage;
  }

  async function anew() {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
    if (!fresh) return;
    const live = document.getElementById("live");
    for (const { id } of live.querySelectorAll("details[open]")) fresh.querySelector(`#${id}`)?.setAttribute("open", "");
    const focused = live.contains(document.activeElement) && document.activeElement.id;
    live.replaceWith(fresh);
    if (focused) document.getElementById(focused)?.focus();
  }

  async function look() {
    if (!document.getElementById("live").dataset.mark) return; // nothing is under way any more
    let delay = every;
    try {
      const state = await Centinela.json(page.dataset.statusUrl);
      state.entries.forEach(move);
      if (state.mark !== document.getElementById("live").dataset.mark) await anew();
    } catch {
      delay = 4 * every;
    }
    setTimeout(look, delay);
  }

  setTimeout(look, every);
})();
