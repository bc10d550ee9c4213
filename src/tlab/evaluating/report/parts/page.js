// Shows the pictures, each of which is in the page once, and opens the cells of the confusion matrix.
const data = JSON.parse(document.getElementById("data").textContent);
const images = [...document.querySelectorAll("img[data-picture]")];

// From the top down, some at a time, so that the page answers meanwhile.
function showPictures(from = 0) {
  for (const image of images.slice(from, from + 20)) image.src = data.pictures[image.dataset.picture];
  if (from + 20 < images.length) setTimeout(showPictures, 0, from + 20);
}

function element(name, words = "") {
  const made = document.createElement(name);
  made.textContent = words;
  return made;
}

function openCell(button) {
  const cell = data.cells[button.dataset.cell];
  const panel = document.getElementById("opened");
  for (const other of document.querySelectorAll("button[data-cell]")) {
    other.setAttribute("aria-pressed", String(other === button));
  }
  const more = cell.images - cell.shown.length;
  const number = `${cell.images} image${cell.images === 1 ? "" : "s"}`;
  panel.querySelector("h3").textContent = `${cell.words}: ${number}${more ? `, ${more} of them not shown` : ""}`;
  panel.querySelector(".gallery").replaceChildren(...cell.shown.map((shown) => {
    const link = element("a");
    link.href = shown.link;
    if (shown.picture !== null) {
      const image = element("img");
      image.src = data.pictures[shown.picture];
      image.alt = shown.name;
      link.append(image);
    }
    link.append(element("span", shown.name), element("small", shown.caption));
    return link;
  }));
  panel.hidden = false;
  panel.scrollIntoView({ block: "nearest" });
}

document.addEventListener("click", ({ target }) => {
  if (target.matches("button[data-cell]")) openCell(target);
});
addEventListener("load", () => setTimeout(showPictures));
