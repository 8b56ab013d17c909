-- Sets an entry unless a newer version is there. An entry begins with the sum of its vector, 8 bytes, big endian.
-- KEYS: entry, lease. ARGV: entry, life in ms, how: 'put' (what was just committed), 'refresh' (what was committed a while ago) or else the lease of a
-- reader that fills.
local how = ARGV[3]
local old = redis.call('GETRANGE', KEYS[1], 0, 7)
if #old == 8 then
  if struct.unpack('>I8', old) > struct.unpack('>I8', ARGV[1]) then
    if redis.call('GET', KEYS[2]) == how then
      redis.call('DEL', KEYS[2]) -- nobody need wait for this load
    end
    return 0
  end
elseif how == 'refresh' then
  redis.call('DEL', KEYS[2]) -- what is being loaded may be older
  return 0 -- a newer entry may have stood here and be gone
elseif how ~= 'put' and redis.call('GET', KEYS[2]) ~= how then
  return 0 -- the same
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
return 1
