#!lua name=hie1
--[[
Redis Functions of the queues, version 1 of their interface. What keys hold, arguments, results and examples: redis.md in the
folder above.

Rules that hold for all of them:
- Arguments are checked before the first write: what fails afterwards is a key of the wrong type, and that shows at the first
  command as well.
- A repeat is harmless: every function asks first whether its work is done already.
- All keys are in KEYS and share one hash tag. At most 256 entries a call.
- Few commands a call: look-ups and index writes go over the whole batch, only XADD goes entry by entry.
- Functions that free memory, or move what is there, may run when maxmemory is reached (allow-oom).

REVISION rises with every change of this text that keeps the interface. A program loads its own text where the server has none
or an older one. An incompatible change gets the name hie2 and lives beside this one.
]]
local REVISION = 4
local GROUP = 'workers'
local BATCH_MAX = 256
local DEAD_MAX = 1000
local BODY_MAX = 65536 -- larger ones stand in PostgreSQL alone
local PARKED = 'delayed' -- in the index in place of an entry id
local PATTERNS = {async_reliable = true, sync_reliable = true, concurrent_async = true, concurrent_sync = true}

-- Lua's globals are there for running functions only, not while the library loads: see register.
local call, try, unpack, find, match, lower
local UUID = '^' .. ('%x'):rep(8) .. '%-' .. (('%x'):rep(4) .. '%-'):rep(3) .. ('%x'):rep(12) .. '$'
local ENTRY_ID = '^%d+%-%d+$'

-- ---- arguments ----

local function refuse(why)
    error({err = 'ERR ' .. why}, 0)
end

