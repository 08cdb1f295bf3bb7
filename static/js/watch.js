// Evidence of change by day: a line for each stream over a scale of tens, and the height of the alarm.
"use strict";

(() => {
  const plot = document.getElementById("figure");
  const { lines, alarm } = JSON.parse(document.getElementById("watch").textContent);
  const { format, colour } = Centinela;
  const DASHES = ["solid", "dash", "dot"];
  const COLOURS = ["--accent", "--toward", "--away"];

  const odds = (height) => `${format(10 ** Math.min(height, 15), height < 1 ? 1 : 0)} : 1`;
  const days = lines.flatMap((line) => line.x).sort();
  const top = Math.max(alarm, ...lines.flatMap((line) => line.y)) + 0.4;
  const spread = Math.max(1, Math.ceil(new Set(days).size / (plot.clientWidth < 500 ? 3 : 8)));
  const ticks = [...new Set(days)].filter((_, i) => i % spread === 0);
  const named = new Intl.DateTimeFormat(document.documentElement.lang, { day: "numeric", month: "short", timeZone: "UTC" });
  const foot = Math.min(-0.5, ...lines.flatMap((line) => line.y)) - 0.2;

  function traces() {
    const drawn = lines.map(({ name, x, y }, i) => ({
      x, y, name, mode: "lines", text: y.map(odds), hovertemplate: `${name}: %{text}<extra></extra>`,
      line: { color: colour(COLOURS[i % 3]), width: 2, dash: DASHES[i % 3] },
    }));
    const height = { x: [days[0], days.at(-1)], y: [alarm, alarm], mode: "lines", name: `${plot.dataset.alarm}, ${odds(alarm)}`, hoverinfo: "skip", line: { color: colour("--danger"), width: 1.5, dash: "longdash" } };
    return [...drawn, height];
  }

  function layout() {
    const grid = colour("--line");
    const tens = Array.from({ length: 40 }, (_, i) => i - 3).filter((ten) => ten >= foot && ten <= top);
    const step = Math.max(1, Math.ceil(tens.length / 6));
    const shown = tens.filter((ten) => ten % step === 0);
    return {
      height: plot.clientHeight, margin: { l: 64, r: 16, t: 12, b: 60 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent", dragmode: false,
      separators: format(1.5, 1).charAt(1) + " ", font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--muted") },
      hoverlabel: { bgcolor: colour("--surface"), bordercolor: grid, font: { color: colour("--ink") } }, legend: { orientation: "h", y: -0.2, yanchor: "top" },
      xaxis: { type: "date", fixedrange: true, showgrid: false, tickvals: ticks, ticktext: ticks.map((day) => named.format(new Date(day))), automargin: true },
      yaxis: { range: [foot, top], fixedrange: true, gridcolor: grid, zeroline: false, tickvals: shown, ticktext: shown.map((ten) => format(10 ** ten, Math.max(0, -ten))), title: { text: plot.dataset.axis, font: { size: 13 } } },
    };
  }

  const draw = () => Plotly.react(plot, traces(), layout(), { displayModeBar: false, responsive: true });

  document.addEventListener("themechange", draw);
  draw();
})();
