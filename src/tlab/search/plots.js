// The charts of a search in the page's colors, on a screen and on paper.
function dress() {
  const colours = theme();
  const family = getComputedStyle(document.body).fontFamily;
  const stops = [0, 0.25, 0.5, 0.75, 1].map((at) => [at, scale(at)]);
  for (const div of document.querySelectorAll(".js-plotly-plot")) {
    const look = { "font.color": colours.ink, "font.family": family, colorway: colours.series };
    for (const name of Object.keys(div.layout).filter((key) => /^[xy]axis/.test(key))) {
      Object.assign(look, {
        [`${name}.gridcolor`]: colours.line, [`${name}.linecolor`]: colours.line, [`${name}.zerolinecolor`]: colours.line,
        [`${name}.tickfont.color`]: colours.soft, [`${name}.title.font.color`]: colours.soft,
      });
    }
    div.data.forEach((trace, i) => {
      if (trace.marker?.colorscale) {
        Plotly.restyle(div, { "marker.colorscale": [stops], "marker.line.color": colours.ground }, [i]);
      } else if (trace.type === "bar") {
        Plotly.restyle(div, { "marker.color": colours.series[0] }, [i]);
      }
    });
    Plotly.relayout(div, look);
  }
  marked();
}

followPage(dress, dress);
addEventListener("load", dress);
