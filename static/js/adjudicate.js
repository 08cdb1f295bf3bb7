// A lead's judgement: keys, evidence, the draft, saving. The form works without any of it.
"use strict";

(() => {
  const form = document.getElementById("judgement");
  const text = form.dataset;
  const open = text.state === "open";
  const field = (name) => form.elements[name];
  const trouble = document.getElementById("trouble");
  const line = document.getElementById("saved");

  // ---------- Asking the server

  const csrf = () => document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1] ?? Centinela.csrf();

  function typed() {
    const data = new URLSearchParams(new FormData(form));
    data.delete("csrfmiddlewaretoken"); // a sign-in in another tab draws a new one: the header carries the latest
    return data;
  }

  // {status, body}; status 0 without an answer, 401 when the session is gone.
  async function post(url, keepalive = false) {
    const headers = { Accept: "application/json", "X-CSRFToken": csrf() };
    try {
      const answer = await fetch(url, { method: "POST", body: typed(), headers, keepalive, credentials: "same-origin" });
      const json = answer.headers.get("Content-Type")?.includes("json");
      if (answer.redirected || answer.status === 403 || (answer.ok && !json)) return { status: 401, body: {} };
      return { status: answer.status, body: json ? await answer.json() : {} };
    } catch {
      return { status: 0, body: {} };
    }
  }

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

  // ---------- The draft

  let dirty = false;
  let timer;

  function changed() {
    if (!open) return;
    dirty = true;
    line.textContent = text.textUnsaved;
    clearTimeout(timer);
    timer = setTimeout(keep, 700);
  }

  async function keep(keepalive = false) {
    clearTimeout(timer);
    if (!dirty) return;
    dirty = false;
    const answer = await post(text.draftUrl, keepalive);
    dirty ||= answer.status !== 200;
    line.textContent = dirty ? text.textUnsaved : text.textSaved;
  }

  // ---------- Saving

  let since = document.hidden ? null : performance.now();
  let total = 0;
  let busy = false;
  const seen = () => (total + (since === null ? 0 : performance.now() - since)) / 1000;

  async function save() {
    if (busy || !form.reportValidity()) return;
    busy = true;
    clearTimeout(timer);
    field("seconds").value = Math.round(seen());
    const answer = await post(location.pathname);
    busy = false;
    if (answer.status === 200) {
      dirty = false;
      location.assign(answer.body.next);
      return;
    }
    explain(answer);
    changed();
  }

  // ---------- Keys

  function choose(key) {
    const chosen = [...form.querySelectorAll(".choice")].find((one) => one.querySelector("kbd").textContent === key);
    if (!chosen) return false;
    chosen.querySelector("input").checked = true;
    Centinela.tell(chosen.querySelector("span").textContent);
    changed();
    return true;
  }

  const causes = () => (form.querySelector("[name=cause]:checked") ?? form.querySelector("[name=cause]")).focus();

  // What Evidence and Caret ask of the page they are on.
  const page = {
    form, text, open,
    on: (target, type, handler, options) => target.addEventListener(type, handler, options),
    desk: { changed },
    thread: { about: causes },
    reading: { flash: (marks) => marks.forEach((mark) => (mark.classList.add("is-found"), setTimeout(() => mark.classList.remove("is-found"), 1600))) },
  };
  page.evidence = Evidence(page);
  page.caret = Caret(page);
  page.evidence.draw();
  if (!open) return;

  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return save();
    if (page.caret.key(event)) return event.preventDefault();
    if (event.key === "Escape" && Centinela.typing(event)) return event.target.blur();
    const key = Centinela.shortcut(event);
    const done = { c: causes, e: page.evidence.mark, m: page.caret.start }[key];
    if (done) done();
    else if (!key || !choose(key)) return;
    event.preventDefault();
  });

  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) since = performance.now();
    else if (since !== null) [total, since] = [total + performance.now() - since, null];
    if (document.hidden) keep(true);
  });
  addEventListener("beforeunload", (event) => dirty && event.preventDefault());
})();
