// The results as the CSV of `selfprompt predict --format csv --csv-guard`.

const COLUMNS = ["image", "rank", "label", "score"];
// First characters of cells that a spreadsheet may evaluate as a formula, as in utils/csv_text.py.
const FORMULA_STARTS = ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"];

/** Return the rows of one image: [image, rank, label, score], all text; none if it has an error. */
export function rowsOf(name, answer) {
  if (answer.error) return [];
  if (answer.unknown) return [[name, "", "unknown", ""]];
  return answer.top.map(([label, score], index) => [name, String(index + 1), label, score.toFixed(6)]);
}

/** Return rows as CSV text with a header; names that look like formulas get an apostrophe. */
export function csvText(rows) {
  return [COLUMNS, ...rows].map((row) => row.map(cell).join(",") + "\n").join("");
}

function cell(text) {
  const guarded = FORMULA_STARTS.some((start) => text.startsWith(start)) ? `'${text}` : text;
  return /[",\r\n]/.test(guarded) ? `"${guarded.replaceAll('"', '""')}"` : guarded;
}
