-- Sets an entry unless a newer version is there. An entry begins with the sum of its vector, 8 bytes, big endian.
-- KEYS: entry, lease. ARGV: entry, life in ms, lease of the reader that fills ('' for a writer that puts).
local old = redis.call('GETRANGE', KEYS[1], 0, 7)
if #old == 8 then
  if struct.unpack('>I8', old) > struct.unpack('>I8', ARGV[1]) then
    if ARGV[3] ~= '' and redis.call('GET', KEYS[2]) == ARGV[3] then
      redis.call('DEL', KEYS[2]) -- nobody need wait for this load
    end
    return 0
  end
elseif ARGV[3] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[3] then
  return 0 -- a newer entry may have stood here and be gone
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
return 1
