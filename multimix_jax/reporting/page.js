"use strict";
(() => {
  // A closed table would be missing on paper.
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });

  const list = document.getElementById("cards");
  if (!list) return;
  const [set, sort, count, lightbox, enlarged] = ["set", "sort", "count", "lightbox", "enlarged"]
    .map((id) => document.getElementById(id));
  const cards = [...list.children];
  let shown = cards;
  let open = null;

  const arrange = () => {
    const [key, direction] = sort.value.split(" ");
    const value = (card) => (key in card.dataset ? Number(card.dataset[key]) : null);
    const sign = direction === "down" ? -1 : 1;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null); // what has none comes last
      return sign * (x - y);
    };
    const ordered = key ? [...cards].sort(compare) : cards;
    for (const card of ordered) card.hidden = set.value !== "" && card.dataset.set !== set.value;
    list.replaceChildren(...ordered);
    shown = ordered.filter((card) => !card.hidden);
    count.textContent = `${shown.length} of ${cards.length} pictures`;
  };

  const enlarge = (card) => {
    open = card;
    const copy = [...card.children].map((child) => child.cloneNode(true));
    const title = document.createElement("h3");
    title.textContent = copy[0].textContent;
    enlarged.replaceChildren(title, ...copy.slice(1));
    if (!lightbox.open) lightbox.showModal();
  };
  const go = (step) => {
    const next = shown[shown.indexOf(open) + step];
    if (next) enlarge(next);
  };

  list.addEventListener("click", (event) => {
    const card = event.target.closest("li");
    if (card && event.target.closest("button, .panels")) enlarge(card);
  });
  lightbox.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === lightbox || (button && button.dataset.go === "")) lightbox.close();
    else if (button) go(Number(button.dataset.go));
  });
  lightbox.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) go(step);
  });
  lightbox.addEventListener("close", () => open.querySelector("button").focus());
  set.addEventListener("change", arrange);
  sort.addEventListener("change", arrange);
  sort.closest(".controls").hidden = false;
  arrange();
})();
