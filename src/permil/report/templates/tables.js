function addFilter(table) {
  var input = document.createElement("input"), rows = Array.from(table.tBodies[0].rows), count = document.createElement("span");
  input.type = "search";
  input.placeholder = "rows with all of these words";
  input.setAttribute("aria-label", input.placeholder);
  input.addEventListener("input", function () {
    var words = input.value.toLowerCase().split(/\s+/), shown = 0;
    rows.forEach(function (row) {
      var text = row.textContent.toLowerCase();
      row.hidden = !words.every(function (word) { return text.includes(word); });
      shown += !row.hidden;
    });
    count.textContent = shown < rows.length ? shown + " of " + rows.length : "";
  });
  var box = document.createElement("p");
  box.className = "filter";
  box.append(input, count);
  table.parentElement.before(box);
}
function keyOf(cell) { return cell.dataset.key === undefined ? cell.textContent : cell.dataset.key; }
document.querySelectorAll("table.sortable").forEach(function (table) {
  if (table.tBodies[0].rows.length > 12) { addFilter(table); }
  table.querySelectorAll("th").forEach(function (heading, column) {
    heading.addEventListener("click", function () {
      var descending = heading.getAttribute("aria-sort") === "ascending";
      var numeric = heading.classList.contains("number");
      var rows = Array.from(table.tBodies[0].rows);
      rows.sort(function (first, second) {
        var a = keyOf(first.cells[column]), b = keyOf(second.cells[column]);
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
