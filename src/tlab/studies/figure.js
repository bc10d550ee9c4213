// The figure of a study: a line each, with the seeds' range, the laws that were fitted, and the runs as dots.
function draw() {
  const colours = theme();
  const colour = (i) => colours.series[i % colours.series.length];
  const dash = (i) => DASHES[i % DASHES.length];
  const first = data.ticks[0]?.[0] ?? 0;
  const last = data.ticks[data.ticks.length - 1]?.[0] ?? 1;
  const bands = [];
  const marks = [];
  const area = (x, low, high, i) => bands.push({
    type: "scatter", mode: "lines", x: [...x, ...x.toReversed()], y: [...high, ...low.toReversed()], fill: "toself",
    fillcolor: faded(colour(i), 0.14), line: { width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup: String(i),
  });
  data.lines.forEach((line, i) => {
    const at = line.moves ? line.points : [{ ...line.points[0], x: first }, { ...line.points[0], x: last }];
    const x = at.map((point) => point.x);
    const ranges = at.some((point) => point.high > point.low) && !data.laws.some((law) => law.line === i && law.low);
    if (ranges) area(x, at.map((p) => p.low), at.map((p) => p.high), i);
    marks.push({
      type: "scatter", mode: line.moves ? "lines+markers" : "lines", name: escaped(line.name), legendgroup: String(i),
      x, y: at.map((point) => point.mean), line: { color: colour(i), width: 2.4, dash: line.moves ? dash(i) : "solid" },
      marker: { size: 8 }, hoverinfo: "text",
      text: at.map((p) => `<b>${asText(p.mean)}</b> (${asText(p.low)} to ${asText(p.high)})<br>${escaped(line.name)}`
        + (line.moves ? `, ${escaped(data.x)}: ${escaped(p.label)}` : "")),
    });
    if (!line.moves) return;
    marks.push({
      type: "scatter", mode: "markers", showlegend: false, legendgroup: String(i), hoverinfo: "text",
      x: line.points.flatMap((p) => p.seeds.map(() => p.x)), y: line.points.flatMap((p) => p.seeds.map(([, y]) => y)),
      text: line.points.flatMap((p) => p.seeds.map(([seed, y]) => `${asText(y)} seed ${seed}`)),
      marker: { size: 4, color: faded(colour(i), 0.6) },
    });
  });
  for (const law of data.laws) {
    if (law.low) area(law.x, law.low, law.high, law.line);
    const end = law.x.length - 1;
    marks.push({
      type: "scatter", mode: "lines+markers", x: law.x, y: law.y, name: `${escaped(data.lines[law.line].name)}: power law`,
      legendgroup: String(law.line), line: { color: colour(law.line), width: 1.6, dash: "dash" }, hoverinfo: "text",
      marker: { size: law.x.map((_, i) => (i === end ? 8 : 0)), color: colours.ground, line: { color: colour(law.line), width: 2 } },
      text: law.y.map((y) => `<b>${asText(y)}</b> by the law`),
    });
  }
  const ends = data.laws.slice(0, 1).map((law) => law.x[law.x.length - 1]);
  const ticks = [...data.ticks, ...ends.map((x) => [x, Math.round(x).toLocaleString("en")])];
  plot("figure", [...bands, ...marks], layout(colours, {
    height: 480 + 18 * Math.ceil(marks.length / 4), showlegend: marks.length > 1,
    xaxis: axis(colours, {
      title: data.x, type: data.log ? "log" : "linear", tickvals: ticks.map(([x]) => x),
      ticktext: ticks.map(([, label]) => escaped(label)), showgrid: false,
    }),
    yaxis: shareAxis(colours, data.share, { title: data.metric }),
  }));
  marked();
}

followPage(draw, draw);
addEventListener("load", draw);
