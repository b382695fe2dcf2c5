-- Makes an uploaded snapshot one of the shard's, if the epoch is still the head's and it is the newest.
-- KEYS: head, snapshots, the upload. ARGV: prefix of the snapshots' keys; epoch; number; pieces of the upload.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'lsn')
local newest = redis.call('ZREVRANGE', KEYS[2], 0, 0)[1]
if head[1] ~= ARGV[2] or not head[2] or head[3] < ARGV[3] or (newest and newest >= ARGV[3]) then
    redis.call('UNLINK', KEYS[3])
    return 'refused'
end
if redis.call('LLEN', KEYS[3]) ~= tonumber(ARGV[4]) then
    return 'incomplete'
end
redis.call('RENAME', KEYS[3], ARGV[1] .. ARGV[3])
redis.call('PERSIST', ARGV[1] .. ARGV[3])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
for _, old in ipairs(redis.call('ZREVRANGE', KEYS[2], 2, -1)) do
    redis.call('ZREM', KEYS[2], old)
    redis.call('UNLINK', ARGV[1] .. old)
end
return 'kept'
