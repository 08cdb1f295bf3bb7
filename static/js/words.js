// Words and places of a note's text. Units are UTF-16, as the page counts; what is stored counts code points.
"use strict";

const Words = (() => {
  const language = (note) => note.closest("[lang]")?.lang || "en";
  const PICTURE = /\p{Extended_Pictographic}|\p{Regional_Indicator}/u;
  const LETTER = /[\p{L}\p{N}]/u;
  // Without Intl.Segmenter: letters and digits with their marks, or one character with what joins it.
  const PIECE = /[\p{L}\p{N}_][\p{L}\p{M}\p{N}_]*|\p{Regional_Indicator}{2}|[^\p{M}\s](?:[\p{M}\p{Emoji_Modifier}]|\u200d\P{M})*/gu;

  function segments(text, tongue) {
    if (!Intl.Segmenter) return [...text.matchAll(PIECE)].map((found) => [found.index, found[0]]);
    return Array.from(new Intl.Segmenter(tongue, { granularity: "word" }).segment(text), (one) => [one.index, one.segment]);
  }

  // [{start, end, word}]: everything that is no space; word: letters, digits or a picture, not mere punctuation.
  function cut(text, tongue = "en") {
    return segments(text, tongue)
      .filter(([, piece]) => piece.trim())
      .map(([start, piece]) => ({ start, end: start + piece.length, word: LETTER.test(piece) || PICTURE.test(piece) }));
  }

  const known = new WeakMap(); // a note's text stays what it was as long as its element is on the page

  function of(note) {
    if (!known.has(note)) {
      const text = note.textContent;
      const pieces = cut(text, language(note));
      known.set(note, { text, pieces, words: pieces.filter((one) => one.word), plain: !/[\ud800-\udfff]/.test(text) });
    }
    return known.get(note);
  }

  // The whole words that a stretch touches; null where it holds spaces only.
  function snap(note, from, to) {
    const touched = of(note).pieces.filter((one) => one.start < to && one.end > from);
    return touched.length ? { from: touched[0].start, to: touched[touched.length - 1].end } : null;
  }

  const points = (note, unit) => (of(note).plain ? unit : [...of(note).text.slice(0, unit)].length);
  const unit = (note, point) => (of(note).plain ? point : [...of(note).text].slice(0, point).join("").length);

  function offset(note, node, position) {
    const before = document.createRange();
    before.setStart(note, 0);
    before.setEnd(node, position);
    return before.toString().length;
  }

  // [[text node, from, to]]: the pieces of text between two places of a note.
  function nodes(note, from, to) {
    const walker = document.createTreeWalker(note, NodeFilter.SHOW_TEXT);
    const found = [];
    for (let place = 0; place < to && walker.nextNode(); ) {
      const { length } = walker.currentNode;
      const [first, last] = [Math.max(from - place, 0), Math.min(to - place, length)];
      if (first < last) found.push([walker.currentNode, first, last]);
      place += length;
    }
    return found;
  }

  function range(note, from, to) {
    const pieces = nodes(note, from, to);
    const found = document.createRange();
    found.setStart(pieces[0][0], pieces[0][1]);
    const [node, , last] = pieces[pieces.length - 1];
    found.setEnd(node, last);
    return found;
  }

  // What is selected of the first note it touches, grown to whole words: {note, from, to}, or null.
  function selected() {
    const selection = getSelection();
    const chosen = selection.rangeCount ? selection.getRangeAt(0) : null;
    if (!chosen || chosen.collapsed) return null;
    for (const note of document.querySelectorAll(".note-text")) {
      if (!chosen.intersectsNode(note)) continue;
      const from = note.contains(chosen.startContainer) ? offset(note, chosen.startContainer, chosen.startOffset) : 0;
      const to = note.contains(chosen.endContainer) ? offset(note, chosen.endContainer, chosen.endOffset) : of(note).text.length;
      const whole = from < to ? snap(note, from, to) : null;
      if (whole) return { note, ...whole };
    }
    return null;
  }

  // {note, start, end} in ids and code points, as it is stored.
  const stored = ({ note, from, to }) => ({ note: Number(note.dataset.note), start: points(note, from), end: points(note, to) });
  const noteOf = (id) => document.querySelector(`.note-text[data-note="${id}"]`);

  // The reverse: {note, from, to}; null where the note is not on the page.
  function place(one) {
    const note = noteOf(one.note);
    return note && { note, from: unit(note, one.start), to: unit(note, one.end) };
  }

  const text = ({ note, from, to }) => of(note).text.slice(from, to);

  return { cut, of, snap, nodes, range, selected, stored, place, text };
})();
