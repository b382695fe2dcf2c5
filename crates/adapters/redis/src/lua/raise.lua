-- Takes a shard: raises the epoch, every time.
-- KEYS: head. ARGV: owner; hash of an empty log; epoch, number and hash last acknowledged here.
local ZERO = string.rep('0', 20)
local head = redis.call('HMGET', KEYS[1], 'epoch', 'lsn', 'hash')
local epoch, lsn, hash = head[1] or ZERO, head[2] or ZERO, head[3] or ARGV[2]
if epoch < ARGV[3] or lsn < ARGV[4] or (lsn == ARGV[4] and ARGV[5] ~= '' and hash ~= ARGV[5]) then
    return { 'lost', epoch, lsn, hash }
end
local raised = string.format('%020d', tonumber(epoch) + 1)
redis.call('HSET', KEYS[1], 'epoch', raised, 'owner', ARGV[1])
if not head[1] then
    redis.call('HSET', KEYS[1], 'lsn', lsn, 'hash', hash, 'segment', '', 'frames', 0, 'bytes', 0)
end
return { 'raised', raised, lsn, hash }
