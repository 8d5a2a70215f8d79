
-- ---- the order of priority and lifo ----
--[[
What waits in a priority or lifo queue stands in a zset beside its stream. An entry is in somebody's hand (the group's pending
list) or in the zset, never in both for long: a claim takes nothing that is in a hand, whatever the zset says, and drops what is
gone from the stream. So the zset may hold too much, and too little only behind the state's last entry.

The state, "<shape> <last entry that was looked at>", is written by the first claim. From then on what moves entries puts them in
their places at once; what came past the Functions (a raw XADD) is found by the next claim, which looks at what follows the
last entry. A claim of another shape begins anew from the stream's start, in steps: nothing is claimed before all are in place,
or a lower message would be claimed while a higher one waits.

A shape is "priority <ageing in ms>" or "lifo 0".
]]
local AT_MAX = 2 ^ 44 - 1
local STEP, STEP_BYTES = 1000, 4 * 1024 * 1024 -- of one call, about
local MARK = '!' -- behind a member: it was in the hand of one who fell silent
local BUSY = 9e15 -- an idle time that no entry in a hand has: XCLAIM takes those that are in none
local PUT_DOWN = 1e12 -- put down entries were delivered in 1970, as it were: see hie1-4-fifo.lua
local ID_MAX = '18446744073709551615'

local function order_of(stream)
    return stream .. ':order'
end

