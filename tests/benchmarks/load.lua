-- What wrk sends. wrk -s load.lua URL -- KIND KEY IDS MARK
-- KIND is a name of `kinds`; KEY an API key, or "-"; IDS a file with one id a line; MARK makes this run's keys its own.
local note = '{"text": "The printer was looked at; the toner is low and a new one is on its way to the third floor."}'
local ticket = '{"client_user_id": "client-1", "channel": "email", "text": "My printer does not print.", "issue": '
  .. '{"summary": "printer is silent", "description": "It does not print since this morning.", '
  .. '"category": "printing", "impact": "medium", "urgency": "high"}}'

local ids, headers, count, mark = {}, {}, 0, ""
local function next_id()
  return ids[count % #ids + 1]
end
local function post(path, body, unkeyed)
  if unkeyed then return wrk.format("POST", path, headers, body) end
  headers["Idempotency-Key"] = mark .. count
  return wrk.format("POST", path, headers, body)
end

local kinds = {
  command = function() return post("/v1/tickets/" .. next_id() .. ":add_note", note) end,
  command_once = function() return post("/v1/tickets/" .. next_id() .. ":add_note", note, true) end,
  create = function() return post("/v1/tickets", ticket) end,
  read = function() return wrk.format("GET", "/v1/tickets/" .. next_id(), headers) end,
  queue = function() return wrk.format("GET", "/v1/queues/tier1?limit=50", headers) end,
  counts = function() return wrk.format("GET", "/v1/queues", headers) end,
  bare_insert = function() return wrk.format("POST", "/documents", headers, note) end,
  bare_select = function() return wrk.format("GET", "/documents/" .. next_id(), headers) end,
}

local make
function init(args)
  make, mark = kinds[args[1]], args[4]
  if args[2] ~= "-" then headers["Authorization"] = "Bearer " .. args[2] end
  if args[1] == "command" or args[1] == "command_once" or args[1] == "create" or args[1] == "bare_insert" then
    headers["Content-Type"] = "application/json"
  end
  for line in io.lines(args[3]) do ids[#ids + 1] = line end
  count = tonumber(args[5]) -- every run begins somewhere else in the list
end

function request()
  count = count + 1
  return make()
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "microseconds": %d, "p50": %f, "p95": %f, "p99": %f, "failed": %d, "refused": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(95), latency:percentile(99),
    e.connect + e.read + e.write + e.timeout, e.status))
end
