// The export page: follows exports that are being written, and shows the page anew when one is done.
"use strict";

(() => {
  async function follow(row) {
    const bar = row.querySelector("progress");
    const label = row.querySelector("[data-export-text]");
    let delay = 1500;
    try {
      const state = await Centinela.json(row.dataset.exportUrl);
      if (!["pending", "claimed"].includes(state.status)) return location.reload();
      bar.max = state.total || 1;
      bar.value = state.rows;
      if (state.total) label.textContent = `${Centinela.format(state.rows)} / ${Centinela.format(state.total)}`;
    } catch {
      delay = 10000;
    }
    setTimeout(follow, delay, row);
  }

  for (const row of document.querySelectorAll("[data-export-url]")) follow(row);
})();
