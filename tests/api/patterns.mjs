// Prints each pattern of standard input, a JSON array, that a flag of JavaScript's regular expressions refuses.
import { readFileSync } from "node:fs";

for (const pattern of JSON.parse(readFileSync(0, "utf8")))
  for (const flag of ["", "u", "v"])
    try {
      new RegExp(pattern, flag);
    } catch (error) {
      console.log(flag, error.message);
    }
