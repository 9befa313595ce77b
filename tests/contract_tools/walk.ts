// A client of the types that openapi-typescript makes: a ticket goes through tier 1 and tier 2.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Answer = components["schemas"]["CommandAnswer"];

const [baseUrl, staffKey, checkerKey] = process.argv.slice(2);
const desk = (key: string | undefined) =>
  createClient<paths>({ baseUrl: baseUrl ?? "", headers: { Authorization: `Bearer ${key}` } });
const staff = desk(staffKey);
const checker = desk(checkerKey);

const on = (before: Answer) => ({
  path: { ticket_id: before.ticket_id },
  header: { "If-Match": `"${before.version}"` },
});

function done<T>(name: string, { data, error }: { data?: T; error?: { code: string; detail: string } }): T {
  if (data === undefined) throw new Error(`${name}: ${error?.code} ${error?.detail}`);
  return data;
}

await staff.PUT("/v1/clients/{user_id}", {
  params: { path: { user_id: "client-ts" } },
  body: { name: "Client", email: "client-ts@example.org" },
});
const issue = { summary: "No print", description: "None.", category: "printing", impact: "low", urgency: "high" } as const;
let at = done(
  "create",
  await staff.POST("/v1/tickets", { body: { client_user_id: "client-ts", channel: "web", text: "It does not print.", issue } }),
);
at = done(
  "escalate",
  await staff.POST("/v1/tickets/{ticket_id}:escalate", { params: on(at), body: { reason: "not here" } }),
);
at = done(
  "qualify",
  await staff.POST("/v1/tickets/{ticket_id}:qualify", { params: on(at), body: { can_resolve: true, rationale: "drum" } }),
);
at = done(
  "resolve",
  await staff.POST("/v1/tickets/{ticket_id}:resolve", { params: on(at), body: { resolution: "New drum." } }),
);
at = done(
  "verify",
  await checker.POST("/v1/tickets/{ticket_id}:verify", {
    params: on(at),
    body: { satisfied: true, confirmed_via: "phone", comment: "It prints." },
  }),
);
at = done(
  "document",
  await staff.POST("/v1/tickets/{ticket_id}:document_resolution", {
    params: on(at),
    body: { cause: "drum", actions: "changed", checked_by_method: "test page" },
  }),
);
at = done("close", await staff.POST("/v1/tickets/{ticket_id}:close", { params: on(at) }));
const history = done(
  "history",
  await staff.GET("/v1/tickets/{ticket_id}/history", { params: { path: { ticket_id: at.ticket_id } } }),
);
for (const event of history.items) {
  // The type of `data` follows from the type of the event.
  if (event.type === "Ticket.Escalated" && event.data?.to_level !== "tier2") throw new Error("escalated elsewhere");
}
console.log(at.state, history.items.length >= at.version);