-- How many groups of `width` arguments there are from `first` on.
local function count_of(args, first, width)
    local count = (#args - first + 1) / width
    if count < 1 or count > BATCH_MAX or count % 1 ~= 0 then
        refuse('takes 1 to ' .. BATCH_MAX .. ' entries of ' .. width .. ' arguments each')
    end
    return count
end

local function check_number(text, what)
    if #text > 15 or not find(text, '^%d+$') then
        refuse(what .. ' is not a number')
    end
end

local function check_id(cid)
    if not find(cid, UUID) or lower(cid) ~= cid then
        refuse('cid is not a lower-case UUID')
    end
end

local function check_entry_id(id)
    if not find(id, ENTRY_ID) then
        refuse('not an entry id')
    end
end

local function check_keys(keys, count)
    if #keys ~= count then
        refuse('takes ' .. count .. ' keys')
    end
end

-- "hie:{ADT_Archive/3}:async_reliable" is prefix "hie", tag "ADT_Archive/3", and its base is all before the pattern.
local function queue_of(stream)
    local prefix, tag, pattern = match(stream, '^(.-):{([^{}]+)}:([a-z_]+)$')
    if not PATTERNS[pattern] then
        refuse('not a stream <prefix>:{<item>}:<pattern>')
    end
    return prefix, tag, pattern
end

-- Producers write the keys themselves: a misspelt one would part an entry from its queue.
local function check_family(keys)
    local prefix, tag, pattern = queue_of(keys[1])
    local base = prefix .. ':{' .. tag .. '}:'
    if keys[2] ~= keys[1] .. ':index' or keys[3] ~= base .. 'delayed' or keys[4] ~= base .. 'parked' or
        keys[5] ~= base .. 'idle' then
        refuse('the keys are not stream, stream:index, delayed, parked, idle of one item')
    end
    return pattern
end

-- ---- waking ----

-- Tells up to `count` idle workers that entries wait: "<pattern> <partition> <item>". Whoever does not listen any more is
-- dropped. It only saves waiting: an error here undoes nothing.
local function wake(stream, idle, count)
    local channel, text
    for _ = 1, 1000 do
        if count < 1 then
            return
        end
        local worker = try('SPOP', idle)
        if type(worker) ~= 'string' then
            return
        end
        if not text then
            local prefix, tag, pattern = queue_of(stream)
            local item, partition = match(tag, '^(.+)/(%d+)$')
            channel = prefix .. ':wake:'
            text = pattern .. ' ' .. (partition or '0') .. ' ' .. (item or tag)
        end
        local heard = try('PUBLISH', channel .. worker, text)
        if type(heard) == 'number' and heard > 0 then
            count = count - 1
        end
    end
end

-- ---- entries ----

-- The value of a field in XRANGE's flat list, and its place.
local function field_of(fields, name)
    for i = 1, #fields, 2 do
        if fields[i] == name then
            return fields[i + 1], i + 1
        end
    end
end

-- What moves of an entry: the fields that mean something, so that whatever else a person wrote stays behind. It keeps the id and
-- the time that it was given, also when a person had left them out.
local KEPT = {'pri', 'key', 'meta', 'body'}
local function complete(fields, cid, entry_id)
    local kept = {'cid', cid, 'at', field_of(fields, 'at') or match(entry_id, '^%d+')}
    for _, name in ipairs(KEPT) do
        local value = field_of(fields, name)
        if value then
            kept[#kept + 1] = name
            kept[#kept + 1] = value
        end
    end
    return kept
end

local function entry_fields(stream, entry_id)
    local found = call('XRANGE', stream, entry_id, entry_id)[1]
    return found and found[2]
end

local function entry_from(cid, at, pri, key, meta, body)
    local fields = {'cid', cid, 'at', at}
    local optional = {'pri', pri, 'key', key, 'meta', meta, 'body', body}
    for i = 1, 8, 2 do
        if optional[i + 1] ~= '' then
            fields[#fields + 1] = optional[i]
            fields[#fields + 1] = optional[i + 1]
        end
    end
    return fields
end

local function remove(stream, entry_ids)
    if #entry_ids > 0 then
        call('XACK', stream, GROUP, unpack(entry_ids))
        call('XDEL', stream, unpack(entry_ids))
    end
end

local function set_index(index, pairs_)
    if #pairs_ > 0 then
        call('HSET', index, unpack(pairs_))
    end
end

-- ---- enqueue ----

local function check_entry(args, i)
    check_id(args[i])
    check_number(args[i + 1], 'at')
    if args[i + 2] ~= '' then
        check_number(args[i + 2], 'due')
    end
    if args[i + 3] ~= '' and not find(args[i + 3], '^%d$') then
        refuse('pri is not 0 to 9')
    end
    if args[i + 5] == '' and args[i + 6] == '' then
        refuse('an entry has neither meta nor body')
    end
    if #args[i + 6] > BODY_MAX then
        refuse('body is larger than ' .. BODY_MAX .. ' bytes: such messages go through the dispatcher')
    end
end

-- KEYS stream index delayed parked idle; ARGV cid at due pri key meta body, for each entry.
local function enqueue(keys, args)
    check_keys(keys, 5)
    local pattern = check_family(keys)
    local stream, index, delayed, parked, idle = unpack(keys)
    local count = count_of(args, 1, 7)
    local cids = {}
    for i = 1, count do
        check_entry(args, i * 7 - 6)
        cids[i] = args[i * 7 - 6]
    end
    local known = call('HMGET', index, unpack(cids))
    local added, waiting, indexed, seen = 0, 0, {}, {}
    for i = 1, count do
        local cid = cids[i]
        if not known[i] and not seen[cid] then
            local at, due, pri, key, meta, body = unpack(args, i * 7 - 5, i * 7)
            local place = PARKED
            if due ~= '' then
                local member = pattern .. ':' .. cid
                call('ZADD', delayed, due, member)
                call('HSET', parked, member, cmsgpack.pack(entry_from(cid, at, pri, key, meta, body)))
            elseif pri == '' and key == '' and meta ~= '' and body ~= '' then
                place = call('XADD', stream, '*', 'cid', cid, 'at', at, 'meta', meta, 'body', body)
                waiting = waiting + 1
            else
                place = call('XADD', stream, '*', unpack(entry_from(cid, at, pri, key, meta, body)))
                waiting = waiting + 1
            end
            seen[cid] = true
            added = added + 1
            indexed[added * 2 - 1] = cid
            indexed[added * 2] = place
        end
    end
    set_index(index, indexed)
    wake(stream, idle, waiting)
    return {call('XLEN', stream) + call('ZCARD', delayed), added}
end

-- ---- what happens to entries in hand ----

-- KEYS stream index; ARGV all entry ids, then their cids in the same order.
local function finish(keys, args)
    check_keys(keys, 2)
    local count = count_of(args, 1, 2)
    call('XACK', keys[1], GROUP, unpack(args, 1, count))
    local removed = call('XDEL', keys[1], unpack(args, 1, count))
    call('HDEL', keys[2], unpack(args, count + 1, 2 * count))
    return removed
end

-- KEYS stream index delayed parked; ARGV entry id, cid, due, for each entry.
local function retry(keys, args)
    check_keys(keys, 4)
    local stream, index, delayed, parked = unpack(keys)
    local _, _, pattern = queue_of(stream)
    local count = count_of(args, 1, 3)
    for i = 1, 3 * count, 3 do
        check_entry_id(args[i])
        check_id(args[i + 1])
        check_number(args[i + 2], 'due')
    end
    local gone, indexed = {}, {}
    for i = 1, 3 * count, 3 do
        local entry_id, cid, due = args[i], args[i + 1], args[i + 2]
        local fields = entry_fields(stream, entry_id)
        if fields then
            local member = pattern .. ':' .. cid
            call('ZADD', delayed, due, member)
            call('HSET', parked, member, cmsgpack.pack(complete(fields, cid, entry_id)))
            gone[#gone + 1] = entry_id
            indexed[#indexed + 1] = cid
            indexed[#indexed + 1] = PARKED
        end
    end
    remove(stream, gone)
    set_index(index, indexed)
    return #gone
end

-- Those of the entry ids from args[first] on, every `step` arguments, that are in `consumer`'s hand.
local function in_hand(stream, consumer, args, first, step)
    local held = {}
    for i = first, #args, step do
        local pending = try('XPENDING', stream, GROUP, args[i], args[i], 1, consumer)
        if pending.err and not find(pending.err, '^NOGROUP') then
            error(pending, 0)
        end
        if pending[1] then
            held[#held + 1] = i
        end
    end
    return held
end

-- KEYS stream index idle; ARGV consumer, then entry id, cid, for each entry. A copy takes the place of each entry, at the
-- end of the stream, so that an ordinary claim finds it.
local function hand_back(keys, args)
    check_keys(keys, 3)
    local stream, index, idle = unpack(keys)
    count_of(args, 2, 2)
    for i = 2, #args, 2 do
        check_entry_id(args[i])
        check_id(args[i + 1])
    end
    local gone, indexed, added = {}, {}, 0
    for _, i in ipairs(in_hand(stream, args[1], args, 2, 2)) do
        local entry_id, cid = args[i], args[i + 1]
        local fields = entry_fields(stream, entry_id)
        if fields then
            local place = call('XADD', stream, '*', unpack(complete(fields, cid, entry_id)))
            added = added + 1
            indexed[#indexed + 1] = cid
            indexed[#indexed + 1] = place
        end
        gone[#gone + 1] = entry_id
    end
    remove(stream, gone)
    set_index(index, indexed)
    wake(stream, idle, added)
    return added
end

-- KEYS stream; ARGV consumer, entry ids. What has passed into another hand stays there.
local function renew(keys, args)
    check_keys(keys, 1)
    count_of(args, 2, 1)
    for i = 2, #args do
        check_entry_id(args[i])
    end
    local ids = {}
    for _, i in ipairs(in_hand(keys[1], args[1], args, 2, 1)) do
        ids[#ids + 1] = args[i]
    end
    if #ids > 0 then
        ids[#ids + 1] = 'JUSTID'
        call('XCLAIM', keys[1], GROUP, args[1], 0, unpack(ids))
        return #ids - 1
    end
    return 0
end

-- ---- delayed entries ----

-- KEYS delayed parked idle, then stream and index of each of the four patterns; ARGV now, most entries to move.
-- Members of all patterns share the zset, so one call serves them all: none can stand in another's way.
local function promote(keys, args)
    check_keys(keys, 11)
    check_number(args[1] or '', 'now')
    check_number(args[2] or '', 'max')
    local delayed, parked, idle = unpack(keys, 1, 3)
    local streams, indexes, moved_to = {}, {}, {}
    for i = 4, 11, 2 do
        local _, _, pattern = queue_of(keys[i])
        streams[pattern], indexes[pattern] = keys[i], keys[i + 1]
        moved_to[pattern] = {}
    end
    local most = math.min(tonumber(args[2]), BATCH_MAX)
    local due = call('ZRANGE', delayed, '-inf', args[1], 'BYSCORE', 'LIMIT', 0, most)
    local moved = 0
    if #due > 0 then
        local packed = call('HMGET', parked, unpack(due))
        for i, member in ipairs(due) do
            local pattern, cid = match(member, '^([a-z_]+):(.+)$')
            if packed[i] and streams[pattern] then
                local indexed = moved_to[pattern]
                indexed[#indexed + 1] = cid
                indexed[#indexed + 1] =
                    call('XADD', streams[pattern], '*', unpack(cmsgpack.unpack(packed[i])))
                moved = moved + 1
            elseif streams[pattern] then
                call('HDEL', indexes[pattern], cid) -- its fields are gone: missing, no longer delayed
            end
        end
        call('ZREM', delayed, unpack(due))
        call('HDEL', parked, unpack(due))
    end
    for pattern, indexed in pairs(moved_to) do
        set_index(indexes[pattern], indexed)
        wake(streams[pattern], idle, #indexed / 2)
    end
    local next_due = call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
    return {moved, next_due and tonumber(next_due) or -1}
end

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

-- KEYS reply; ARGV ttl in ms, body.
local function reply(keys, args)
    check_keys(keys, 1)
    check_number(args[1] or '', 'ttl')
    if #args ~= 2 or tonumber(args[1]) < 1 then
        refuse('takes a ttl above 0 and a body')
    end
    if call('EXISTS', keys[1]) == 1 then
        return 0
    end
    call('RPUSH', keys[1], args[2])
    call('PEXPIRE', keys[1], args[1])
    return 1
end

-- KEYS stream delayed. Returns waiting, in hand, delayed, time of the oldest.
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
    return {math.max(length - held, 0), held, call('ZCARD', keys[2]), oldest}
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
        elseif place then
            here = call('XRANGE', stream, place, place)[1] ~= nil
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

-- KEYS stream index; ARGV cids. Returns 1 for each whose entry is in a worker's hand.
local function held(keys, args)
    check_keys(keys, 2)
    count_of(args, 1, 1)
    local places = call('HMGET', keys[2], unpack(args))
    local flags = {}
    for i, place in ipairs(places) do
        flags[i] = 0
        if place and place ~= PARKED then
            local pending = try('XPENDING', keys[1], GROUP, place, place, 1)
            flags[i] = pending[1] and 1 or 0
        end
    end
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
        end
        return callback(keys, args)
    end
    redis.register_function{function_name = 'hie1_' .. name, callback = run, flags = flags}
end

register('revision', function() return REVISION end, {'no-writes', 'allow-stale'})
register('enqueue', enqueue, {})
register('finish', finish, {'allow-oom'})
register('retry', retry, {'allow-oom'})
register('hand_back', hand_back, {'allow-oom'})
register('renew', renew, {'allow-oom'})
register('promote', promote, {'allow-oom'})
register('bury', bury, {})
register('reply', reply, {})
register('depth', depth, {'no-writes'})
register('missing', missing, {'allow-oom'})
register('held', held, {'no-writes'})
register('heartbeat', heartbeat, {'allow-oom'})
register('leave', leave, {'allow-oom'})
register('tidy', tidy, {'allow-oom'})
