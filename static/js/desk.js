// The decision: choosing, the draft, the lease, saving. The form works without any of it.
"use strict";

const Desk = (page) => {
  const { form, text, open } = page;
  const field = (name) => form.elements[name];

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
  const SENTENCES = { 0: text.textOffline, 401: text.textSignedOut };

  function explain({ status, body }) {
    trouble.replaceChildren(body.message ?? SENTENCES[status] ?? text.textFailed);
    if (status === 401) {
      const link = document.createElement("a");
      Object.assign(link, { href: text.loginUrl, target: "_blank", rel: "noopener", textContent: text.textSignIn });
      trouble.append(" ", link);
    }
    trouble.hidden = false;
  }

  let refused = false; // a verdict was not taken: that is said until the next try, whatever becomes of the draft
  const hush = () => (trouble.hidden = !refused);

  // ---------- Choosing: labels by number; undecided asks why, and while it asks the numbers give the reason

  const chosen = () => form.querySelector("[name=verdict]:checked")?.value ?? "";
  const why = () => form.querySelector("[name=why]:checked");
  let asking = false;

  function ask(on) {
    asking = on && chosen() === "undecided";
    form.toggleAttribute("data-asking", asking);
    field("verdict")[0].setCustomValidity(chosen() ? "" : text.textChoose);
    field("why")[0].setCustomValidity(chosen() === "undecided" && !why() ? text.textWhy : "");
  }

  // Whether a key chose something.
  function choose(key) {
    const among = [...form.querySelectorAll(asking ? "#reasons .choice" : ".decision-verdict > .choice")];
    const found = among.find((one) => one.querySelector("kbd").textContent.toLowerCase() === key);
    if (!found) return asking && ["u", "i"].includes(key) ? (ask(false), choose(key)) : false;
    const input = found.querySelector("input");
    input.checked = true;
    input.dispatchEvent(new Event("change"));
    ask(input.value === "undecided");
    Centinela.tell(found.querySelector("span").textContent);
    changed();
    return true;
  }

  function stopAsking() {
    const was = asking;
    ask(false);
    return was;
  }

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
      hush();
      return;
    }
    dirty = answer.status !== 410; // 410: the verdict was stored already, no draft is kept beside it
    line.textContent = dirty ? text.textUnsaved : "";
    if (!refused) explain(answer);
    if (dirty && answer.status !== 409 && answer.status !== 400 && !page.signal.aborted) timer = setTimeout(keep, 10000);
  }

  // Whether the page may be left: what was typed is on the server.
  async function safe() {
    if (page.thread.holds()) return false;
    await keep();
    return !dirty;
  }

  if (open) {
    page.on(form, "input", (event) => {
      if (event.target.form !== form) return;
      if (event.target.name === "verdict") ask(true);
      if (event.target.name === "why") ask(false);
      changed();
    });
    page.on(document, "visibilitychange", () => (document.hidden ? keep(true) : dirty ? keep() : beat()));
    ask(!why());
  }
  page.on(window, "beforeunload", (event) => ((dirty && !trouble.hidden) || page.thread.unsent()) && event.preventDefault());

  // Signing out, another language: what was typed last is kept first.
  let leaving = false;
  const STAYS = ["decision", "method", "say", "unsay", "undo", "skip"];
  page.on(document, "submit", (event) => {
    if (STAYS.includes(event.target.id) || !dirty || leaving) return;
    event.preventDefault();
    leaving = true;
    keep().then(() => event.target.requestSubmit(event.submitter));
  });

  // ---------- Saving

  let busy = false;

  async function save() {
    ask(asking);
    if (busy || page.thread.holds() || !form.reportValidity()) return;
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
    clearTimeout(timer);
    page.go(answer.body.next);
  }

  page.on(form, "submit", (event) => {
    event.preventDefault();
    if (open) save();
  });

  let since = document.hidden ? null : performance.now();
  let total = 0;
  const seen = () => (total + (since === null ? 0 : performance.now() - since)) / 1000;
  page.on(document, "visibilitychange", () => {
    if (!document.hidden) since = performance.now();
    else if (since !== null) [total, since] = [total + performance.now() - since, null];
  });

  // ---------- Lease: renewed once a minute while somebody is at the page, so that an idle session still ends

  const notice = document.getElementById("notice");
  let until = Date.parse(text.until);
  let active = false;

  function countDown() {
    if (!open) return;
    const minutes = Math.ceil((until - Date.now()) / 60000);
    document.getElementById("lease").textContent = minutes > 0 ? text.textMinutes.replace("{n}", Math.min(minutes, 15)) : text.textLapsed;
  }

  async function beat() {
    const { status, body } = await post(text.holdUrl, typed());
    if (page.signal.aborted) return;
    if (status === 401) return explain({ status, body });
    if (status !== 200 && status !== 410) return;
    if (body.until && body.held) until = Date.parse(body.until);
    if (!body.held) until = 0;
    notice.textContent = body.notice;
    notice.hidden = !body.notice;
    countDown();
  }

  if (open) {
    for (const sign of ["pointermove", "keydown", "wheel", "touchstart"]) page.on(window, sign, () => (active = true), { passive: true });
    page.every(60000, () => {
      countDown();
      if (active && !document.hidden) beat();
      active = false;
    });
    countDown();
  }

  page.on(page.signal, "abort", () => clearTimeout(timer));
  Object.assign(page, { post, explain, hush });
  return { choose, stopAsking, changed, keep, safe, save, countDown };
};
