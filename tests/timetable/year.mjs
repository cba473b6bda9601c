// Prints, for each line of year.txt, the instants of its expression in a year of its zone, as croner computes them: seconds
// since 1970, one line of JSON for each. `NODE_PATH` or the working directory must lead to croner (`.ci/setup`).
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { Cron } = createRequire(import.meta.url)("croner");

for (const line of readFileSync(new URL("year.txt", import.meta.url), "utf8").split("\n").filter(Boolean)) {
  const [expression, zone, year] = line.split("\t");
  const cron = new Cron(expression, { timezone: zone });
  const end = Date.UTC(Number(year) + 1, 0, 1);
  const instants = [];
  // A whole second before the year, since croner looks for what is after.
  let instant = new Date(Date.UTC(Number(year), 0, 1) - 1000);
  while ((instant = cron.nextRun(instant)) && instant.getTime() < end) {
    instants.push(instant.getTime() / 1000);
  }
  console.log(JSON.stringify(instants));
}
