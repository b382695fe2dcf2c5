-- Stores one frame if the head is what it was made for: cluster::journal::judge, in the place of the head.
-- KEYS: head, segments. ARGV: prefix of the segments' keys; epoch, number, number before, hash before, hash and
-- bytes of the frame; epoch, number and hash last acknowledged here (zeros and nothing: none); '1' to write even
-- when there is nothing to write; most frames and most bytes of a segment.
-- Numbers are 20 digits, so that texts compare as the numbers do: a Lua number holds 53 bits.
local ZERO = string.rep('0', 20)
local head = redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'lsn', 'hash', 'segment', 'frames', 'bytes')
local epoch, lsn, hash = head[1] or ZERO, head[3] or ZERO, head[4] or ''
if epoch < ARGV[8] or lsn < ARGV[9] or (lsn == ARGV[9] and ARGV[10] ~= '' and hash ~= ARGV[10]) then
    return { 'lost', epoch, lsn }
end
if not head[1] or ARGV[2] ~= epoch then
    return { 'fenced', epoch, lsn }
end
if ARGV[4] == lsn and ARGV[5] == hash and head[2] then
    local segment, frames, bytes = head[5], tonumber(head[6]), tonumber(head[7])
    if frames == 0 or frames >= tonumber(ARGV[12]) or bytes >= tonumber(ARGV[13]) then
        segment, frames, bytes = ARGV[3], 0, 0
    end
    local log = ARGV[1] .. segment
    if redis.call('LLEN', log) ~= frames then
        return { 'damaged', epoch, lsn }
    end
    if frames == 0 then
        redis.call('ZADD', KEYS[2], 0, segment)
    end
    redis.call('RPUSH', log, ARGV[7])
    redis.call('HSET', KEYS[1], 'lsn', ARGV[3], 'hash', ARGV[6], 'segment', segment,
        'frames', frames + 1, 'bytes', bytes + string.len(ARGV[7]))
    return { 'stored', epoch, ARGV[3] }
end
if ARGV[3] == lsn and ARGV[6] == hash then
    if ARGV[11] == '1' then
        -- WAIT and WAITAOF promise something only about what this connection wrote, and another one may have stored
        -- the frame: with a write of its own behind the frame it is covered whatever the server counts.
        redis.call('HSET', KEYS[1], 'lsn', lsn)
    end
    return { 'stored', epoch, lsn }
end
return { 'fenced', epoch, lsn }
