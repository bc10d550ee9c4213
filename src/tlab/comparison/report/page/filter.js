// Filters tables and charts by words and levels.
let shown = new Set(data.settings.keys()); // places of the settings that pass the filter

function applyFilter() {
  const wanted = [...document.querySelectorAll("select[data-factor]")]
    .filter((list) => list.value !== "")
    .map((list) => [Number(list.dataset.factor), list.value]);
  const first = 1; // column of the first factor, in both tables
  const fits = (row) => wanted.every(([factor, level]) => row.cells[first + factor].textContent === level);
  const kept = ["settings", "runs"].flatMap((id) => filterRows(document.getElementById(id), fits));
  shown = new Set(kept.map((row) => Number(row.dataset.setting)).filter((place) => place < data.settings.length));
}

function listen(redraw) {
  let waiting;
  onFilter(() => {
    clearTimeout(waiting);
    applyFilter();
    waiting = setTimeout(redraw, 150);
  });
}
