-- Takes one unit for each key, or none at all; or gives one back for each. The rule is in rule.go, which does the same in a process without Redis.
-- KEYS: one for each unit; under it stands the instant at which its bucket is full, in µs. ARGV: 'take' or 'return', and for each key in µs the time of one unit
-- and that of a whole bucket. Answers the number of the unit that has to wait longest, 0 for none, and for how long, in µs.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local set, refused, longest = {}, 0, 0
for i, key in ipairs(KEYS) do
  local every, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local full = set[key] or tonumber(redis.call('GET', key) or now)
  full = math.min(math.max(full, now), now + burst)
  if ARGV[1] == 'return' then
    set[key] = math.max(now, full - every)
  else
    set[key] = full + every
    local wait = full + every - now - burst
    if wait > longest then
      refused, longest = i, wait
    end
  end
end
if refused == 0 then
  for key, full in pairs(set) do
    if full > now then
      redis.call('SET', key, string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
    else
      redis.call('DEL', key)
    end
  end
end
return {refused, longest}
