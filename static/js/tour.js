// Five short steps on a reader's first case. It stands beside the page and blocks nothing.
"use strict";

const Tour = (page) => {
  const box = document.getElementById("tour");
  const steps = [...box.querySelectorAll("ol > li")];
  const part = (name) => box.querySelector(`[data-tour=${name}]`);
  const next = { ...part("next").dataset, textNext: part("next").textContent };
  let at = -1;
  let target = null;

  const active = () => at >= 0;

  function show(step) {
    at = step;
    const [title, words] = steps[at].children;
    document.getElementById("tour-count").textContent = document.getElementById("tour-count").dataset.text.replace("{n}", at + 1).replace("{all}", steps.length);
    document.getElementById("tour-title").textContent = title.textContent;
    document.getElementById("tour-text").textContent = words.textContent;
    part("next").textContent = at === steps.length - 1 ? next.textLast : next.textNext;
    part("back").hidden = at === 0;
    box.hidden = false;
    point(document.querySelector(steps[at].dataset.at.split(", ").find((one) => document.querySelector(one))));
  }

  function point(found) {
    target?.classList.remove("tour-target");
    target = found;
    target?.classList.add("tour-target");
    target?.scrollIntoView({ block: "nearest" });
    place();
  }

  // Beside what it speaks of: to the left of the right column, else under it, else over it.
  function place() {
    if (!active() || !target) return;
    const [here, own] = [target.getBoundingClientRect(), box.getBoundingClientRect()];
    const room = { width: document.documentElement.clientWidth, height: innerHeight };
    const aside = here.left - own.width - 16 > 8 && here.left > room.width / 2;
    const under = here.bottom + own.height + 16 < room.height;
    const left = aside ? here.left - own.width - 16 : here.left;
    const top = aside ? here.top : under ? here.bottom + 12 : here.top - own.height - 12;
    box.style.left = `${Math.max(8, Math.min(left, room.width - own.width - 8))}px`;
    box.style.top = `${Math.max(8, Math.min(top, room.height - own.height - 8))}px`;
  }

  function start() {
    show(0);
    part("next").focus({ preventScroll: true });
  }

  function close() {
    if (!active()) return;
    at = -1;
    box.hidden = true;
    point(null);
    Centinela.store("tour", "seen");
    document.querySelector(".case-head h1").focus({ preventScroll: true });
  }

  page.on(box, "click", (event) => {
    const pressed = event.target.closest("[data-tour]")?.dataset.tour;
    if (pressed === "close" || (pressed === "next" && at === steps.length - 1)) close();
    else if (pressed) show(at + (pressed === "next" ? 1 : -1));
    if (part("back").hidden && document.activeElement === document.body) part("next").focus();
  });
  page.on(document, "click", (event) => {
    if (!event.target.closest("[data-open-tour]")) return;
    document.getElementById("help").close();
    start();
  });
  page.on(window, "resize", place);
  page.on(document, "scroll", place, { capture: true, passive: true });

  if ("first" in page.text && Centinela.stored("tour") !== "seen") start();
  return { active, close };
};
