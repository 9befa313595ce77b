// An EventSource as browsers have it: what reaches `onmessage`, until the positions are past the last one.
import { EventSource } from "eventsource";

const [address, key, last] = process.argv.slice(2);
const source = new EventSource(address, {
  fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${key}` } }),
});
const seen = [];
source.onmessage = (message) => {
  seen.push(`${message.lastEventId}:${JSON.parse(message.data).type}`);
  if (Number(message.lastEventId) >= Number(last)) end();
};
const end = () => {
  source.close();
  console.log(seen.join("\n"));
};
