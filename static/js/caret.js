// A cursor that goes word by word through the notes, for whoever has no mouse. It is the page's own selection.
"use strict";

const Caret = (page) => {
  const { text } = page;
  let at = null; // {note, anchor, head}: numbers of words of the note
  let before = null; // what had the focus

  const words = (note) => Words.of(note).words;
  const notes = () => [...document.querySelectorAll(".note-text")].filter((note) => words(note).length);
  const reading = () => document.getElementById("reading");
  const rangeOf = (note, first, last) => Words.range(note, words(note)[first].start, words(note)[last].end);
  const box = (note, i) => rangeOf(note, i, i).getClientRects()[0] ?? rangeOf(note, i, i).getBoundingClientRect();

  function start() {
    const top = Math.max(reading().getBoundingClientRect().top, 0);
    const note = notes().find((one) => one.getBoundingClientRect().bottom > top + 8);
    if (!note) return;
    if (!at) before = document.activeElement;
    const first = Math.max(words(note).findIndex((_, i) => box(note, i).top >= top), 0);
    enter({ note, anchor: first, head: first });
    Centinela.tell(`${text.textCaret} ${selection()}`);
  }

  // Screen readers hand the arrow keys over while an application has the focus.
  function enter(next) {
    if (at?.note !== next.note) {
      leaveNote();
      next.note.tabIndex = -1;
      next.note.setAttribute("role", "application");
      next.note.setAttribute("aria-label", text.textCaret);
      next.note.focus({ preventScroll: true });
    }
    at = next;
    show();
  }

  function leaveNote() {
    for (const name of ["role", "aria-label", "tabindex"]) at?.note.removeAttribute(name);
  }

  const ends = () => [Math.min(at.anchor, at.head), Math.max(at.anchor, at.head)];
  const selection = () => rangeOf(at.note, ...ends()).toString();

  function show() {
    const chosen = getSelection();
    chosen.removeAllRanges();
    chosen.addRange(rangeOf(at.note, ...ends()));
    bringIntoView(box(at.note, at.head));
  }

  function bringIntoView(word) {
    const pane = reading();
    const apart = ["auto", "scroll"].includes(getComputedStyle(pane).overflowY) && pane.scrollHeight > pane.clientHeight;
    const [top, bottom] = apart ? [pane.getBoundingClientRect().top, pane.getBoundingClientRect().bottom] : [0, innerHeight - 160];
    const by = word.top < top + 40 ? word.top - top - 40 : Math.max(word.bottom - bottom + 40, 0);
    if (by) (apart ? pane : window).scrollBy(0, by);
  }

  function end() {
    if (!at) return;
    leaveNote();
    at = null;
    getSelection().removeAllRanges();
    if (before?.isConnected && before !== document.body) before.focus({ preventScroll: true });
    else document.activeElement?.blur();
    Centinela.tell(text.textCaretEnd);
  }

  // ---------- Moves

  function move(next, extend) {
    if (!next || (extend && next.note !== at.note)) return;
    enter({ note: next.note, head: next.head, anchor: extend ? at.anchor : next.head });
    Centinela.tell(selection().slice(-200));
  }

  function aside(step) {
    const head = at.head + step;
    if (words(at.note)[head]) return { note: at.note, head };
    const note = neighbour(step);
    return note && { note, head: step > 0 ? 0 : words(note).length - 1 };
  }

  const neighbour = (step) => notes()[notes().indexOf(at.note) + step];

  function line(step) {
    const here = box(at.note, at.head);
    const head = nearest(at.note, at.head + step, step, here, (one) => (step > 0 ? one.top >= here.bottom - 2 : one.bottom <= here.top + 2));
    if (head !== null) return { note: at.note, head };
    const note = neighbour(step);
    return note && { note, head: nearest(note, step > 0 ? 0 : words(note).length - 1, step, here, () => true) };
  }

  // The word of the first line that counts, the one that lies most nearly over or under `here`.
  function nearest(note, from, step, here, counts) {
    const middle = (one) => (one.left + one.right) / 2;
    let [row, best, gap] = [null, null, Infinity];
    for (let i = from; words(note)[i]; i += step) {
      const one = box(note, i);
      if (!counts(one)) continue;
      row ??= one;
      if (Math.abs(one.top - row.top) > row.height / 2) break;
      if (Math.abs(middle(one) - middle(here)) < gap) [best, gap] = [i, Math.abs(middle(one) - middle(here))];
    }
    return best;
  }

  const MOVES = {
    ArrowLeft: () => aside(-1),
    ArrowRight: () => aside(1),
    ArrowUp: () => line(-1),
    ArrowDown: () => line(1),
    Home: () => ({ note: at.note, head: 0 }),
    End: () => ({ note: at.note, head: words(at.note).length - 1 }),
  };

  // Whether the key was the cursor's.
  function key(event) {
    if (!at || event.ctrlKey || event.metaKey || event.altKey || Centinela.typing(event)) return false;
    const pressed = event.key.toLowerCase();
    if (MOVES[event.key]) move(MOVES[event.key](), event.shiftKey);
    else if (event.key === "Escape") end();
    else if (event.key === "Enter" || pressed === "e") mark();
    else if (pressed === "c") page.thread.about(Words.selected());
    else return false;
    return true;
  }

  function mark() {
    page.evidence.mark();
    show();
  }

  page.on(document, "pointerdown", () => at && (leaveNote(), (at = null)));
  const button = document.getElementById("caret");
  if (button) page.on(button, "click", start);
  return { start, key, end, active: () => at !== null };
};
