// What readers say to each other about the case, or about a passage: sent and taken back where one reads.
"use strict";

const Thread = (page) => {
  const { text } = page;
  const box = document.getElementById("thread");
  const say = document.getElementById("say");
  const area = document.getElementById("say-text");
  const list = document.getElementById("said");
  const passage = document.getElementById("passage");
  const field = (name) => say.elements[name];

  const unsent = () => area.value.trim() !== "";

  // Opens the box for a comment on what is selected, or on the whole case.
  function about(found) {
    const place = found ? Words.stored(found) : { note: "", start: "", end: "" };
    for (const name of ["note", "start", "end"]) field(name).value = place[name];
    passage.hidden = !found;
    if (found) document.getElementById("passage-words").textContent = `«${Words.text(found).slice(0, 200)}»`;
    box.open = true;
    page.caret.end();
    area.focus();
  }

  let busy = false;

  async function send() {
    if (busy) return;
    busy = true;
    const data = new URLSearchParams(new FormData(say));
    data.delete("csrfmiddlewaretoken");
    const answer = await page.post(say.action, data);
    busy = false;
    if (answer.status !== 200) return page.explain(answer);
    page.hush();
    add(answer.body);
    if (area.value === data.get("text").replaceAll("\r\n", "\n")) area.value = "";
    about(null);
    Centinela.say(text.textSaid);
  }

  function add({ comment, html }) {
    if (!list.querySelector(`[data-comment="${comment}"]`))
      list.append(...new DOMParser().parseFromString(html, "text/html").body.children);
    count();
  }

  async function takeBack(button) {
    const answer = await page.post(button.formAction, new URLSearchParams());
    if (answer.status !== 200) return page.explain(answer);
    page.hush();
    button.closest("li").remove();
    count();
    area.focus();
    Centinela.say(text.textUnsaid);
  }

  function count() {
    document.getElementById("thread-title").textContent = text.textThread.replace("{n}", list.children.length);
    page.evidence.draw();
  }

  page.on(document, "submit", (event) => {
    if (!["say", "unsay"].includes(event.target.id)) return;
    event.preventDefault();
    if (event.target === say) send();
    else takeBack(event.submitter);
  });
  page.on(document.getElementById("no-passage"), "click", () => about(null));
  page.on(list, "click", (event) => {
    if (event.target.closest("[data-passage]")) page.evidence.go(page.evidence.passageOf(event.target.closest("li")));
  });

  // Whether a comment waits to be sent: then that is said, and the reader stays.
  function holds() {
    if (!unsent()) return false;
    box.open = true;
    area.focus();
    page.explain({ status: 400, body: { message: text.textUnsent } });
    return true;
  }

  return { about, send, holds, unsent, area };
};
