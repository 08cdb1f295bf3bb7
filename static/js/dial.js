// The dial page: live preview of a new α and typicality floor, the curves, the comparison.
"use strict";

(() => {
  const REASONS = ["automatic", "held", "ambiguous", "novel", "atypical"];
  const BOUNDS = { alpha: [0.001, 0.5], floor: [0, 0.5], audit_rate: [0, 1] };
  const SCALE = [0.001, 0.0015, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5];
  const { format, percent, figure, number } = Centinela;

  const form = document.getElementById("dial");
  const plot = document.getElementById("figure");
  const curve = JSON.parse(document.getElementById("curve").textContent);
  const status = document.getElementById("preview-status");
  const basis = document.getElementById("week-basis");
  const hours = document.getElementById("id_hours");
  const fields = { alpha: form.elements.alpha, floor: form.elements.floor, audit_rate: form.elements.audit_rate };
  const today = { alpha: Number(form.dataset.alpha), floor: Number(form.dataset.floor), audit_rate: Number(form.dataset.auditRate) };
  let pending = null;

  // ---------- What is proposed ----------

  const within = (name, value) => value >= BOUNDS[name][0] && value <= BOUNDS[name][1];

  function proposal() {
    const values = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, number(field.value)]));
    return Object.entries(values).every(([name, value]) => within(name, value)) ? values : null;
  }

  function check(name) {
    const wrong = !within(name, number(fields[name].value));
    if (wrong) fields[name].setAttribute("aria-invalid", "true");
    else fields[name].removeAttribute("aria-invalid");
    document.getElementById(`id_${name}-error`).replaceChildren(...(wrong ? [item(advice(name))] : []));
  }

  function advice(name) {
    const [least, most] = BOUNDS[name].map(figure);
    return form.dataset.textNumber.replace("{least}", least).replace("{most}", most).replace("{example}", figure(today[name]));
  }

  function item(words) {
    const element = document.createElement("li");
    element.textContent = words;
    return element;
  }

  const step = (value, up) => (up ? SCALE.find((x) => x > value) : SCALE.findLast((x) => x < value)) ?? value;

  // ---------- Preview ----------

  // asked: the hours a week that reading may take, where the α is to be found for them.
  async function preview(asked = null) {
    const proposed = proposal();
    pending?.abort();
    if (!proposed) {
      status.textContent = "";
      return;
    }
    if (asked === null) draw(proposed);
    pending = new AbortController();
    const query = new URLSearchParams(proposed);
    if (asked !== null) query.set("hours", asked);
    try {
      const response = await fetch(`${form.dataset.previewUrl}?${query}`, { headers: { Accept: "application/json" }, credentials: "same-origin", signal: pending.signal });
      const found = await response.json();
      refuse(found.errors?.hours ?? []);
      if (response.ok) show(found, asked);
      else if (!found.errors?.hours) throw new Error(String(response.status));
    } catch (error) {
      if (error.name !== "AbortError") status.textContent = form.dataset.textFailed;
    }
  }

  function refuse(sentences) {
    document.getElementById("id_hours-error").replaceChildren(...sentences.map(item));
    if (sentences.length) hours.setAttribute("aria-invalid", "true");
    else hours.removeAttribute("aria-invalid");
  }

  function show(found, asked) {
    const { n, now, then, warnings, refused, changed, audited } = found;
    if (asked !== null) {
      fields.alpha.value = figure(found.alpha);
      check("alpha");
      draw(proposal());
    }
    fillBar("share-now", now, n);
    fillBar("share-then", then, n);
    for (const reason of REASONS) {
      const [before, after] = cells(`#shares [data-reason=${reason}]`);
      before.textContent = format(now[reason]);
      after.textContent = format(then[reason]);
    }
    document.querySelector("#shares [data-reason=held]").hidden = !(now.held || then.held);
    compareCounts(n, now.automatic, then.automatic, "automatic");
    compareCounts(n, n - now.automatic, n - then.automatic, "deferred");
    compareAll(found, proposal());
    const { textChanged, textChangedOne } = form.dataset;
    status.textContent = changed === 1 ? textChangedOne : textChanged.replace("{count}", format(changed));
    document.getElementById("warnings").replaceChildren(...[...refused, ...warnings].map(notice));
    document.getElementById("audited").textContent = audited;
    showHours(found.week.then, asked !== null);
  }

  function showHours(week, typed) {
    document.getElementById("by-hours").hidden = !week.hours;
    if (week.hours && !typed) hours.value = format(week.hours[0], 1, { useGrouping: false });
    const counted = basis.dataset.known.replace("{arrived}", format(week.arrived)).replace("{timed}", format(week.timed));
    basis.textContent = week.hours ? counted : basis.dataset.unknown;
  }

  function notice(words) {
    const element = document.createElement("p");
    element.className = "notice";
    element.textContent = words;
    return element;
  }

  function fillBar(id, counts, n) {
    for (const reason of REASONS) {
      document.querySelector(`#${id} .share-${reason}`).style.setProperty("--share", n ? (100 * counts[reason]) / n : 0);
    }
  }

  // ---------- Comparison ----------

  const cells = (row) => document.querySelectorAll(`${row} td`);

  function fill(cell, value, aside) {
    cell.textContent = value;
    if (!aside) return;
    const small = document.createElement("span");
    small.className = "interval";
    small.textContent = aside;
    cell.append(" ", small);
  }

  const signed = (value, digits) => (value > 0 ? "+" : "") + format(value, digits).replace(/^−(0([.,]0+)?)$/, "$1");

  function compareCounts(n, before, after, name) {
    const [now, then, change] = cells(`#comparison [data-count=${name}]`);
    fill(now, format(before), n ? percent(before / n) : "");
    fill(then, format(after), n ? percent(after / n) : "");
    fill(change, signed(after - before, 0));
  }

  const UNITS = {
    share: { show: (x) => `${format(100 * x, 1)}\u00a0%`, ends: (x) => format(100 * x), change: (d) => signed(100 * d, 1) },
    score: { show: (x) => format(x, 3), ends: (x) => format(x, 2), change: (d) => signed(d, 3) },
    thousand: { show: (x) => format(x, 1), ends: (x) => format(x, 1), change: (d) => signed(d, 1) },
    deferred: { show: (x) => format(x), ends: (x) => format(x), change: (d) => signed(d, 0) },
    hours: { show: (x) => format(x, 1), ends: (x) => format(x, 1), change: (d) => signed(d, 1) },
  };

  // Each side is [value, low, high, n]; without a value it is not known.
  function compare(row, unit, before, after) {
    const [now, then, change] = row.querySelectorAll("td");
    for (const [cell, side] of [[now, before], [then, after]]) {
      const known = side && side[0] !== null;
      fill(cell, known ? unit.show(side[0]) : "–", known ? aside(unit, side) : "");
    }
    const both = [before, after].every((side) => side && side[0] !== null);
    fill(change, both ? unit.change(after[0] - before[0]) : "–");
  }

  function aside(unit, [, low, high, n]) {
    const ends = low === null || high === null ? "" : `${unit.ends(low)}–${unit.ends(high)}`;
    return n === undefined ? ends : `${ends} (n\u00a0${format(n)})`;
  }

  function compareAll({ calibration, week }, proposed) {
    document.querySelector("[data-proposed-alpha]").textContent = proposed ? `, α ${figure(proposed.alpha)}` : "";
    for (const row of document.querySelectorAll("#comparison [data-calibration]")) {
      const { calibration: name, unit } = row.dataset;
      compare(row, UNITS[unit], calibration.now?.[name], calibration.then?.[name]);
    }
    for (const row of document.querySelectorAll("#comparison [data-week]")) {
      const name = row.dataset.week;
      compare(row, UNITS[name], week.now[name], week.then[name]);
    }
  }

  // ---------- Figure ----------

  const translucent = (colour) => colour.replace("rgb(", "rgba(").replace(")", ", 0.14)");

  function lines() {
    const own = { label: plot.dataset.own, x: curve.alpha, y: curve.automatic.map((count) => (curve.n ? count / curve.n : null)), token: "--accent", dash: "solid", width: 3, show: percent };
    const calibration = curve.calibration
      ? [
          ["coverage", plot.dataset.coverage, "--accent", "dashdot", percent],
          ["tpdr", plot.dataset.tpdr, "--toward", "dash", percent],
          ["clear_f2", plot.dataset.clearF2, "--away", "dot", (x) => format(x, 3)],
        ].map(([name, label, token, dash, show]) => ({ label, x: curve.calibration.alpha, y: curve.calibration[name], low: curve.calibration[`${name}_low`], high: curve.calibration[`${name}_high`], token, dash, width: 2, show }))
      : [];
    return [own, ...calibration].filter((line) => line.y?.some((y) => y !== null));
  }

  // The interval as one closed outline; points without an interval are left out.
  function band(line) {
    const known = line.x.map((_, i) => i).filter((i) => line.low?.[i] != null && line.high?.[i] != null);
    const back = [...known].reverse();
    return {
      x: [...known, ...back].map((i) => line.x[i]),
      y: [...known.map((i) => line.high[i]), ...back.map((i) => line.low[i])],
      fill: "toself", fillcolor: translucent(Centinela.colour(line.token)), line: { width: 0 }, mode: "lines", hoverinfo: "skip",
    };
  }

  const stroke = (line) => ({
    x: line.x, y: line.y, name: line.label, mode: "lines", line: { color: Centinela.colour(line.token), dash: line.dash, width: line.width },
    text: line.y.map((y) => (y === null ? "" : line.show(y))), hovertemplate: "%{text}<extra>%{fullData.name}</extra>",
  });

  function upright(alpha, words, token, width, position) {
    const color = Centinela.colour(token);
    return {
      x: [alpha, alpha], y: [0, 1.04], mode: "lines+markers+text", text: ["", words], textposition: position, cliponaxis: false, hoverinfo: "skip",
      textfont: { color }, line: { color, width }, marker: { color, size: [width * 4, 0], opacity: [width > 1 ? 1 : 0, 0] },
    };
  }

  const narrow = () => plot.clientWidth < 560;

  // Names stand at the right end of their lines, pushed apart where the lines meet.
  function names(drawn) {
    const ends = drawn.map((line) => ({ line, y: line.y.findLast((y) => y !== null) ?? 0 })).sort((a, b) => b.y - a.y);
    const apart = narrow() ? 0.15 : 0.075;
    let last = narrow() ? 1.05 : Infinity;
    for (const end of ends) last = end.at = Math.min(end.y, last - apart);
    const sunk = Math.max(0, -last);
    return ends.map(({ line, at }) => ({
      x: 1, xref: "paper", xanchor: "left", xshift: 6, y: at + sunk, text: narrow() ? line.label.replace(/ (?=\S+$)/, "<br>") : line.label,
      showarrow: false, align: "left", font: { color: Centinela.colour(line.token) },
    }));
  }

  function layout(drawn, proposed) {
    const ink = Centinela.colour("--muted");
    const grid = Centinela.colour("--line");
    const all = [...drawn.flatMap((line) => line.x), today.alpha, proposed.alpha];
    const ticks = narrow() ? [0.001, 0.01, 0.1] : [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5];
    const shares = [0, 0.25, 0.5, 0.75, 1];
    return {
      height: plot.clientHeight, margin: { l: 52, r: narrow() ? 112 : 176, t: 36, b: 48 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink }, showlegend: false, dragmode: false, hovermode: "x unified",
      hoverlabel: { bgcolor: Centinela.colour("--surface"), bordercolor: grid, font: { color: Centinela.colour("--ink") } },
      modebar: { bgcolor: "transparent", color: ink, activecolor: Centinela.colour("--accent") }, annotations: names(drawn),
      xaxis: { type: "log", range: [Math.log10(Math.min(...all)), Math.log10(Math.max(...all))], tickvals: ticks, ticktext: ticks.map(figure), title: { text: plot.dataset.axis, standoff: 8, font: { size: 13 } }, tickangle: 0, showgrid: false, fixedrange: true, zeroline: false, unifiedhovertitle: { text: "α %{x}" }, hoverformat: ".3~g" },
      yaxis: { range: [-0.02, 1.04], tickvals: shares, ticktext: shares.map((x) => percent(x)), gridcolor: grid, fixedrange: true, zeroline: false },
    };
  }

  function draw(proposed) {
    const drawn = lines();
    const said = (words, alpha) => words.replace("{alpha}", figure(alpha));
    const moved = proposed.alpha !== today.alpha;
    const right = !moved || proposed.alpha < today.alpha;
    const drawing = layout(drawn, proposed);
    const [low, high] = drawing.xaxis.range;
    const side = (alpha, toRight) => {
      const place = (Math.log10(alpha) - low) / (high - low);
      return place < 0.2 || (toRight && place < 0.8) ? "top right" : "top left";
    };
    const uprights = [upright(today.alpha, said(plot.dataset.today, today.alpha), "--muted", 1, side(today.alpha, right))];
    if (moved) uprights.push(upright(proposed.alpha, `<b>${said(plot.dataset.proposed, proposed.alpha)}</b>`, "--accent", 3, side(proposed.alpha, !right)));
    Plotly.react(plot, [...drawn.filter((line) => line.low).map(band), ...drawn.map(stroke), ...uprights], drawing, { displayModeBar: false, responsive: true });
  }

  // ---------- Wiring ----------

  let timer;
  const soon = (asked) => {
    clearTimeout(timer);
    timer = setTimeout(() => preview(asked), 200);
  };

  function changed(name) {
    check(name);
    soon();
  }

  for (const [name, field] of Object.entries(fields)) {
    if (field.readOnly) continue;
    field.addEventListener("input", () => changed(name));
    field.addEventListener("keydown", (event) => {
      const value = number(field.value);
      if (!["ArrowUp", "ArrowDown"].includes(event.key) || Number.isNaN(value)) return;
      event.preventDefault();
      field.value = figure(step(value, event.key === "ArrowUp"));
      changed(name);
    });
  }
  hours.addEventListener("input", () => {
    const asked = number(hours.value);
    if (!Number.isNaN(asked)) soon(asked);
  });

  // An instrument found an α: into the fields with it, as if it had been typed.
  document.addEventListener("dial:propose", ({ detail }) => {
    for (const name of ["alpha", "floor"]) {
      if (!(detail[name] > 0 || (name === "floor" && detail[name] === 0)) || fields[name].readOnly) continue;
      fields[name].value = figure(detail[name]);
      check(name);
    }
    preview();
    fields.alpha.focus();
  });

  document.getElementById("download").addEventListener("click", () => {
    Plotly.downloadImage(plot, { format: "svg", width: plot.clientWidth, height: plot.clientHeight, filename: "centinela-dial" });
  });
  document.addEventListener("themechange", () => draw(proposal() ?? today));
  draw(today);
  preview();
})();
