// Shared behaviour: theme, menus, help, and the few helpers other scripts use.
"use strict";

const Centinela = (() => {
  const language = document.documentElement.lang || "en";
  const text = document.body.dataset;

  const csrf = () => document.querySelector("[name=csrfmiddlewaretoken]")?.value ?? "";

  // Decimal comma and point both count; thousands separators do not.
  function number(written) {
    const plain = String(written).trim().replace(",", ".").replace(/^0?\.(?=\d)/, "0.");
    return /^\d+(\.\d+)?$/.test(plain) ? Number(plain) : NaN;
  }

  function format(value, digits = 0, options = {}) {
    const settings = { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: "always", ...options };
    return new Intl.NumberFormat(language, settings).format(value).replace("-", "−");
  }

  const percent = (share, digits = 0) => `${format(100 * share, digits)}\u00a0%`;

  // α and the typicality floor: as many digits as were given, none invented.
  const figure = (value) => format(value, 0, { maximumSignificantDigits: 3, minimumFractionDigits: undefined, maximumFractionDigits: undefined });

  function say(message) {
    const toast = document.getElementById("toast");
    toast.textContent = message;
    clearTimeout(say.timer);
    say.timer = setTimeout(() => (toast.textContent = ""), 6000);
  }

  function typing(event) {
    const field = event.target.closest?.("input, textarea, select, [contenteditable]");
    return Boolean(field) && !["radio", "checkbox", "button", "submit"].includes(field.type);
  }

  // What the browser remembers of a person's habits; nothing of a patient. Storage may be switched off.
  function stored(name) {
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  }

  function store(name, value) {
    try {
      localStorage.setItem(name, value);
    } catch {
      // Not remembered, still applied.
    }
  }

  // The single key of an event that may act as a shortcut, in lower case, or "": people can switch these off (WCAG 2.1.4).
  function shortcut(event) {
    const barred = event.ctrlKey || event.metaKey || event.altKey || event.isComposing || typing(event);
    return event.key.length > 1 || barred || stored("keys") === "off" ? "" : event.key.toLowerCase();
  }

  // Shows on the page whether single keys act.
  function showKeys() {
    const off = stored("keys") === "off";
    document.documentElement.toggleAttribute("data-keys-off", off);
    for (const box of document.querySelectorAll("[data-single-keys]")) box.checked = !off;
  }

  // Says something to screen readers alone.
  function tell(message) {
    let line = document.getElementById("told");
    if (!line) {
      line = Object.assign(document.createElement("p"), { id: "told", className: "visually-hidden" });
      line.setAttribute("role", "status");
      document.body.append(line);
    }
    line.textContent = message;
  }

  // A token as the browser resolves it in the current theme: "rgb(r, g, b)".
  function colour(token) {
    const probe = document.createElement("span");
    probe.style.color = `var(${token})`;
    document.body.append(probe);
    const resolved = getComputedStyle(probe).color;
    probe.remove();
    return resolved;
  }

  async function json(url, options = {}) {
    const response = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin", ...options });
    if (!response.ok || !response.headers.get("Content-Type")?.includes("json")) throw new Error(String(response.status));
    return response.json();
  }

  // Polls a bar until nothing waits; says count and time left. Returns when done.
  function follow(row) {
    const bar = row.querySelector("progress");
    const label = row.querySelector("[data-progress-text]");
    const started = { at: Date.now(), done: null };
    let delay = 2000;
    async function step() {
      try {
        const state = await json(row.dataset.progressUrl);
        const done = state.total - state.waiting;
        started.done ??= done;
        delay = 2000;
        bar.max = state.total || 1;
        bar.value = done;
        label.textContent = progressText(state, done, started);
        if (!state.waiting) return row.dispatchEvent(new CustomEvent("progressdone", { bubbles: true, detail: state }));
      } catch {
        delay = Math.min(delay * 2, 30000);
        label.textContent = text.textOffline;
      }
      setTimeout(step, delay);
    }
    step();
  }

  function progressText(state, done, started) {
    const parts = [text.textScored.replace("{done}", format(state.scored)).replace("{total}", format(state.total))];
    if (state.quarantined) parts.push(text.textQuarantined.replace("{count}", format(state.quarantined)));
    const rate = (done - started.done) / (Date.now() - started.at);
    if (state.waiting && rate > 0) parts.push(text.textTimeLeft.replace("{time}", duration(state.waiting / rate)));
    return parts.join(" · ");
  }

  function duration(milliseconds) {
    const seconds = Math.ceil(milliseconds / 1000);
    if (seconds < 60) return `${seconds}\u00a0s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)}\u00a0min`;
    return `${format(seconds / 3600, 1)}\u00a0h`;
  }

  return { csrf, number, format, percent, figure, say, tell, typing, shortcut, showKeys, stored, store, colour, json, follow };
})();

(() => {
  const root = document.documentElement;
  const help = document.getElementById("help");
  const announceTheme = () => document.dispatchEvent(new Event("themechange"));

  function showTheme() {
    const chosen = root.dataset.theme ?? "auto";
    for (const button of document.querySelectorAll("[data-theme-choice]")) {
      button.setAttribute("aria-pressed", button.dataset.themeChoice === chosen);
    }
  }

  function chooseTheme(theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    Centinela.store("theme", theme);
    showTheme();
    announceTheme();
  }

  function closeMenus(except) {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (menu !== except) menu.open = false;
  }

  document.addEventListener("click", (event) => {
    closeMenus(event.target.closest("details.menu"));
    const choice = event.target.closest("[data-theme-choice]");
    if (choice) chooseTheme(choice.dataset.themeChoice);
    if (event.target.closest("[data-open-help]")) help.showModal();
    const close = event.target.closest("[data-close]");
    if (close) close.closest("dialog").close();
    if (event.target === help) help.close();
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      const open = document.querySelector("details.menu[open]");
      closeMenus();
      open?.querySelector("summary").focus();
    }
    if (Centinela.shortcut(event) === "?" && help && !help.open) {
      event.preventDefault();
      help.showModal();
    }
  });

  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-single-keys]")) return;
    Centinela.store("keys", event.target.checked ? "on" : "off");
    Centinela.showKeys();
  });

  Centinela.showKeys();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", announceTheme);
  showTheme();
  for (const row of document.querySelectorAll("[data-progress-url]")) Centinela.follow(row);
})();
