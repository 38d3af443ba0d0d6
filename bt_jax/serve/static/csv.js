// The table of all records, with the columns of `python -m bt_jax.predict --format=csv`.

export function table(records, classes) {
  const header = ["path", "prediction", "confidence", ...classes, "warnings", "error"];
  const rows = records.map((record) =>
    record.error === undefined
      ? [safe(record.path), record.prediction, record.confidence, ...classes.map((name) => record.probabilities[name]),
         record.warnings.join(" "), ""]
      : [safe(record.path), "", "", ...classes.map(() => ""), "", record.error]);
  return [header, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

// Escapes names that a spreadsheet would take for a formula.
function safe(name) {
  return /^[=+\-@\t\r]/.test(name) ? `'${name}` : name;
}

function cell(value) {
  const text = String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function download(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
