// The queue's keys: down and up the list, the first case, the search, the last verdict back. All of it works without.
"use strict";

(() => {
  const links = () => [...document.querySelectorAll("#cases tbody th a")];

  function move(step) {
    const rows = links();
    const here = rows.indexOf(document.activeElement);
    const next = here < 0 ? rows[step > 0 ? 0 : rows.length - 1] : rows[here + step];
    if (!next) return;
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }

  const search = document.getElementById("search");

  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape" && event.target === search) return search.blur();
    if (event.key === "Enter" && event.target === document.body) return document.getElementById("start")?.click();
    const key = Centinela.shortcut(event);
    if (key === "j") move(1);
    else if (key === "k") move(-1);
    else if (key === "z") document.getElementById("undo")?.requestSubmit();
    else if (key === "/" && search) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  });

  // A chosen order or filter shows at once; dates and numbers wait for the button.
  document.getElementById("filters")?.addEventListener("change", (event) => {
    if (event.target.matches("select")) event.currentTarget.requestSubmit();
  });

  // The address says only what was chosen.
  document.getElementById("filters")?.addEventListener("formdata", (event) => {
    for (const [name, value] of [...event.formData]) if (!value || (name === "order" && value === "risk")) event.formData.delete(name);
  });
})();
