// The words of a group of cases: solid bars over the hatched bars of calibration.
"use strict";

(() => {
  const plot = document.getElementById("figure");
  const { words, scores, baseline, signs } = JSON.parse(document.getElementById("words").textContent);
  const { format, colour } = Centinela;
  const TOKENS = { toward: "--toward", away: "--away", mixed: "--muted" };
  const SHORT = { toward: "+", away: "−", mixed: "±" };

  // Plotly reads a little HTML in its labels; a word of a note is no HTML.
  const plain = (word) => word.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const rows = words.map((_, i) => i);
  const narrow = () => plot.clientWidth < 560;

  const bars = (values, rest) => ({ type: "bar", orientation: "h", x: values, y: rows, hoverinfo: "skip", cliponaxis: false, ...rest });

  function traces() {
    const grey = colour("--muted");
    const hatched = { color: "transparent", line: { color: grey, width: 1 }, pattern: { shape: "/", fgcolor: grey, size: 6, solidity: 0.2 } };
    const solid = { color: signs.map((sign) => colour(TOKENS[sign])) };
    return [...(baseline ? [bars(baseline, { width: 0.84, marker: hatched })] : []), bars(scores, { width: 0.44, marker: solid })];
  }

  // What a bar is, written behind the longer of the two, so that it does not hang on its colour.
  const notes = () =>
    rows.map((i) => ({
      x: Math.max(scores[i], baseline?.[i] ?? 0), y: i, xanchor: "left", xshift: 4, showarrow: false,
      text: `${format(scores[i], 3)} ${narrow() ? SHORT[signs[i]] : plain(plot.dataset[signs[i]])}`, font: { size: 12, color: colour("--muted") },
    }));

  function layout() {
    const ink = colour("--ink");
    return {
      height: plot.clientHeight, barmode: "overlay", showlegend: false, dragmode: false, hovermode: false, annotations: notes(),
      margin: { l: narrow() ? 96 : 168, r: narrow() ? 64 : 176, t: 8, b: 44 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
      separators: format(1.5, 1).charAt(1) + " ", font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--muted") },
      xaxis: { rangemode: "tozero", fixedrange: true, gridcolor: colour("--line"), zeroline: false, nticks: 5, title: { text: plain(plot.dataset.axis), standoff: 8, font: { size: 13 } } },
      yaxis: { autorange: "reversed", fixedrange: true, tickvals: rows, ticktext: words.map(plain), tickfont: { color: ink }, ticks: "outside", ticklen: 6, tickcolor: "transparent", automargin: true, showgrid: false, zeroline: false },
    };
  }

  const draw = () => Plotly.react(plot, traces(), layout(), { displayModeBar: false, responsive: true });

  document.addEventListener("themechange", draw);
  draw();
})();
