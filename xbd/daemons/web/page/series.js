// A moment of a series (CSV), read: what the server keeps of the past, and what files hold, is written alike.

const TEXTS = new Set(["run", "kind", "name", "state"]);

// Splits a line of CSV into its cells.
function cellsOf(line) {
  if (!line.includes('"')) return line.split(",");
  const cells = [];
  let cell = "";
  let isQuoted = false;
  for (let i = 0; i < line.length; i += 1) {
    const letter = line[i];
    if (letter === '"') {
      if (isQuoted && line[i + 1] === '"') {
        cell += letter;
        i += 1;
      } else isQuoted = !isQuoted;
    } else if (letter === "," && !isQuoted) {
      cells.push(cell);
      cell = "";
    } else cell += letter;
  }
  return [...cells, cell];
}

// Reads a moment: the host's row, and those of its domains by name and number.
export function readMoment(text) {
  const [header, ...lines] = text.split("\n").filter((line) => line);
  const names = header.split(",");
  const rows = lines.map((line) => {
    const row = {};
    cellsOf(line).forEach((cell, i) => {
      row[names[i]] = TEXTS.has(names[i]) ? cell : cell === "" ? null : Number(cell);
    });
    return row;
  });
  return {
    host: rows.find((row) => row.kind === "host") ?? {},
    domains: new Map(rows.filter((row) => row.kind === "domain").map((row) => [`${row.domid} ${row.name}`, row])),
  };
}
