document.querySelectorAll("table.sortable").forEach(function (table) {
  table.querySelectorAll("th").forEach(function (heading, column) {
    heading.addEventListener("click", function () {
      var descending = heading.getAttribute("aria-sort") === "ascending";
      var numeric = heading.classList.contains("number");
      var rows = Array.from(table.tBodies[0].rows);
      rows.sort(function (first, second) {
        var a = first.cells[column].dataset.key, b = second.cells[column].dataset.key;
        if (numeric) {
          if (a === "" || b === "") { return (a === "") - (b === ""); }
          return descending ? b - a : a - b;
        }
        return descending ? b.localeCompare(a) : a.localeCompare(b);
      });
      table.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      rows.forEach(function (row) { table.tBodies[0].append(row); });
    });
  });
});
