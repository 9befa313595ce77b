// Takes every schema of the document into ajv, strictly: components, parameters, headers and bodies.
import { readFileSync } from "node:fs";
import Ajv2020 from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

const document = JSON.parse(readFileSync(process.argv[2], "utf8"));
const ajv = new Ajv2020({ strict: true, allowUnionTypes: true, allErrors: true });
addFormats(ajv);
ajv.addKeyword("discriminator"); // OpenAPI's
const within = (schema) => JSON.parse(JSON.stringify(schema).replaceAll("#/components/schemas/", "contract#/$defs/"));
ajv.addSchema({ $id: "contract", $defs: within(document.components.schemas) });

let taken = 0;
const take = (part, path) => {
  if (Array.isArray(part)) part.forEach((each, n) => take(each, `${path}/${n}`));
  else if (part && typeof part === "object") {
    if (part.schema && typeof part.schema === "object") compile(part.schema, `${path}/schema`);
    for (const [name, each] of Object.entries(part)) take(each, `${path}/${name}`);
  }
};
const compile = (schema, path) => {
  try {
    ajv.compile(within(schema));
  } catch (error) {
    console.error(`${path}: ${error.message}`);
    process.exitCode = 1;
  }
  taken += 1;
};
for (const name of Object.keys(document.components.schemas)) {
  compile({ $ref: `#/components/schemas/${name}` }, `#/components/schemas/${name}`);
}
take(document.paths, "#/paths");
take(document.components.headers, "#/components/headers");
take(document.components.responses, "#/components/responses");
console.log(`${taken} schemas`);
