// The import pages: drop a file, say what was chosen, refuse what is too large, say when all is scored.
"use strict";

(() => {
  document.addEventListener("progressdone", () => {
    const scored = document.getElementById("scored");
    if (scored) scored.hidden = false;
  });

  const form = document.getElementById("intake");
  if (!form) return;
  const field = form.elements.file;
  const limit = Number(form.dataset.maxBytes) || Infinity;
  const chosen = document.getElementById("chosen");
  const errors = document.getElementById("id_file-error");

  function size(bytes) {
    const units = ["B", "kB", "MB", "GB"];
    const power = Math.min(Math.floor(Math.log(Math.max(bytes, 1)) / Math.log(1024)), 3);
    return `${Centinela.format(bytes / 1024 ** power, power > 1 ? 1 : 0)}\u00a0${units[power]}`;
  }

  function describe() {
    const file = field.files[0];
    errors.replaceChildren();
    field.removeAttribute("aria-invalid");
    field.setCustomValidity("");
    chosen.textContent = file ? form.dataset.textChosen.replace("{name}", file.name).replace("{size}", size(file.size)) : "";
    if (!file || file.size <= limit) return;
    const item = document.createElement("li");
    item.textContent = form.dataset.textTooLarge.replace("{size}", size(file.size)).replace("{limit}", size(limit));
    errors.replaceChildren(item);
    field.setAttribute("aria-invalid", "true");
    field.setCustomValidity(item.textContent);
  }

  function sending() {
    chosen.textContent = form.dataset.textSending.replace("{name}", field.files[0].name);
    document.getElementById("sending").hidden = false;
    form.querySelector("button").disabled = true;
  }

  const over = (is) => (event) => {
    event.preventDefault();
    form.classList.toggle("is-over", is);
  };

  form.addEventListener("dragover", over(true));
  form.addEventListener("dragleave", over(false));
  form.addEventListener("drop", (event) => {
    over(false)(event);
    if (!event.dataTransfer.files.length) return;
    field.files = event.dataTransfer.files;
    describe();
  });
  field.addEventListener("change", describe);
  form.addEventListener("submit", sending);
  addEventListener("pageshow", () => (form.querySelector("button").disabled = false));
})();
