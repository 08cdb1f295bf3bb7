// The instruments on the dial page: fetched into it, asked again without leaving it, and proposing an α to the dial.
"use strict";

(() => {
  const section = document.getElementById("instruments");
  if (!section?.dataset.url) return;
  const dial = document.getElementById("dial");

  // What the server has for an address, drawn into a place; with keyboard focus where the reader goes on.
  async function put(place, address, focus) {
    const url = new URL(address, location.href);
    url.searchParams.set("part", "1");
    place.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(url, { credentials: "same-origin" });
      if (response.redirected || ![200, 400].includes(response.status)) throw new Error(String(response.status));
      place.innerHTML = await response.text();
      if (focus) (place.querySelector("[aria-invalid]") ?? place.querySelector(focus) ?? place).focus();
    } catch {
      Centinela.say(document.body.dataset.textOffline);
    }
    place.removeAttribute("aria-busy");
  }

  const changes = () => document.getElementById("changes");

  // The dial as it stands in its fields now.
  function tried(address) {
    const url = new URL(address, location.href);
    for (const name of ["alpha", "floor"]) {
      const value = Centinela.number(dial?.elements[name]?.value ?? "");
      if (!Number.isNaN(value)) url.searchParams.set(name, value);
    }
    return url;
  }

  section.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if ("propose" in link.dataset && dial) {
      event.preventDefault();
      const detail = { alpha: Number(link.dataset.alpha), floor: Number(link.dataset.floor) };
      document.dispatchEvent(new CustomEvent("dial:propose", { detail }));
    } else if ("changes" in link.dataset) {
      event.preventDefault();
      put(changes(), tried(link.href), "[role=status]");
    } else if ("changesPage" in link.dataset) {
      event.preventDefault();
      put(changes(), link.href, "[role=region]");
    }
  });

  section.addEventListener("submit", (event) => {
    event.preventDefault();
    const url = new URL(event.target.action);
    url.search = new URLSearchParams(new FormData(event.target));
    const listing = changes()?.contains(event.target);
    put(listing ? changes() : section, url, listing ? "[role=region]" : "button");
  });

  put(section, section.dataset.url);
})();
