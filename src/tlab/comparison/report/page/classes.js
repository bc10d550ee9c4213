// Accuracy per class, and which classes are taken for which.
const MOST_SHOWN = 40;

function drawClasses() {
  const colours = theme();
  const classes = data.classes;
  hide("classes-section", !classes);
  if (!classes) return;
  const count = Math.min(MOST_SHOWN, classes.names.length);
  const rows = [...Array(count).keys()];
  const take = (list) => list.slice(0, count);
  const names = take(classes.names);
  const traces = [];
  if (classes.others) {
    traces.push({
      type: "scatter", mode: "lines", hoverinfo: "skip", line: { color: colours.line, width: 5 }, name: "range of the others",
      x: rows.flatMap((i) => [classes.low[i], classes.high[i], null]), y: rows.flatMap((i) => [i, i, null]),
    }, {
      type: "scatter", mode: "markers", x: take(classes.mean), y: rows, name: "mean of the others",
      marker: { symbol: "line-ns", size: 11, line: { width: 2, color: colours.soft } },
      text: rows.map((i) => `${escaped(names[i])}: mean of ${classes.others} other settings ${asText(classes.mean[i], true)}`),
      hoverinfo: "text",
    });
  }
  traces.push({
    type: "scatter", mode: "markers", x: take(classes.best), y: rows, name: "best setting",
    marker: { size: 11, color: colours.series[0] }, hoverinfo: "text",
    text: rows.map((i) => `<b>${asText(classes.best[i], true)}</b> ${escaped(names[i])}`),
  });
  plot("classes", traces, layout(colours, {
    height: 100 + 26 * count,
    showlegend: classes.others > 0,
    legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0, font: { size: 12 } },
    xaxis: shareAxis(colours, true, { range: [-0.03, 1.03] }),
    yaxis: axis(colours, {
      tickvals: rows, ticktext: names.map((name) => cut(name, 22)), range: [count - 0.4, -0.6], showgrid: false,
      tickfont: { color: colours.ink, size: 12 },
    }),
  }));
  drawConfusion(colours, classes);
}

function drawConfusion(colours, classes) {
  const pairs = classes.pairs.slice(0, 5).map((p) =>
    `${p.label} taken for ${p.prediction} (${p.count}, ${Math.round(100 * p.share)} % of its images)`);
  document.getElementById("pairs").textContent = pairs.length ? `Most frequent: ${pairs.join("; ")}.` : "No mistake.";
  hide("confusion", !classes.confusion);
  if (!classes.confusion) return;
  const names = classes.classes.map((name) => cut(name, 16));
  const shares = classes.confusion.map((row) => {
    const total = row.reduce((a, b) => a + b, 0);
    return row.map((count) => (total ? count / total : 0));
  });
  const steps = [0, 0.25, 0.5, 0.75, 1];
  const width = document.getElementById("confusion").clientWidth;
  const legible = names.length <= 12 && width > 380;
  const trace = {
    type: "heatmap", z: shares, zmin: 0, zmax: 1, showscale: false, xgap: 1, ygap: 1,
    colorscale: steps.map((at) => [at, at === 0 ? colours.card : scale(at)]),
    text: shares.map((row, i) => row.map((share, j) =>
      `${classes.confusion[i][j]} of ${escaped(classes.classes[i])} taken for ${escaped(classes.classes[j])} (${Math.round(100 * share)} %)`)),
    hoverinfo: "text",
  };
  const dark = matchMedia("(prefers-color-scheme: dark)").matches && !printing;
  const annotations = legible
    ? shares.flatMap((row, i) => row.map((share, j) => ({
        x: j, y: i, text: share >= 0.005 ? String(Math.round(100 * share)) : "", showarrow: false,
        font: { size: 11, color: share > (dark ? 0.55 : 0.45) ? (dark ? "#10202a" : "#ffffff") : colours.ink },
      })).filter((label) => label.text))
    : [];
  plot("confusion", [trace], layout(colours, {
    height: Math.min(640, Math.max(300, width)) + 40,
    annotations,
    xaxis: axis(colours, { tickvals: names.map((_, i) => i), ticktext: names, tickangle: -45, showgrid: false, title: "prediction" }),
    yaxis: axis(colours, { tickvals: names.map((_, i) => i), ticktext: names, autorange: "reversed", showgrid: false, title: "label" }),
  }));
}
