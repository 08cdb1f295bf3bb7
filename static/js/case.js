// The queue's and the case page's keys, drafts, evidence, lease and saving. The form works without any of it.
"use strict";

(() => {
  const form = document.getElementById("decision");
  const open = form?.dataset.state === "open";
  const text = form?.dataset ?? {};
  const field = (name) => form.elements[name];

  // ---------- Keys

  const press = (selector) => document.querySelector(selector)?.click();

  function neighbour(step) {
    const items = [...document.querySelectorAll(".queue-item")];
    const here = items.findIndex((item) => item.hasAttribute("aria-current"));
    const next = here < 0 ? items[0] : items[here + step];
    if (next) leave(() => location.assign(next.href));
  }

  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return open && press("#save");
    if (event.key === "Escape" && Centinela.typing(event)) return event.target.blur();
    if (Centinela.typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key === "z") document.getElementById("undo")?.requestSubmit();
    else if (key === "j") neighbour(1);
    else if (key === "k") neighbour(-1);
    else if (key === "enter" && event.target === document.body) press("#start");
    else if (open && key === "e") mark();
    else if (open) choose(key);
    else return;
  });

  function choose(key) {
    const choices = [...form.querySelectorAll(".choice")];
    const chosen = choices.find((choice) => choice.querySelector("kbd").textContent.toLowerCase() === key);
    if (!chosen) return;
    chosen.querySelector("input").checked = true;
    changed();
  }

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

  document.addEventListener("click", (event) => {
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
    mark.classList.add("is-found");
    setTimeout(() => mark.classList.remove("is-found"), 1600);
    tell(mark);
    return true;
  }

  if (tip) {
    document.addEventListener("pointerover", (event) => {
      const mark = tipped(event);
      if (mark) tell(mark);
      else if (event.target.closest?.("#tip")) clearTimeout(hiding);
      else if (told && told !== document.activeElement) {
        clearTimeout(hiding);
        hiding = setTimeout(hush, 120);
      }
    });
    document.addEventListener("focusin", (event) => (tipped(event) ? tell(event.target) : hush()));
    document.addEventListener("focusout", hush);
    document.addEventListener("scroll", place, { capture: true, passive: true });
    addEventListener("resize", place);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hush();
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !event.target.dataset?.tip || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      walk(event.target, step);
    });
  }

  if (!form) return;
  view(views.includes(sessionStorage.getItem("view")) ? sessionStorage.getItem("view") : "words");
  document.querySelector(".queue-item[aria-current]")?.scrollIntoView({ block: "nearest" });

  // ---------- Asking the server

  const csrf = () => document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1] ?? Centinela.csrf();

  function typed() {
    const data = new URLSearchParams(new FormData(form));
    data.delete("csrfmiddlewaretoken"); // a sign-in in another tab draws a new one: the header carries the latest
    return data;
  }

  // {status, body}; status 0 without an answer, 401 when the session is gone.
  async function post(url, data, keepalive = false) {
    const headers = { Accept: "application/json", "X-CSRFToken": csrf() };
    try {
      const answer = await fetch(url, { method: "POST", body: data, headers, keepalive, credentials: "same-origin" });
      const json = answer.headers.get("Content-Type")?.includes("json");
      if (answer.redirected || answer.status === 403 || (answer.ok && !json)) return { status: 401, body: {} };
      return { status: answer.status, body: json ? await answer.json() : {} };
    } catch {
      return { status: 0, body: {} };
    }
  }

  const trouble = document.getElementById("trouble");

  function explain({ status, body }) {
    trouble.replaceChildren(body.message ?? (status === 401 ? text.textSignedOut : text.textOffline));
    if (status === 401) {
      const link = document.createElement("a");
      Object.assign(link, { href: text.loginUrl, target: "_blank", rel: "noopener", textContent: text.textSignIn });
      trouble.append(" ", link);
    }
    trouble.hidden = false;
  }

  let refused = false; // a verdict was not taken: that is said until the next try, whatever becomes of the draft

  // ---------- Drafts

  const line = document.getElementById("saved");
  let dirty = false;
  let timer;
  let saving = Promise.resolve();

  function changed() {
    if (!open) return;
    dirty = true;
    line.textContent = text.textUnsaved;
    clearTimeout(timer);
    timer = setTimeout(keep, 700);
  }

  function keep(keepalive = false) {
    clearTimeout(timer);
    if (dirty) saving = saving.then(() => send(keepalive));
    return saving;
  }

  async function send(keepalive) {
    if (!dirty) return;
    dirty = false;
    line.textContent = text.textSaving;
    const answer = await post(text.draftUrl, typed(), keepalive);
    if (answer.status === 200) {
      line.textContent = dirty ? text.textUnsaved : text.textSaved;
      trouble.hidden = !refused;
      return;
    }
    dirty = true;
    line.textContent = text.textUnsaved;
    if (!refused) explain(answer);
    if (answer.status !== 409 && answer.status !== 400) timer = setTimeout(keep, 10000);
  }

  const leave = (go) => keep().then(go);

  if (open) {
    form.addEventListener("input", changed);
    document.addEventListener("visibilitychange", () => (document.hidden ? keep(true) : dirty ? keep() : beat()));
    addEventListener("beforeunload", (event) => dirty && !trouble.hidden && event.preventDefault());
  }

  // Signing out, another language, undo: what was typed last is kept first.
  let leaving = false;
  document.addEventListener("submit", (event) => {
    if (event.target === form || event.target.id === "method" || !dirty || leaving) return;
    event.preventDefault();
    leaving = true;
    leave(() => event.target.requestSubmit(event.submitter));
  });

  // ---------- Saving

  let busy = false;

  async function save() {
    if (busy || !form.reportValidity()) return;
    busy = true;
    clearTimeout(timer);
    await saving;
    field("seconds").value = Math.round(seen());
    const answer = await post(form.action || location.href, typed());
    busy = false;
    refused = answer.status !== 200;
    if (refused) {
      changed();
      return explain(answer);
    }
    dirty = false;
    location.assign(answer.body.next);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (open) save();
  });

  let since = document.hidden ? null : performance.now();
  let total = 0;
  const seen = () => (total + (since === null ? 0 : performance.now() - since)) / 1000;
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) since = performance.now();
    else if (since !== null) [total, since] = [total + performance.now() - since, null];
  });

  // ---------- Lease: renewed once a minute while somebody is at the page, so that an idle session still ends

  const lease = document.getElementById("lease");
  const notice = document.getElementById("notice");
  let until = Date.parse(text.until);
  let active = false;

  function countDown() {
    const minutes = Math.ceil((until - Date.now()) / 60000);
    const shown = document.getElementById("lease") ?? lease;
    shown.textContent = minutes > 0 ? text.textMinutes.replace("{n}", Math.min(minutes, 15)) : text.textLapsed;
  }

  async function beat() {
    const { status, body } = await post(text.holdUrl, typed());
    if (status === 401) return explain({ status, body });
    if (status !== 200) return;
    if (body.until && body.held) until = Date.parse(body.until);
    if (!body.held) until = 0;
    notice.textContent = body.notice;
    notice.hidden = !body.notice;
    countDown();
  }

  if (open) {
    for (const sign of ["pointermove", "keydown", "wheel", "touchstart"])
      addEventListener(sign, () => (active = true), { passive: true });
    setInterval(() => {
      countDown();
      if (active && !document.hidden) beat();
      active = false;
    }, 60000);
    countDown();
  }

  // ---------- Evidence: code points of the note as stored, never of the page

  const points = (string) => [...string].length;
  let evidence = JSON.parse(field("evidence").value || "[]");

  function offset(note, node, position) {
    const before = document.createRange();
    before.setStart(note, 0);
    before.setEnd(node, position);
    return points(before.toString());
  }

  function mark() {
    const selection = getSelection();
    const range = selection.rangeCount ? selection.getRangeAt(0) : null;
    const start = range?.startContainer.parentElement?.closest?.(".note-text");
    const note = start ?? range?.startContainer.closest?.(".note-text");
    if (!note || range.collapsed || !note.contains(range.endContainer)) return Centinela.say(text.textSelect);
    const found = {
      note: Number(note.dataset.note),
      start: offset(note, range.startContainer, range.startOffset),
      end: offset(note, range.endContainer, range.endOffset),
    };
    selection.removeAllRanges();
    trim(found);
    if (found.start >= found.end) return Centinela.say(text.textSelect);
    if (evidence.some((one) => one.note === found.note && one.start === found.start && one.end === found.end)) return;
    evidence.push(found);
    drawEvidence();
    changed();
  }

  function trim(one) {
    const letters = [...noteOf(one).textContent];
    while (one.start < one.end && !letters[one.start].trim()) one.start += 1;
    while (one.start < one.end && !letters[one.end - 1].trim()) one.end -= 1;
  }

  const noteOf = (one) => document.querySelector(`.note-text[data-note="${one.note}"]`);
  const wording = (one) => [...noteOf(one).textContent].slice(one.start, one.end).join("");

  function drawEvidence() {
    field("evidence").value = JSON.stringify(evidence);
    document.getElementById("evidence-title").textContent = text.textEvidence.replace("{n}", evidence.length);
    document.getElementById("evidence").replaceChildren(...evidence.map(item));
    for (const old of document.querySelectorAll(".note-text .mark-added")) old.replaceWith(...old.childNodes);
    for (const note of document.querySelectorAll(".note-text")) note.normalize();
    for (const one of evidence) outline(one);
  }

  function item(one) {
    const entry = document.createElement("li");
    const quote = document.createElement("q");
    quote.textContent = wording(one);
    const when = document.createElement("span");
    when.className = "muted nowrap";
    when.textContent = noteOf(one).closest(".note").querySelector("time")?.textContent ?? "";
    entry.append(quote, " ", when);
    if (open) entry.append(remover(one, quote.textContent));
    return entry;
  }

  function remover(one, words) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "button-link small", textContent: text.textRemove });
    button.setAttribute("aria-label", `${text.textRemove} «${words}»`);
    button.addEventListener("click", () => {
      evidence = evidence.filter((other) => other !== one);
      drawEvidence();
      changed();
    });
    return button;
  }

  // Wraps each stretch of text inside the passage; the note's text stays what it was.
  function outline(one) {
    const walker = document.createTreeWalker(noteOf(one), NodeFilter.SHOW_TEXT);
    const pieces = [];
    let place = 0;
    while (walker.nextNode()) {
      const letters = [...walker.currentNode.data];
      const [from, to] = [Math.max(one.start - place, 0), Math.min(one.end - place, letters.length)];
      if (from < to) pieces.push([walker.currentNode, letters.slice(0, from).join("").length, letters.slice(0, to).join("").length]);
      place += letters.length;
    }
    for (const [node, from, to] of pieces) {
      const range = document.createRange();
      range.setStart(node, from);
      range.setEnd(node, to);
      const wrap = document.createElement("mark");
      wrap.className = "mark mark-evidence mark-added";
      range.surroundContents(wrap);
    }
  }

  document.getElementById("mark")?.addEventListener("pointerdown", (event) => event.preventDefault()); // keeps the selection
  document.getElementById("mark")?.addEventListener("click", mark);
  drawEvidence();

  // ---------- Words that were not ready when the page was drawn, or that another method finds

  let waiting = 0;

  async function fill(method, tries = 60, turn = ++waiting) {
    if (turn !== waiting) return; // another method was asked for since
    const line = document.getElementById("preparing");
    if (!tries) return line && (line.textContent = text.textLate);
    const answer = await fetch(`${text.readingUrl}?method=${method}`, { credentials: "same-origin" }).catch(() => null);
    if (turn !== waiting) return;
    if (answer?.status === 200 && !answer.redirected) return show(await answer.text());
    if (!answer?.redirected) setTimeout(fill, Math.min(1000 + 250 * (60 - tries), 8000), method, tries - 1, turn);
  }

  function show(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("reading");
    const old = reading();
    const [top, seen] = [old.scrollTop, old.dataset.view];
    const chose = old.querySelector(".method")?.contains(document.activeElement);
    hush();
    old.replaceWith(fresh);
    fresh.scrollTop = top;
    if (open) countDown();
    drawEvidence();
    view(seen);
    if (chose) fresh.querySelector(".method summary")?.focus();
  }

  document.addEventListener("submit", async (event) => {
    if (event.target.id !== "method") return;
    event.preventDefault();
    const method = event.submitter.value;
    const menu = event.target.closest("details");
    menu.open = false;
    menu.querySelector("summary").focus();
    const answer = await post(event.target.action, new URLSearchParams({ method }));
    if (answer.status !== 202) return explain(answer);
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

  if ("preparing" in reading().dataset) fill(reading().dataset.method);
})();
