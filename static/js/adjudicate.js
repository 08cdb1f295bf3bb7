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
  async function post(url, body = typed(), keepalive = false) {
    const headers = { Accept: "application/json", "X-CSRFToken": csrf() };
    try {
      const answer = await fetch(url, { method: "POST", body, headers, keepalive, credentials: "same-origin" });
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
    const answer = await post(text.draftUrl, typed(), keepalive);
    if (answer.status === 410) return explain(answer); // the judgement was stored already: no draft is kept beside it
    dirty ||= answer.status !== 200;
    line.textContent = dirty ? text.textUnsaved : text.textSaved;
  }

  // ---------- Saving

  let since = document.hidden ? null : performance.now();
  let total = 0;
  let busy = false;
  const seen = () => (total + (since === null ? 0 : performance.now() - since)) / 1000;

  async function save() {
    if (busy || page.thread.holds() || !form.reportValidity()) return;
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

  // What Evidence, Caret and Thread ask of the page they are on.
  const page = {
    form, text, open, post, explain,
    hush: () => (trouble.hidden = true),
    on: (target, type, handler, options) => target.addEventListener(type, handler, options),
    desk: { changed },
    reading: { flash: (marks) => marks.forEach((mark) => (mark.classList.add("is-found"), setTimeout(() => mark.classList.remove("is-found"), 1600))) },
  };
  page.thread = Thread(page);
  page.evidence = Evidence(page);
  page.caret = Caret(page);
  page.evidence.draw();

  const about = () => page.thread.about(Words.selected());

  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (event.target === page.thread.area) document.getElementById("say").requestSubmit();
      else if (open) save();
      return;
    }
    if (page.caret.key(event)) return event.preventDefault();
    if (event.key === "Escape" && Centinela.typing(event)) return event.target.blur();
    const key = Centinela.shortcut(event);
    const done = { c: open && causes, e: open && page.evidence.mark, m: page.caret.start, t: about }[key];
    if (done) done();
    else if (!open || !key || !choose(key)) return;
    event.preventDefault();
  });

  addEventListener("beforeunload", (event) => (dirty || page.thread.unsent()) && event.preventDefault());
  if (!open) return;

  form.addEventListener("input", (event) => event.target.form === form && changed());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) since = performance.now();
    else if (since !== null) [total, since] = [total + performance.now() - since, null];
    if (document.hidden) keep(true);
  });
})();
