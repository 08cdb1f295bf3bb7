// κ by month: a point and its interval, over what the table beneath says in figures.
"use strict";

(() => {
  const plot = document.getElementById("figure");
  const { months, names, value, low, high, n } = JSON.parse(document.getElementById("drift").textContent);
  const { format, colour } = Centinela;

  const said = (i) => `${names[i]}: ${format(value[i], 2)} (${format(low[i], 2)} – ${format(high[i], 2)}), n = ${format(n[i])}`;

  function trace() {
    const accent = colour("--accent");
    return {
      x: months, y: value, mode: "lines+markers", text: months.map((_, i) => said(i)), hovertemplate: "%{text}<extra></extra>",
      line: { color: accent, width: 2 }, marker: { color: accent, size: 8 },
      error_y: { type: "data", symmetric: false, array: high.map((top, i) => top - value[i]), arrayminus: low.map((foot, i) => value[i] - foot), color: colour("--muted"), thickness: 1.5, width: 5 },
    };
  }

  function layout() {
    const grid = colour("--line");
    return {
      height: plot.clientHeight, margin: { l: 48, r: 16, t: 12, b: 44 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent", showlegend: false, dragmode: false,
      separators: format(1.5, 1).charAt(1) + " ", font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--muted") },
      hoverlabel: { bgcolor: colour("--surface"), bordercolor: grid, font: { color: colour("--ink") } },
      xaxis: { type: "category", fixedrange: true, showgrid: false, tickvals: months, ticktext: names, automargin: true },
      yaxis: { range: [Math.min(0, ...low) - 0.05, 1.05], fixedrange: true, gridcolor: grid, zeroline: false, nticks: 6, title: { text: plot.dataset.axis, font: { size: 13 } } },
    };
  }

  const draw = () => Plotly.react(plot, [trace()], layout(), { displayModeBar: false, responsive: true });

  document.addEventListener("themechange", draw);
  draw();
})();
