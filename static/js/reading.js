// The middle of the case page: views, figures of marks, jumps, words by another method.
"use strict";

const Reading = (page) => {
  const { text } = page;

  // ---------- The reader's view: direction, strangeness, list, no marks

  const VISIBLE = { words: "[class*=mark-toward-], [class*=mark-away-], .mark-strange", strange: "[class*=mark-odd-]" };
  const views = [...Object.keys(VISIBLE), "list", "plain"];
  const reading = () => document.getElementById("reading");
  const shownMarks = () => {
    const chosen = VISIBLE[reading().dataset.view];
    return chosen ? [...reading().querySelectorAll(".note-text [data-tip]")].filter((mark) => mark.matches(chosen)) : [];
  };

  function view(chosen) {
    hush();
    reading().dataset.view = chosen;
    for (const button of reading().querySelectorAll("[data-view-choice]"))
      button.setAttribute("aria-pressed", button.dataset.viewChoice === chosen);
    for (const mark of reading().querySelectorAll("[data-tip][tabindex='0']")) mark.tabIndex = -1;
    shownMarks()[0]?.setAttribute("tabindex", 0);
  }

  function chooseView(chosen) {
    sessionStorage.setItem("view", chosen);
    view(chosen);
  }

  page.on(document, "click", (event) => {
    const chosen = event.target.closest("[data-view-choice]")?.dataset.viewChoice;
    if (chosen) chooseView(chosen);
    const link = event.target.closest("[data-jump]");
    if (link && jump(link.hash.slice(1))) event.preventDefault();
  });

  // ---------- A mark's figure: under the pointer, or in the focus, which the arrows move from mark to mark

  const tip = document.getElementById("tip");
  let told = null;
  let hiding;

  function tell(mark) {
    clearTimeout(hiding);
    if (told === mark) return;
    hush();
    told = mark;
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    mark.setAttribute("aria-describedby", "tip");
    place();
  }

  function hush() {
    clearTimeout(hiding);
    if (!told) return;
    told.removeAttribute("aria-describedby");
    told = null;
    tip.hidden = true;
  }

  // Under the mark's last line, over its first where there is no room.
  function place() {
    if (!told?.isConnected) return hush();
    const lines = told.getClientRects();
    const last = lines[lines.length - 1];
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(last.left, document.documentElement.clientWidth - width - 8));
    const under = last.bottom + 6;
    const top = under + height < innerHeight - 8 ? under : lines[0].top - height - 6;
    Object.assign(tip.style, { left: `${left}px`, top: `${top}px` });
  }

  const tipped = (event) => {
    const mark = event.target.closest?.(".note-text [data-tip]");
    return mark && shownMarks().includes(mark) ? mark : null;
  };

  function walk(mark, step) {
    const marks = shownMarks();
    const next = marks[marks.indexOf(mark) + step];
    if (!next) return;
    mark.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  // Goes to a word's mark, in a view that shows it, and outlines it for a moment; false where it has none.
  function jump(id) {
    const mark = document.getElementById(id);
    if (!mark) return false;
    if (!VISIBLE[reading().dataset.view]) chooseView("words");
    mark.scrollIntoView({ block: "center" });
    mark.focus({ preventScroll: true });
    flash([mark]);
    tell(mark);
    return true;
  }

  function flash(marks) {
    for (const mark of marks) mark.classList.add("is-found");
    setTimeout(() => marks.forEach((mark) => mark.classList.remove("is-found")), 1600);
  }

  page.on(document, "pointerover", (event) => {
    const mark = tipped(event);
    if (mark) tell(mark);
    else if (event.target.closest?.("#tip")) clearTimeout(hiding);
    else if (told && told !== document.activeElement) {
      clearTimeout(hiding);
      hiding = setTimeout(hush, 120);
    }
  });
  page.on(document, "focusin", (event) => (tipped(event) ? tell(tipped(event)) : hush()));
  page.on(document, "focusout", hush);
  page.on(document, "scroll", place, { capture: true, passive: true });
  page.on(window, "resize", place);
  page.on(document, "keydown", (event) => {
    if (event.key === "Escape") hush();
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !event.target.dataset?.tip || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    walk(event.target, step);
  });

  // ---------- What a search found: from hit to hit, round at the ends

  let at = null;

  function hit(step) {
    const hits = [...reading().querySelectorAll("[data-hit]")];
    if (!hits.length) return;
    at = at === null ? (step > 0 ? 0 : hits.length - 1) : (at + step + hits.length) % hits.length;
    hits[at].scrollIntoView({ block: "center" });
    hits[at].focus({ preventScroll: true });
    flash([hits[at]]);
    const line = document.getElementById("hits");
    line.textContent = line.dataset.text.replace("{i}", at + 1).replace("{n}", hits.length);
    Centinela.tell(`${line.textContent}: ${hits[at].textContent}`);
  }

  page.on(document, "click", (event) => {
    const step = event.target.closest("[data-hit-step]")?.dataset.hitStep;
    if (step) hit(Number(step));
  });

  // ---------- Words that were not ready when the page was drawn, or that another method finds

  let waiting = 0;

  async function fill(method, tries = 60, turn = ++waiting) {
    if (turn !== waiting || page.signal.aborted) return; // another method was asked for since, or another case
    const line = document.getElementById("preparing");
    if (!tries) return line && (line.textContent = text.textLate);
    const search = new URLSearchParams(location.search).get("q") ?? "";
    const answer = await fetch(`${text.readingUrl}?${new URLSearchParams({ method, q: search })}`, { credentials: "same-origin" }).catch(() => null);
    const html = answer?.status === 200 && !answer.redirected ? await answer.text() : "";
    if (turn !== waiting || page.signal.aborted) return;
    if (html) return show(html);
    if (!answer?.redirected) setTimeout(fill, Math.min(1000 + 250 * (60 - tries), 8000), method, tries - 1, turn);
  }

  function show(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("reading");
    const old = reading();
    const [top, seen] = [old.scrollTop, old.dataset.view];
    const chose = old.querySelector(".method")?.contains(document.activeElement);
    hush();
    page.caret.end();
    old.replaceWith(fresh);
    fresh.scrollTop = top;
    page.desk.countDown();
    page.evidence.draw();
    view(seen);
    if (chose) fresh.querySelector(".method summary")?.focus();
  }

  page.on(document, "submit", async (event) => {
    if (event.target.id !== "method") return;
    event.preventDefault();
    const method = event.submitter.value;
    const menu = event.target.closest("details");
    menu.open = false;
    menu.querySelector("summary").focus();
    const answer = await page.post(event.target.action, new URLSearchParams({ method }));
    if (answer.status !== 202) return page.explain(answer);
    prepare();
    fill(method);
  });

  function prepare() {
    const line = document.getElementById("preparing") ?? document.createElement("p");
    Object.assign(line, { id: "preparing", className: "muted small" });
    line.setAttribute("role", "status");
    if (!line.isConnected) document.querySelector(".legend").after(line);
    line.textContent = text.textPreparing;
  }

  page.on(page.signal, "abort", hush);
  view(views.includes(sessionStorage.getItem("view")) ? sessionStorage.getItem("view") : "words");
  if ("preparing" in reading().dataset) fill(reading().dataset.method);
  return { flash, hit };
};
