// Sorts a table by the column whose heading is pressed, and filters tables and charts by words and levels.
const data = JSON.parse(document.getElementById("data").textContent);

function sortBy(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const number = heading.classList.contains("number");
  const before = heading.getAttribute("aria-sort");
  const direction = before === "ascending" ? "descending" : "ascending";
  for (const other of heading.parentNode.cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const keyed = [...table.tBodies[0].rows].map((row, place) => {
    const text = row.cells[column].dataset.key;
    return { row, place, key: number ? parseFloat(text) : text, empty: text === "" };
  });
  keyed.sort((a, b) => {
    if (a.empty || b.empty) return a.empty - b.empty || a.place - b.place; // what has no value comes last
    const order = number ? a.key - b.key : a.key.localeCompare(b.key, undefined, { numeric: true });
    return sign * order || a.place - b.place;
  });
  table.tBodies[0].append(...keyed.map((item) => item.row));
}

let shown = new Set(data.settings.keys()); // places of the settings that pass the filter

function applyFilter() {
  const words = document.getElementById("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = [...document.querySelectorAll("select[data-factor]")]
    .filter((list) => list.value !== "")
    .map((list) => [Number(list.dataset.factor), list.value]);
  const kept = new Set();
  const first = 1; // column of the first factor, in both tables
  for (const id of ["settings", "runs"]) {
    const rows = [...document.getElementById(id).tBodies[0].rows];
    let visible = 0;
    for (const row of rows) {
      const fits = words.every((word) => row.dataset.words.includes(word))
        && wanted.every(([factor, level]) => row.cells[first + factor].textContent === level);
      row.hidden = !fits;
      visible += fits;
      if (fits) kept.add(Number(row.dataset.setting));
    }
    document.querySelector(`#${id} output`).textContent = `${visible} of ${rows.length} shown`;
  }
  shown = new Set([...kept].filter((place) => place < data.settings.length));
}

function listen(redraw) {
  for (const heading of document.querySelectorAll("th")) {
    heading.querySelector("button").addEventListener("click", () => sortBy(heading));
  }
  let waiting;
  const changed = () => {
    clearTimeout(waiting);
    applyFilter();
    waiting = setTimeout(redraw, 150);
  };
  document.getElementById("words").addEventListener("input", changed);
  for (const list of document.querySelectorAll("select[data-factor]")) list.addEventListener("change", changed);
  document.getElementById("reset").addEventListener("click", () => {
    document.getElementById("words").value = "";
    for (const list of document.querySelectorAll("select[data-factor]")) list.value = "";
    changed();
  });
}
