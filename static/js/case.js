// The case page's keys, and going from case to case without loading a page.
"use strict";

(() => {
  let page = null; // the case that is open; everything it listens to ends with it
  let here = location.pathname + location.search;
  let going = false;

  function open() {
    const form = document.getElementById("decision");
    if (!form) return;
    const ended = new AbortController();
    const { signal } = ended;
    page = {
      form,
      signal,
      text: form.dataset,
      open: form.dataset.state === "open",
      on: (target, type, handler, options = {}) => target.addEventListener(type, handler, target === signal ? options : { ...options, signal }),
      every(milliseconds, step) {
        const timer = setInterval(step, milliseconds);
        signal.addEventListener("abort", () => clearInterval(timer));
      },
      close: () => ended.abort(),
      go,
    };
    page.desk = Desk(page);
    page.thread = Thread(page);
    page.evidence = Evidence(page);
    page.caret = Caret(page);
    page.reading = Reading(page);
    page.evidence.draw();
    page.tour = Tour(page);
    document.querySelector(".queue-item[aria-current]")?.scrollIntoView({ block: "nearest" });
  }

  // ---------- From case to case

  // Fetches a page and shows it here when it is a case; anything else, and any doubt, is a page load.
  async function go(address) {
    if (going || !(await page.desk.safe())) return false;
    going = true;
    try {
      const answer = await fetch(address, { headers: { Accept: "text/html" }, credentials: "same-origin" });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (answer.ok && fresh.getElementById("decision")) swap(fresh, answer.url);
      else location.assign(answer.url);
    } catch {
      location.assign(address);
    } finally {
      going = false;
    }
    return true;
  }

  function swap(fresh, address) {
    page.close();
    const place = new URL(address);
    if (place.pathname + place.search === here) history.replaceState(null, "", place);
    else history.pushState(null, "", place);
    here = place.pathname + place.search;
    document.title = fresh.title;
    const main = document.getElementById("main");
    for (const old of document.querySelectorAll("body > .banner")) old.remove();
    main.before(...fresh.querySelectorAll("body > .banner"));
    exchange(fresh, "#main");
    exchange(fresh, "#help");
    document.querySelector(".topbar-end > .progress-row")?.replaceWith(...fresh.querySelectorAll(".topbar-end > .progress-row"));
    Centinela.showKeys();
    open();
    scrollTo(0, 0);
    if (!page.tour.active()) document.querySelector(".case-head h1").focus({ preventScroll: true });
    Centinela.tell(`${document.title}. ${document.getElementById("last")?.textContent.trim() ?? ""}`);
  }

  function exchange(fresh, selector) {
    document.querySelector(selector).replaceChildren(...fresh.querySelector(selector).childNodes);
  }

  addEventListener("popstate", async () => {
    if (location.pathname + location.search === here) return; // a place within the page
    await page?.desk.keep(true);
    location.reload();
  });

  function neighbour(step) {
    const items = [...document.querySelectorAll(".queue-item")];
    const at = items.findIndex((item) => item.hasAttribute("aria-current"));
    const next = at < 0 ? items[0] : items[at + step];
    if (next) go(next.href);
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.queue-item, a[data-case-link], #next, #last a");
    if (!page || !link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(link.href);
  });

  // ---------- Undo and skip

  document.addEventListener("submit", (event) => {
    if (!page || !["undo", "skip"].includes(event.target.id)) return;
    event.preventDefault();
    const address = event.submitter?.getAttribute("formaction") ?? event.target.getAttribute("action");
    if (event.target.id === "skip") skip(address);
    else if (address) follow(address);
  });

  async function follow(address) {
    if (going || !(await page.desk.safe())) return false;
    const answer = await page.post(address, new URLSearchParams());
    if (answer.status === 200) return go(answer.body.next);
    page.explain(answer);
    return false;
  }

  async function skip(address) {
    const before = page.text.case;
    const { textAlone } = page.text;
    if ((await follow(address)) && page.text.case === before) Centinela.say(textAlone);
  }

  // ---------- Keys

  const submit = (id) => document.getElementById(id)?.requestSubmit();

  const KEYS = {
    z: () => document.getElementById("undo")?.hasAttribute("action") && submit("undo"),
    j: () => page && neighbour(1),
    k: () => page && neighbour(-1),
    s: () => page?.open && submit("skip"),
    m: () => page?.caret.start(),
    e: () => page?.evidence.mark(),
    n: (event) => page?.reading.hit(event.shiftKey ? -1 : 1),
    c: () => page?.thread.about(Words.selected()),
  };

  function strong(event) {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !page) return false;
    if (event.repeat) return true;
    if (event.target === page.thread.area) submit("say");
    else if (page.open) page.desk.save();
    return true;
  }

  function escape(event) {
    if (event.key !== "Escape" || !page || document.querySelector("details.menu[open]")) return false;
    if (Centinela.typing(event)) event.target.blur();
    else if (page.tour.active()) page.tour.close();
    else return page.desk.stopAsking();
    return true;
  }

  document.addEventListener(
    "keydown",
    (event) => {
      if (document.querySelector("dialog[open]") || event.isComposing) return;
      if (page?.caret.key(event) || strong(event) || escape(event)) {
        event.preventDefault();
        return event.stopPropagation();
      }
      const key = Centinela.shortcut(event);
      if (!key) return;
      if (page?.open && page.desk.choose(key)) return event.preventDefault();
      if (!KEYS[key]) return;
      event.preventDefault(); // the letter must not land in the field that the key brings to the front
      if (!event.repeat) KEYS[key](event);
    },
    { capture: true },
  );

  open();
})();
