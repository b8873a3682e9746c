{
  // Filters of the table of all episodes.
  const form = document.querySelector(".filters");
  const fields = form.elements;
  const rows = [...document.querySelectorAll("#table tbody tr")];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  function filter() {
    const env = fields.env ? fields.env.value : "";
    const outcome = fields.outcome.value;
    const text = fields.text.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden =
        (env && row.dataset.env !== env) ||
        (outcome && row.dataset.outcome !== outcome) ||
        !texts.get(row).includes(text);
      shown += !row.hidden;
    }
    const all = rows.length;
    form.querySelector("output").textContent =
      shown === all ? `${all} episodes` : `${shown} of ${all} episodes`;
  }

  function showAll() {
    form.reset();
    filter();
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector(".all").addEventListener("click", showAll);
  for (const button of document.querySelectorAll("button.kind")) {
    button.addEventListener("click", () => {
      form.reset();
      if (fields.env) fields.env.value = button.dataset.env;
      fields.outcome.value = "failure";
      fields.text.value = button.dataset.kind;
      filter();
      document.querySelector("#episodes").scrollIntoView();
    });
  }

  // One episode is selected at a time: on its map and in the table.
  const rowOf = new Map(rows.map((row) => [row.dataset.episode, row]));
  const marks = [...document.querySelectorAll(".mark")];
  const markOf = new Map(marks.map((mark) => [mark.dataset.episode, mark]));

  function describe(row) {
    const [seed, outcome, steps, distance, why] = [...row.cells].map((cell) => cell.textContent);
    const end = distance ? `, ${distance} cm away at the end` : "";
    return `Seed ${seed}: ${outcome}${why ? `, ${why}` : ""}; ${steps} steps${end}.`;
  }

  function show(mark, how) {
    const map = mark.closest(".map");
    for (const other of map.querySelectorAll(`.mark.${how}`)) other.classList.remove(how);
    mark.classList.add(how);
    mark.parentNode.append(mark); // over the others
    map.querySelector(".chosen").textContent = describe(rowOf.get(mark.dataset.episode));
  }

  function select(episode) {
    for (const other of document.querySelectorAll(".selected")) {
      other.classList.remove("selected");
      other.removeAttribute("aria-current");
    }
    const row = rowOf.get(episode);
    if (row.hidden) showAll();
    row.classList.add("selected");
    row.setAttribute("aria-current", "true");
    const box = row.closest(".scroll");
    box.scrollTop = row.offsetTop - box.clientHeight / 2;
    const mark = markOf.get(episode);
    if (mark) show(mark, "selected");
  }

  for (const button of document.querySelectorAll("button.seed")) {
    button.addEventListener("click", () => {
      select(button.dataset.episode);
      const mark = markOf.get(button.dataset.episode);
      if (mark && !button.closest("table")) mark.closest(".map").scrollIntoView({ block: "nearest" });
    });
  }

  for (const svg of document.querySelectorAll(".map svg")) {
    const inside = marks.filter((mark) => svg.contains(mark));

    // The mark that is nearest to a pointer, if any is as near as a finger is wide.
    function nearest(event) {
      const { a, d, e, f } = svg.getScreenCTM();
      let [best, least] = [null, 18];
      for (const mark of inside) {
        const x = a * mark.dataset.x + e - event.clientX;
        const y = d * mark.dataset.y + f - event.clientY;
        if (Math.hypot(x, y) < least) [best, least] = [mark, Math.hypot(x, y)];
      }
      return best;
    }

    svg.addEventListener("click", (event) => {
      const mark = nearest(event);
      if (mark) select(mark.dataset.episode);
    });
    svg.addEventListener("pointermove", (event) => {
      const mark = event.pointerType === "mouse" ? nearest(event) : null;
      if (mark && !mark.classList.contains("pointed")) show(mark, "pointed");
    });
    svg.addEventListener("pointerleave", () => {
      for (const mark of inside) mark.classList.remove("pointed");
      const selected = inside.find((mark) => mark.classList.contains("selected"));
      if (selected) show(selected, "selected");
    });
    svg.addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!way) return;
      event.preventDefault();
      const at = inside.findIndex((mark) => mark.classList.contains("selected"));
      const next = at < 0 ? 0 : (at + way + inside.length) % inside.length;
      select(inside[next].dataset.episode);
    });
  }
}
