-- Gives a shard up, if the epoch is still the head's. KEYS: head. ARGV: epoch.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'owner')
if head[1] ~= ARGV[1] or not head[2] then
    return 0
end
redis.call('HDEL', KEYS[1], 'owner')
return 1
