// What a reader marks in the notes: whole words, overlapping as they like, each with a label of the protocol.
"use strict";

const Evidence = (page) => {
  const { form, text } = page;
  const field = form.elements.evidence;
  const LANES = 3;
  let marks = JSON.parse(field.value || "[]");

  const answers = [...form.querySelectorAll(".choice input[data-label]")];
  const labels = answers.map((one) => [one.value, one.parentElement.querySelector("span").textContent]);
  const labelName = (value) => labels.find(([known]) => known === value)?.[1] ?? "";
  const words = (one) => (Words.place(one) ? Words.text(Words.place(one)) : "");
  const short = (string) => (string.length > 120 ? `${string.slice(0, 120)}…` : string);

  // The label of a new mark: the verdict chosen so far; one without a label takes that of the verdict once it is chosen.
  const usual = () => answers.find((one) => one.checked)?.value ?? "";
  answers.forEach((answer) =>
    answer.addEventListener("change", () => {
      if (marks.every((one) => one.label)) return;
      marks.forEach((one) => (one.label ||= answer.value));
      changed();
    }),
  );

  function mark() {
    if (!page.open) return;
    const found = Words.selected();
    if (!found) return Centinela.say(text.textSelect);
    getSelection().removeAllRanges();
    const one = { ...Words.stored(found), label: usual() };
    if (marks.some((known) => same(known, one))) return Centinela.say(text.textTwice);
    marks.push(one);
    changed();
    Centinela.tell(text.textMarked.replace("{words}", short(Words.text(found))));
  }

  const same = (a, b) => ["note", "start", "end"].every((key) => a[key] === b[key]);

  function remove(one) {
    const place = marks.indexOf(one);
    marks = marks.filter((other) => other !== one);
    changed();
    const left = document.querySelectorAll("#evidence .evidence-remove");
    (left[Math.min(place, left.length - 1)] ?? document.getElementById("mark")).focus();
    Centinela.tell(text.textRemoved.replace("{words}", short(words(one))));
  }

  function changed() {
    draw();
    page.desk.changed();
  }

  // ---------- In the notes: a line under the words, one lane lower where marks overlap, and its number before them

  function draw() {
    field.value = JSON.stringify(marks);
    document.getElementById("evidence-title").textContent = text.textEvidence.replace("{n}", marks.length);
    document.getElementById("evidence").replaceChildren(...marks.map(item));
    erase();
    const lanes = lanesOf(marks);
    marks.forEach((one, i) => outline(one, ["mark-evidence", `lane-${lanes[i]}`, one.label === text.target ? "" : "mark-other"], i + 1));
    for (const said of document.querySelectorAll("#said [data-note]")) outline(passageOf(said), ["mark-said"]);
  }

  function erase() {
    const drawn = document.querySelectorAll(".note-text .mark-added");
    const notes = new Set([...drawn].map((one) => one.closest(".note-text")));
    for (const old of drawn) old.replaceWith(...old.childNodes);
    for (const note of notes) note.normalize();
  }

  // For each mark the lowest lane that is free where it begins.
  function lanesOf(all) {
    const lanes = new Array(all.length).fill(0);
    const order = all.map((_, i) => i).sort((a, b) => all[a].note - all[b].note || all[a].start - all[b].start);
    const busy = [];
    for (const i of order) {
      const free = [...Array(LANES).keys()].find((lane) => !busy[lane] || busy[lane].note !== all[i].note || busy[lane].end <= all[i].start);
      lanes[i] = free ?? i % LANES;
      busy[lanes[i]] = all[i];
    }
    return lanes;
  }

  // Wraps each stretch of text inside the passage; the note's text stays what it was.
  function outline(one, classes, number = 0) {
    const place = Words.place(one);
    if (!place) return;
    const pieces = Words.nodes(place.note, place.from, place.to);
    pieces.forEach(([node, from, to], i) => {
      const range = document.createRange();
      range.setStart(node, from);
      range.setEnd(node, to);
      const wrap = document.createElement("mark");
      wrap.classList.add("mark", "mark-added", ...classes.filter(Boolean));
      if (number) wrap.dataset.mark = number;
      if (number && i === 0) wrap.dataset.number = number;
      range.surroundContents(wrap);
    });
  }

  const passageOf = ({ dataset }) => ({ note: Number(dataset.note), start: Number(dataset.start), end: Number(dataset.end) });

  // Brings a passage into view and outlines it for a moment.
  function go(one) {
    const place = Words.place(one);
    if (!place) return;
    const pieces = Words.nodes(place.note, place.from, place.to).map(([node]) => node.parentElement.closest(".mark-added"));
    const shown = pieces.filter(Boolean);
    shown[0]?.scrollIntoView({ block: "center" });
    page.reading.flash(shown);
  }

  // ---------- In the list

  function item(one, i) {
    const entry = document.createElement("li");
    const number = document.createElement("span");
    Object.assign(number, { className: "evidence-number", textContent: i + 1 });
    entry.append(number, jumper(one), page.open ? chooser(one) : named(one));
    if (page.open) entry.append(remover(one));
    return entry;
  }

  function jumper(one) {
    const button = document.createElement("button");
    const quote = document.createElement("q");
    quote.textContent = words(one);
    Object.assign(button, { type: "button", className: "evidence-words", title: [day(one), text.textGo].filter(Boolean).join(" · ") });
    button.append(quote);
    button.addEventListener("click", () => go(one));
    return button;
  }

  const day = (one) => Words.place(one)?.note.closest(".note").querySelector("time")?.textContent ?? "";

  function named(one) {
    const label = document.createElement("span");
    Object.assign(label, { className: "muted", textContent: labelName(one.label) });
    return label;
  }

  function chooser(one) {
    const select = document.createElement("select");
    const offered = one.label ? labels : [["", "—"], ...labels];
    select.className = "evidence-label";
    select.setAttribute("aria-label", `${text.textLabel} «${short(words(one))}»`);
    select.append(...offered.map(([value, name]) => new Option(name, value, false, value === one.label)));
    select.addEventListener("change", () => {
      one.label = select.value;
      changed();
      document.querySelectorAll("#evidence select")[marks.indexOf(one)].focus();
    });
    return select;
  }

  function remover(one) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "evidence-remove", textContent: "×", title: text.textRemove });
    button.setAttribute("aria-label", `${text.textRemove} «${short(words(one))}»`);
    button.addEventListener("click", () => remove(one));
    return button;
  }

  const button = document.getElementById("mark");
  if (button) {
    page.on(button, "pointerdown", (event) => event.preventDefault()); // keeps the selection
    page.on(button, "click", mark);
  }
  return { mark, draw, go, passageOf };
};
