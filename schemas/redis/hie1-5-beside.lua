
-- ---- what stands beside the queue ----

-- KEYS dead, its index; ARGV cid, at, attempts, error, meta, body, for each. A letter of the same id and time is there already;
-- one of another time takes the older one's place.
local function bury(keys, args)
    check_keys(keys, 2)
    local dead, index = keys[1], keys[2]
    local count = count_of(args, 1, 6)
    local cids = {}
    for i = 1, count do
        check_id(args[i * 6 - 5])
        check_number(args[i * 6 - 4], 'at')
        check_number(args[i * 6 - 3], 'attempts')
        cids[i] = args[i * 6 - 5]
    end
    local known = call('HMGET', index, unpack(cids))
    local added, seen = 0, {}
    for i = 1, count do
        local cid, at, attempts, reason, meta, body = unpack(args, i * 6 - 5, i * 6)
        local old_id, old_at = match(known[i] or '', '^(%S+) (%S+)$')
        if old_at ~= at and not seen[cid] then
            if old_id then
                call('XDEL', dead, old_id)
            end
            local fields = {'cid', cid, 'at', at, 'attempts', attempts, 'error', reason}
            if meta ~= '' then
                fields[#fields + 1] = 'meta'
                fields[#fields + 1] = meta
            end
            if body ~= '' then
                fields[#fields + 1] = 'body'
                fields[#fields + 1] = body
            end
            call('HSET', index, cid, call('XADD', dead, '*', unpack(fields)) .. ' ' .. at)
            seen[cid] = true
            added = added + 1
        end
    end
    local excess = call('XLEN', dead) - DEAD_MAX
    if excess > 0 then
        for _, old in ipairs(call('XRANGE', dead, '-', '+', 'COUNT', excess)) do
            local cid = field_of(old[2], 'cid')
            call('XDEL', dead, old[1])
            if cid and match(call('HGET', index, cid) or '', '^%S+') == old[1] then
                call('HDEL', index, cid)
            end
        end
    end
    return added
end

-- KEYS dead, its index; ARGV cids. Takes their letters away.
local function unbury(keys, args)
    check_keys(keys, 2)
    count_of(args, 1, 1)
    for _, cid in ipairs(args) do
        check_id(cid)
    end
    local ids = {}
    for _, place in ipairs(call('HMGET', keys[2], unpack(args))) do
        ids[#ids + 1] = match(place or '', '^%d+%-%d+')
    end
    local removed = #ids > 0 and call('XDEL', keys[1], unpack(ids)) or 0
    call('HDEL', keys[2], unpack(args))
    return removed
end

-- ---- replies ----

-- Leaves a reply under its key, once. 1; 0 when it is there already.
local function leave_reply(key, ttl, body)
    if call('EXISTS', key) == 1 then
        return 0
    end
    call('RPUSH', key, body)
    call('PEXPIRE', key, ttl)
    return 1
end

-- KEYS reply keys; ARGV for each: ttl in ms (empty: it is left under no key), body, id of the dispatcher that waits (empty: nobody),
-- head of the publication, whether the body stands behind it (1 or empty). Returns how many keys it made.
local function replies(keys, args)
    local count = count_of(args, 1, 5)
    check_keys(keys, count)
    local channels = {}
    for i = 1, count do
        local ttl = args[i * 5 - 4]
        channels[i] = match(keys[i], '^(.-):{[^{}]+}:reply:')
        if not channels[i] then
            refuse('not a key <prefix>:{<item>}:reply:<cid>')
        elseif ttl ~= '' then
            check_number(ttl, 'ttl')
        end
    end
    local made = 0
    for i = 1, count do
        local ttl, body, to, head, whole = unpack(args, i * 5 - 4, i * 5)
        if ttl ~= '' and tonumber(ttl) > 0 then
            made = made + leave_reply(keys[i], ttl, body)
        end
        if to ~= '' then
            try('PUBLISH', channels[i] .. ':reply:' .. to, whole ~= '' and head .. body or head)
        end
    end
    return made
end

-- KEYS reply keys. Returns each one's reply, or nothing.
local function read_replies(keys)
    if #keys < 1 or #keys > BATCH_MAX then
        refuse('takes 1 to ' .. BATCH_MAX .. ' keys')
    end
    local found = {}
    for i, key in ipairs(keys) do
        local body = try('LINDEX', key, 0)
        found[i] = type(body) == 'string' and body
    end
    return found
end

-- ---- room at the door ----

-- KEYS slots, then stream and delayed of each partition; ARGV holder, limit, held, want, ttl in ms. Returns what of `want` is free, and the
-- depth of all partitions. `slots` holds "<count> <expires at>" for each holder.
local function slots(keys, args)
    if #keys < 3 or #keys % 2 == 0 or #args ~= 5 or args[1] == '' then
        refuse('takes slots, stream and delayed of each partition; holder, limit, held, want, ttl')
    end
    for i = 2, 5 do
        check_number(args[i], 'an argument behind the holder')
    end
    local key, holder = keys[1], args[1]
    local limit, held, want = tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
    local time = call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local depth, others, gone, latest = 0, 0, {}, now + tonumber(args[5])
    for i = 2, #keys, 2 do
        depth = depth + call('XLEN', keys[i]) + call('ZCARD', keys[i + 1])
    end
    local expires_at = latest
    local known = call('HGETALL', key)
    for i = 1, #known, 2 do
        local count, until_ = match(known[i + 1], '^(%d+) (%d+)$')
        if known[i] == holder then
            count = nil
        elseif not count or tonumber(until_) <= now then
            gone[#gone + 1] = known[i]
        else
            others = others + tonumber(count)
            latest = math.max(latest, tonumber(until_))
        end
    end
    local granted = math.max(min(want, limit - depth - others - held), 0)
    if held + granted > 0 then
        call('HSET', key, holder, ('%.0f %.0f'):format(held + granted, expires_at))
    else
        gone[#gone + 1] = holder
    end
    for i = 1, #gone, 1000 do
        call('HDEL', key, unpack(gone, i, min(i + 999, #gone)))
    end
    call('PEXPIREAT', key, ('%.0f'):format(latest))
    return {granted, depth}
end

-- ---- what is seen and what is tidied ----

-- KEYS stream delayed. Returns waiting, in hand, delayed, time of the oldest, when the first of the delayed is due.
local function depth(keys)
    check_keys(keys, 2)
    local length = call('XLEN', keys[1])
    local pending = try('XPENDING', keys[1], GROUP)
    local held = type(pending[1]) == 'number' and pending[1] or 0
    local oldest = 0
    if length > 0 then
        local first = call('XRANGE', keys[1], '-', '+', 'COUNT', 1)[1]
        local at = field_of(first[2], 'at') or ''
        oldest = tonumber(match(at, '^%d+$') and #at < 16 and at or match(first[1], '^%d+'))
        oldest = oldest < 1e15 and oldest or 0 -- no time of this age of the world
    end
    local next_due = call('ZRANGE', keys[2], 0, 0, 'WITHSCORES')[2]
    return {math.max(length - held, 0), held, call('ZCARD', keys[2]), oldest, tonumber(next_due or 0)}
end

-- KEYS stream index parked delayed; ARGV cids. Returns 1 for each that the queue lacks. An index field whose entry is gone (somebody
-- deleted it by hand) is dropped, so that it can be enqueued again.
local function missing(keys, args)
    check_keys(keys, 4)
    local stream, index, parked, delayed = unpack(keys)
    local _, _, pattern = queue_of(stream)
    count_of(args, 1, 1)
    local places = call('HMGET', index, unpack(args))
    local lacks, stale = {}, {}
    for i, place in ipairs(places) do
        local here = false
        if place == PARKED then
            local member = pattern .. ':' .. args[i]
            here = call('HEXISTS', parked, member) == 1 and call('ZSCORE', delayed, member) ~= false
        elseif place and find(place, ENTRY_ID) then
            here = entry_fields(stream, place) ~= nil
        end
        if place and not here then
            stale[#stale + 1] = args[i]
        end
        lacks[i] = here and 0 or 1
    end
    if #stale > 0 then
        call('HDEL', index, unpack(stale))
    end
    return lacks
end

-- Whether the entry at that place in the index is in a worker's hand; what was put down is in none.
local function is_held(stream, place)
    if not place or not find(place, ENTRY_ID) then
        return false
    end
    local pending = try('XPENDING', stream, GROUP, place, place, 1)
    return pending[1] ~= nil and pending[1][3] < PUT_DOWN
end

-- KEYS stream index; ARGV cids. Returns 1 for each whose entry is in a worker's hand.
local function held(keys, args)
    check_keys(keys, 2)
    count_of(args, 1, 1)
    local flags = {}
    for i, place in ipairs(call('HMGET', keys[2], unpack(args))) do
        flags[i] = is_held(keys[1], place) and 1 or 0
    end
    return flags
end

-- KEYS stream index delayed parked; ARGV cids. Takes these out of the queue, for another one. Returns for each 0 when it is in a worker's
-- hand, where it stays, else 1.
local function withdraw(keys, args)
    check_keys(keys, 4)
    local stream, index, delayed, parked = unpack(keys)
    local _, _, pattern = queue_of(stream)
    count_of(args, 1, 1)
    local flags, gone = {}, {}
    for i, place in ipairs(call('HMGET', index, unpack(args))) do
        local stays = is_held(stream, place)
        flags[i] = stays and 0 or 1
        if place and not stays then
            if find(place, ENTRY_ID) then
                gone[#gone + 1] = place
            end
            call('ZREM', delayed, pattern .. ':' .. args[i])
            call('HDEL', parked, pattern .. ':' .. args[i])
            call('HDEL', index, args[i])
        end
    end
    remove(stream, gone)
    return flags
end

-- KEYS worker; ARGV ttl in ms, then field, value, ….
local function heartbeat(keys, args)
    check_keys(keys, 1)
    check_number(args[1] or '', 'ttl')
    count_of(args, 2, 2)
    call('HSET', keys[1], unpack(args, 2))
    call('PEXPIRE', keys[1], args[1])
    return 1
end

-- KEYS stream idle; ARGV consumer. Returns 1 when the consumer is gone, 0 when it still has entries in hand.
local function leave(keys, args)
    check_keys(keys, 2)
    if #args ~= 1 then
        refuse('takes a consumer')
    end
    call('SREM', keys[2], args[1])
    local pending = try('XPENDING', keys[1], GROUP, '-', '+', 1, args[1])
    if pending.err or pending[1] then
        return pending.err and 1 or 0
    end
    call('XGROUP', 'DELCONSUMER', keys[1], GROUP, args[1])
    return 1
end

-- KEYS stream; ARGV idle time in ms. Forgets consumers that hold nothing and have not asked for so long: workers that died. One
-- that comes back is a consumer again with its next claim.
local function tidy(keys, args)
    check_keys(keys, 1)
    check_number(args[1] or '', 'idle')
    local least, gone = tonumber(args[1]), 0
    local consumers = try('XINFO', 'CONSUMERS', keys[1], GROUP)
    for _, consumer in ipairs(consumers.err and {} or consumers) do
        if field_of(consumer, 'pending') == 0 and field_of(consumer, 'idle') >= least then
            call('XGROUP', 'DELCONSUMER', keys[1], GROUP, (field_of(consumer, 'name')))
            gone = gone + 1
        end
    end
    return gone
end

local function register(name, callback, flags)
    local function run(keys, args)
        if not call then
            call, try, unpack = redis.call, redis.pcall, _G.unpack
            find, match, lower = string.find, string.match, string.lower
            char, min = string.char, math.min
        end
        return callback(keys, args)
    end
    redis.register_function{function_name = 'hie1_' .. name, callback = run, flags = flags}
end

register('revision', function() return REVISION end, {'no-writes', 'allow-stale'})
register('enqueue', enqueue, {})
register('claim', claim, {'allow-oom'})
register('recover', recover, {'allow-oom'})
register('put_down', put_down, {'allow-oom'})
register('inherit', inherit, {'allow-oom'})
register('pull', pull, {'allow-oom'})
register('count_deaths', count_deaths, {'allow-oom'})
register('finish', finish, {'allow-oom'})
register('retry', retry, {'allow-oom'})
register('hand_back', hand_back, {'allow-oom'})
register('renew', renew, {'allow-oom'})
register('promote', promote, {'allow-oom'})
register('bury', bury, {})
register('unbury', unbury, {'allow-oom'})
register('replies', replies, {'allow-oom'})
register('read_replies', read_replies, {'no-writes'})
register('slots', slots, {'allow-oom'})
register('depth', depth, {'no-writes'})
register('missing', missing, {'allow-oom'})
register('held', held, {'no-writes'})
register('withdraw', withdraw, {'allow-oom'})
register('heartbeat', heartbeat, {'allow-oom'})
register('leave', leave, {'allow-oom'})
register('tidy', tidy, {'allow-oom'})
