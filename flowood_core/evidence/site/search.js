const field = document.getElementById("search"), found = document.getElementById("found");
field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\s+/).filter(w => w.length > 1);
  found.replaceChildren();
  if (!words.length) return;
  for (const p of PAGES) {
    const at = p.text.toLowerCase().indexOf(words[0]);
    if (!words.every(w => p.text.toLowerCase().includes(w))) continue;
    const [item, link, more] = ["li", "a", "small"].map(name => document.createElement(name));
    link.href = p.file; link.textContent = p.title;
    more.textContent = "… " + p.text.slice(Math.max(0, at - 40), at + 80) + " …";
    item.append(link, more); found.append(item);
  }
  if (!found.children.length) found.textContent = "nothing found";
});
// on a phone the page itself comes first, the list of pages when asked for
if (matchMedia("(max-width: 76rem)").matches) document.querySelector("#contents details").open = false;
