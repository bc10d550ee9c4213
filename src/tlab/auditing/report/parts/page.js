// Shows the pictures, each of which is in the page once; filters the findings; copies paths.
const pictures = JSON.parse(document.getElementById("pictures").textContent);
const images = [...document.querySelectorAll("img[data-picture]")];
const tables = [...document.querySelectorAll(".findings table")];

for (const table of tables) { // in a gallery each row is a card, with the heading before each cell
  const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent);
  for (const row of table.tBodies[0].rows) heads.forEach((head, i) => { row.cells[i].dataset.head = head; });
}

// From the top down, some at a time, so that the page answers meanwhile.
function showPictures(from = 0) {
  for (const image of images.slice(from, from + 20)) image.src = pictures[image.dataset.picture];
  if (from + 20 < images.length) setTimeout(showPictures, 0, from + 20);
}

function applyFilter() {
  const kind = document.getElementById("kind").value;
  const wanted = [...document.querySelectorAll("select[data-name]")].filter((list) => list.value !== "");
  const fits = (row) => wanted.every((list) => row.dataset[list.dataset.name].includes(`/${list.value}/`));
  for (const table of tables) {
    const section = table.closest("section");
    const kept = filterRows(table, fits);
    const all = table.tBodies[0].rows.length;
    section.querySelector("h2 small").textContent = kept.length < all ? `${kept.length} of ${all}` : String(all);
    section.hidden = !kept.length || !["", section.id].includes(kind);
  }
}

document.addEventListener("click", async ({ target }) => {
  if (!target.matches("button.copy")) return;
  await navigator.clipboard.writeText(target.dataset.path);
  target.textContent = "copied";
  setTimeout(() => { target.textContent = "copy"; }, 1500);
});
onFilter(applyFilter);
applyFilter();
addEventListener("load", () => setTimeout(showPictures));