-- "1767225600000-12" as "m1767225600000-b12": a letter for the length of each number, so that members of one score stand in the
-- stream's order.
local function member_of(id)
    local ms, number = match(id, '^(%d+)%-(%d+)$')
    return char(96 + #ms) .. ms .. '-' .. char(96 + #number) .. number
end

local function is_number(digits)
    return #digits < #ID_MAX or #digits == #ID_MAX and digits <= ID_MAX
end

-- The entry's id, and the mark or ''; nothing when a person wrote the member.
local function entry_of(member)
    local ms, number, mark = match(member, '^%l(%d+)%-%l(%d+)(!?)$')
    if ms and is_number(ms) and is_number(number) then
        return ms .. '-' .. number, mark
    end
end

-- Shape and last entry, or nothing.
local function state_of(value)
    return match(value or '', '^(%l+ %d+) (%d+%-%d+)$')
end

-- A function of id, at and pri of an entry: its score. Lowest first; lifo: highest first.
local function scorer(shape)
    local word, ageing = match(shape, '^(%l+) (%d+)$')
    ageing = tonumber(ageing)
    return function(id, at, pri)
        local ms = tonumber(at and #at < 16 and match(at, '^%d+$') or match(id, '^%d+'))
        local level = tonumber(pri and match(pri, '^%d$') or 0)
        ms = min(ms, AT_MAX)
        if word == 'lifo' then
            return ms
        elseif ageing > 0 then
            return ms - level * ageing -- what waits ages at one speed, so that the order of two never changes
        end
        return (9 - level) * 2 ^ 44 + ms
    end
end

-- Puts new entries in their places where the queue is known to be ordered and nothing before them waits for that. `entries`: id, at,
-- pri of each. Returns the new state, or nil.
local function place_new(stream, state, entries)
    local shape, last = state_of(state)
    local next_one = shape and #entries > 0 and call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
    if not next_one or next_one[1] ~= entries[1] then
        return nil
    end
    local score, places = scorer(shape), {}
    for i = 1, #entries, 3 do
        places[#places + 1] = score(entries[i], entries[i + 1], entries[i + 2])
        places[#places + 1] = member_of(entries[i])
        last = entries[i]
    end
    call('ZADD', order_of(stream), unpack(places))
    return shape .. ' ' .. last
end

-- Puts entries that wait again in their places, each with the mark or ''. `entries`: id, fields of each.
local function place_again(stream, shape, entries, mark_of)
    local score, places = scorer(shape), {}
    for i = 1, #entries, 2 do
        local id, fields = entries[i], entries[i + 1]
        places[#places + 1] = score(id, (field_of(fields, 'at')), (field_of(fields, 'pri')))
        places[#places + 1] = member_of(id) .. mark_of(id)
    end
    if #places > 0 then
        call('ZADD', order_of(stream), unpack(places))
    end
end

local function unplace(stream, ids)
    local members = {}
    for _, id in ipairs(ids) do
        local member = find(id, ENTRY_ID) and member_of(id) or id
        members[#members + 1] = member
        members[#members + 1] = member .. MARK
    end
    call('ZREM', order_of(stream), unpack(members))
end

-- Takes entries out of the group and the stream. What was in no hand may be in the order.
local function remove(stream, ids)
    if #ids == 0 then
        return 0
    end
    local acked = call('XACK', stream, GROUP, unpack(ids))
    local removed = call('XDEL', stream, unpack(ids))
    if acked < #ids then
        unplace(stream, ids)
    end
    return removed
end

-- The bytes of an entry's values, about.
local function size_of(fields)
    local size = 0
    for i = 2, min(#fields, 64), 2 do
        size = size + #fields[i]
    end
    return size
end

-- Which of the entries that XRANGE found are in a hand: by id.
local function held_among(stream, found)
    local held = {}
    for _, pending in ipairs(call('XPENDING', stream, GROUP, found[1][1], found[#found][1], #found)) do
        held[pending[1]] = true
    end
    return held
end

-- Of what follows `last` in the stream, puts in place what is in no hand. Returns the last entry it looked at, and whether it went
-- through to the end.
local function catch_up(stream, shape, last)
    local score, entries, bytes = scorer(shape), 0, 0
    while entries < STEP and bytes < STEP_BYTES do
        local found = call('XRANGE', stream, '(' .. last, '+', 'COUNT', 64)
        if #found == 0 then
            return last, true
        end
        local held, places = held_among(stream, found), {}
        for _, entry in ipairs(found) do
            local id, fields = entry[1], entry[2]
            if not held[id] then
                places[#places + 1] = score(id, (field_of(fields, 'at')), (field_of(fields, 'pri')))
                places[#places + 1] = member_of(id)
            end
            bytes = bytes + size_of(fields)
        end
        if #places > 0 then
            call('ZADD', order_of(stream), unpack(places))
        end
        entries = entries + #found
        last = found[#found][1]
    end
    return last, false
end

-- Brings the order up to date for a claim of `shape`; nil: of a queue without one, whose order, if it had one, is as it was. Returns
-- the shape to claim by, the last entry, and whether all are in place.
local function settle_order(stream, index, shape)
    local value = call('HGET', index, STATE)
    local known, last = state_of(value)
    if not shape and not known then
        return nil, nil, true
    end
    if shape and shape ~= known then
        call('UNLINK', order_of(stream))
        last = '0-0'
    end
    local whole
    last, whole = catch_up(stream, shape or known, last)
    if not shape and whole then
        -- All to here are in a hand or in the order, which is emptied first; what comes behind goes the plain way.
        call('XGROUP', 'SETID', stream, GROUP, last)
        call('HDEL', index, STATE)
    elseif value ~= (shape or known) .. ' ' .. last then
        call('HSET', index, STATE, (shape or known) .. ' ' .. last)
    end
    return shape or known, last, whole
end

-- Into the consumer's hand, as far as they are in the stream; returns the ids of those. The caller reads the entries with an XCLAIM of his
-- own: as a result of a Function each would cost 5 µs, through Lua's tables and back, and so it costs 1.5.
local function into_hand(stream, consumer, least_idle, ids, last)
    if #ids == 0 then
        return ids
    end
    ids[#ids + 1] = 'FORCE'
    ids[#ids + 1] = 'JUSTID'
    if last then
        ids[#ids + 1] = 'LASTID' -- or a later XREADGROUP hands out what is in a hand
        ids[#ids + 1] = last
    end
    return call('XCLAIM', stream, GROUP, consumer, least_idle, unpack(ids))
end

-- The first `count` entries of the order into the consumer's hand. Returns their ids, those with a mark, and whether that is all there
-- are up to `count`.
local function take(stream, consumer, count, newest_first, last)
    local order, taken, marked = order_of(stream), {}, {}
    for _ = 1, 8 do -- members whose entry is gone or in a hand cost a round
        local most = count - #taken
        local members = newest_first and call('ZRANGE', order, 0, most - 1, 'REV') or
            call('ZRANGE', order, 0, most - 1)
        if #members == 0 then
            return taken, marked, true
        end
        local ids = {}
        for _, member in ipairs(members) do
            local id, mark = entry_of(member)
            ids[#ids + 1] = id
            if mark == MARK then
                marked[#marked + 1] = id
            end
        end
        ids = into_hand(stream, consumer, BUSY, ids, last)
        if newest_first then
            call('ZREMRANGEBYRANK', order, -#members, -1)
        else
            call('ZREMRANGEBYRANK', order, 0, #members - 1)
        end
        for _, id in ipairs(ids) do
            taken[#taken + 1] = id
        end
        if #taken == count then
            return taken, marked, true
        end
    end
    return taken, marked, false
end

-- KEYS stream index idle; ARGV consumer, count, wait (1 or empty), type (priority, lifo; empty: what an order holds that the queue
-- had once), ageing. Returns whether to call again at once, the ids of taken over entries, the ids of all that are in its hand now.
local function claim(keys, args)
    check_keys(keys, 3)
    local stream, index, idle = unpack(keys)
    queue_of(stream)
    if #args ~= 5 then
        refuse('takes consumer, count, wait, type, ageing')
    end
    local consumer, wait, word, ageing = args[1], args[3], args[4], args[5]
    check_number(args[2], 'count')
    check_number(ageing, 'ageing')
    local count = tonumber(args[2])
    if count < 1 or count > BATCH_MAX or (word ~= '' and word ~= 'priority' and word ~= 'lifo') then
        refuse('count is not 1 to ' .. BATCH_MAX .. ', or no such type')
    end
    local wanted = word ~= '' and word .. ' ' .. match(ageing, '^0*(%d+)$') or nil
    local shape, last, whole = settle_order(stream, index, wanted)
    if not whole then
        return {1, {}, {}}
    end
    local newest_first = shape and find(shape, '^lifo') ~= nil
    local taken, marked, all = take(stream, consumer, count, newest_first, wanted and last)
    if not all then
        return {1, marked, taken}
    end
    if #taken < count then
        local pending = call('XPENDING', stream, GROUP)[1]
        if wanted and call('XLEN', stream) > pending then -- somebody deleted the order
            call('HSET', index, STATE, wanted .. ' 0-0')
            return {1, marked, taken}
        elseif wait ~= '' then
            try('SADD', idle, consumer)
        end
    end
    return {0, marked, taken}
end

-- KEYS stream index idle; ARGV idle time, most. Entries that were in a hand for so long without renewal go back into the order, with
-- the mark. A queue without an order has XAUTOCLAIM.
local function recover(keys, args)
    check_keys(keys, 3)
    check_number(args[1] or '', 'idle')
    check_number(args[2] or '', 'most')
    local stream, index, idle = unpack(keys)
    queue_of(stream)
    local shape = state_of(call('HGET', index, STATE))
    if not shape then
        return 0 -- the next claim makes it
    end
    local most = min(tonumber(args[2]), BATCH_MAX)
    local pending = try('XPENDING', stream, GROUP, 'IDLE', args[1], '-', '+', most)
    if pending.err then
        return find(pending.err, '^NOGROUP') and 0 or error(pending, 0)
    end
    local ids, entries, marks = {}, {}, {}
    for i, held in ipairs(pending) do
        ids[i] = held[1]
        marks[held[1]] = held[3] < PUT_DOWN and MARK or ''
        local fields = entry_fields(stream, held[1])
        if fields then
            entries[#entries + 1] = held[1]
            entries[#entries + 1] = fields
        end
    end
    place_again(stream, shape, entries, function(id) return marks[id] end)
    if #ids > 0 then
        call('XACK', stream, GROUP, unpack(ids))
    end
    wake(stream, idle, #entries / 2)
    return #entries / 2
end
