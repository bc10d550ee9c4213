// Learning curves: mean and range over the runs, and where the phases begin.
function drawCurves() {
  const colours = theme();
  const metric = document.getElementById("curve-metric").value;
  const curves = data.curves[metric];
  hide("curves-section", !curves || !shown.size);
  if (!curves || !shown.size) return;
  const settings = visible().filter((s) => curves.lines[s.place]?.mean.length);
  const named = settings.slice(0, colours.series.length);
  const rest = settings.slice(colours.series.length);
  const traces = [];
  if (rest.length) {
    const lines = rest.map((s) => [...curves.lines[s.place].mean, null]);
    traces.push({
      type: "scatter", mode: "lines", y: lines.flat(), x: lines.flatMap((line) => line.map((_, i) => i + 1)),
      line: { color: faded(colours.muted, 0.35), width: 1 }, hoverinfo: "skip", showlegend: false,
    });
  }
  named.forEach((s, i) => {
    const line = curves.lines[s.place];
    const epochs = line.mean.map((_, epoch) => epoch + 1);
    if (s.values.length > 1) {
      traces.push({
        type: "scatter", mode: "lines", x: [...epochs, ...epochs.toReversed()],
        y: [...line.high, ...line.low.toReversed()], fill: "toself", fillcolor: faded(colours.series[i], 0.13),
        line: { width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup: String(i),
      });
    }
  });
  const uniform = sameBoundaries(named);
  named.forEach((s, i) => {
    const line = curves.lines[s.place];
    const starts = new Set(data.phases[s.place].map((phase) => phase.start).filter((start) => start > 1));
    traces.push({
      type: "scatter", mode: "lines+markers", name: short(s, 40), legendgroup: String(i),
      x: line.mean.map((_, epoch) => epoch + 1), y: line.mean,
      line: { color: colours.series[i], width: 2.2, dash: DASHES[i] },
      marker: {
        color: colours.ground, line: { color: colours.series[i], width: 2 },
        size: line.mean.map((_, epoch) => (!uniform && starts.has(epoch + 1) ? 9 : line.mean.length === 1 ? 8 : 0)),
      },
      text: line.mean.map((value, epoch) =>
        `<b>${asText(value, curves.share)}</b> (${asText(line.low[epoch], curves.share)} to `
        + `${asText(line.high[epoch], curves.share)}) epoch ${epoch + 1}, ${phaseAt(s, epoch + 1)}<br>${described(s)}`),
      hoverinfo: "text",
    });
  });
  const phases = uniform && named.length ? data.phases[named[0].place] : [];
  const note = [
    phases.length > 1 ? "Dotted lines: a phase begins." : uniform ? "" : "Rings: a phase begins.",
    rest.length ? `Colored: the first ${named.length} of ${settings.length}; filter to see others.` : "",
  ];
  document.getElementById("curves-note").textContent = note.join(" ");
  plot("curves", traces, layout(colours, {
    height: 430 + 18 * Math.ceil(named.length / 2),
    showlegend: named.length > 1,
    margin: { l: 8, r: 12, t: 28, b: 8 },
    hovermode: "closest",
    xaxis: axis(colours, { title: "epoch", rangemode: "normal", showgrid: false, tickformat: "d", ...wholeTicks(named, curves) }),
    yaxis: shareAxis(colours, curves.share, { title: metric }),
    shapes: phases.filter((phase) => phase.start > 1).map((phase) => ({
      type: "line", x0: phase.start - 0.5, x1: phase.start - 0.5, yref: "paper", y0: 0, y1: 1,
      line: { color: colours.soft, width: 1, dash: "dot" },
    })),
    annotations: phases.length > 1 ? phases.map((phase) => ({
      x: phase.start === 1 ? 1 : phase.start - 0.5, y: 1, yref: "paper", yanchor: "bottom", xanchor: "left",
      text: escaped(phase.name), showarrow: false, font: { size: 12, color: colours.soft },
    })) : [],
  }));
}

function wholeTicks(settings, curves) {
  const most = Math.max(1, ...settings.map((s) => curves.lines[s.place].mean.length));
  return most <= 12 ? { dtick: 1, range: [0.8, most + 0.2] } : { range: [0.5, most + 0.5] };
}

function sameBoundaries(settings) {
  const texts = settings.map((s) => JSON.stringify(data.phases[s.place]));
  return texts.every((text) => text === texts[0]);
}

function phaseAt(setting, epoch) {
  const begun = data.phases[setting.place].filter((phase) => phase.start <= epoch);
  return begun.length ? `phase ${escaped(begun[begun.length - 1].name)}` : "";
}

function listMetrics() {
  const list = document.getElementById("curve-metric");
  for (const name of Object.keys(data.curves)) list.add(new Option(name));
  list.addEventListener("change", drawCurves);
}
