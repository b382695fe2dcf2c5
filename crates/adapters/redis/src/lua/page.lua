-- The head, and frames from one number on to the end of their segment: one consistent answer.
-- KEYS: head, segments. ARGV: prefix of the segments' keys; the number; most frames.
local ZERO = string.rep('0', 20)
local head = redis.call('HMGET', KEYS[1], 'epoch', 'lsn', 'hash')
local frames = {}
local found = redis.call('ZREVRANGEBYLEX', KEYS[2], '[' .. ARGV[2], '-', 'LIMIT', 0, 1)
if found[1] then
    local from = tonumber(ARGV[2]) - tonumber(found[1])
    -- A segment is far shorter; what is beyond it is not there.
    if from < 2 ^ 31 then
        frames = redis.call('LRANGE', ARGV[1] .. found[1], from, from + tonumber(ARGV[3]) - 1)
    end
end
return { head[1] or ZERO, head[2] or ZERO, head[3] or '', frames }
