// A list box that draws only the rows in sight, however many there are.

const ROW_HEIGHT = 60;
const BEYOND = 6;

class RowList {
  // `draw(item)` returns the nodes of one row; `pick(item)` is told of each new choice.
  constructor(box, draw, pick) {
    this.box = box;
    this.draw = draw;
    this.pick = pick;
    this.items = [];
    this.chosen = -1;
    this.sheet = element("div", { role: "presentation", class: "sheet" });
    box.append(this.sheet);
    box.addEventListener("scroll", () => this.render(), { passive: true });
    box.addEventListener("keydown", (event) => this.key(event));
    this.sheet.addEventListener("click", (event) => {
      const row = event.target.closest("[role=option]");
      if (row) this.choose(Number(row.dataset.place));
    });
    new ResizeObserver(() => this.render()).observe(box);
  }

  fill(items, chosen) {
    this.items = items;
    this.chosen = chosen;
    this.sheet.style.height = `${items.length * ROW_HEIGHT}px`;
    this.box.hidden = items.length === 0;
    this.reveal();
    this.render();
  }

  choose(place) {
    if (place < 0 || place >= this.items.length) return;
    this.chosen = place;
    this.reveal();
    this.render();
    this.pick(this.items[place]);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW_HEIGHT) - 1);
    const last = this.items.length - 1;
    const moves = {
      ArrowDown: this.chosen + 1,
      ArrowUp: this.chosen - 1,
      PageDown: this.chosen + page,
      PageUp: this.chosen - page,
      Home: 0,
      End: last,
    };
    if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.choose(Math.min(Math.max(moves[event.key], 0), last));
  }

  reveal() {
    const top = Math.max(this.chosen, 0) * ROW_HEIGHT;
    const { scrollTop, clientHeight } = this.box;
    if (top < scrollTop) this.box.scrollTop = top;
    else if (top + ROW_HEIGHT > scrollTop + clientHeight)
      this.box.scrollTop = top + ROW_HEIGHT - clientHeight;
  }

  render() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW_HEIGHT) - BEYOND);
    const shown = Math.ceil(this.box.clientHeight / ROW_HEIGHT) + 2 * BEYOND;
    const rows = this.items.slice(first, first + shown).map((item, n) => {
      const place = first + n;
      const row = element(
        "div",
        {
          role: "option",
          id: `row-${place}`,
          "aria-selected": String(place === this.chosen),
          "aria-setsize": String(this.items.length),
          "aria-posinset": String(place + 1),
          "data-place": String(place),
        },
        ...this.draw(item),
      );
      row.style.transform = `translateY(${place * ROW_HEIGHT}px)`;
      return row;
    });
    this.sheet.replaceChildren(...rows);
    const active = `row-${this.chosen}`;
    if (rows.some((row) => row.id === active)) this.box.setAttribute("aria-activedescendant", active);
    else this.box.removeAttribute("aria-activedescendant");
  }
}
