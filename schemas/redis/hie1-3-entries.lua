
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
    cids[count + 1] = STATE
    local known = call('HMGET', index, unpack(cids))
    local ordered = known[count + 1]
    local added, waiting, indexed, seen, placed = 0, 0, {}, {}, {}
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
            if ordered and due == '' then
                placed[#placed + 1], placed[#placed + 2], placed[#placed + 3] = place, at, pri
            end
        end
    end
    if ordered then
        set_state(indexed, place_new(stream, ordered, placed))
    end
    set_index(index, indexed)
    wake(stream, idle, waiting)
    return {call('XLEN', stream) + call('ZCARD', delayed), added}
end

-- ---- what happens to entries in hand ----

-- KEYS stream index; ARGV all entry ids, then their cids in the same order. A message that was driven again meanwhile keeps its place
-- in the index.
local function finish(keys, args)
    check_keys(keys, 2)
    local count = count_of(args, 1, 2)
    local places, ended = call('HMGET', keys[2], unpack(args, count + 1, 2 * count)), {}
    for i, place in ipairs(places) do
        if place == args[i] then
            ended[#ended + 1] = args[count + i]
        end
    end
    local removed = remove(keys[1], {unpack(args, 1, count)})
    if #ended > 0 then
        call('HDEL', keys[2], unpack(ended))
    end
    return removed
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

-- KEYS stream index delayed parked; ARGV consumer, then entry id, cid, due, for each entry. `due` may have the attempts that are over
-- behind it. What has passed into another hand stays there. Programs of revision 5 leave the consumer out.
local function retry(keys, args)
    check_keys(keys, 4)
    local stream, index, delayed, parked = unpack(keys)
    local _, _, pattern = queue_of(stream)
    local first = #args % 3 == 1 and 2 or 1
    count_of(args, first, 3)
    for i = first, #args, 3 do
        check_entry_id(args[i])
        check_id(args[i + 1])
        local due, tries = match(args[i + 2], '^(%d+) ?(%d*)$')
        check_number(due or '', 'due')
        check_number(tries == '' and '0' or tries, 'attempts')
    end
    local gone, indexed, ours = {}, {}, {}
    if first == 2 then
        ours = in_hand(stream, args[1], args, 2, 3)
    else
        for i = 1, #args, 3 do
            ours[#ours + 1] = i
        end
    end
    for _, i in ipairs(ours) do
        local entry_id, cid = args[i], args[i + 1]
        local due, tries = match(args[i + 2], '^(%d+) ?(%d*)$')
        local fields = entry_fields(stream, entry_id)
        if fields then
            local member = pattern .. ':' .. cid
            call('ZADD', delayed, due, member)
            call('HSET', parked, member, cmsgpack.pack(complete(fields, cid, entry_id, tries ~= '' and tries or nil)))
            gone[#gone + 1] = entry_id
            indexed[#indexed + 1] = cid
            indexed[#indexed + 1] = PARKED
        end
    end
    remove(stream, gone)
    set_index(index, indexed)
    return #gone
end

-- KEYS stream index idle; ARGV consumer, then entry id, cid, for each entry. In an ordered queue they go back to their places. Else a
-- copy takes the place of each entry, at the end of the stream, so that an ordinary claim finds it.
local function hand_back(keys, args)
    check_keys(keys, 3)
    local stream, index, idle = unpack(keys)
    count_of(args, 2, 2)
    for i = 2, #args, 2 do
        check_entry_id(args[i])
        check_id(args[i + 1])
    end
    local shape = state_of(call('HGET', index, STATE))
    local gone, again, indexed = {}, {}, {}
    for _, i in ipairs(in_hand(stream, args[1], args, 2, 2)) do
        local entry_id, cid = args[i], args[i + 1]
        local fields = entry_fields(stream, entry_id)
        if fields and shape then
            again[#again + 1] = entry_id
            again[#again + 1] = fields
        elseif fields then
            indexed[#indexed + 1] = cid
            indexed[#indexed + 1] = call('XADD', stream, '*', unpack(complete(fields, cid, entry_id)))
        end
        gone[#gone + 1] = entry_id
    end
    if shape and #gone > 0 then
        place_again(stream, shape, again, function() return '' end)
        call('XACK', stream, GROUP, unpack(gone))
    else
        remove(stream, gone)
    end
    set_index(index, indexed)
    local added = (#again + #indexed) / 2
    wake(stream, idle, added)
    return added
end

-- KEYS stream; ARGV consumer, entry ids: those that are in its hand.
local function held_ids(keys, args)
    check_keys(keys, 1)
    count_of(args, 2, 1)
    for i = 2, #args do
        check_entry_id(args[i])
    end
    local ids = {}
    for _, i in ipairs(in_hand(keys[1], args[1], args, 2, 1)) do
        ids[#ids + 1] = args[i]
    end
    return ids
end

-- KEYS stream; ARGV consumer, entry ids. What has passed into another hand stays there.
local function renew(keys, args)
    local ids = held_ids(keys, args)
    if #ids > 0 then
        ids[#ids + 1] = 'JUSTID'
        call('XCLAIM', keys[1], GROUP, args[1], 0, unpack(ids))
        return #ids - 1
    end
    return 0
end

-- ---- delayed entries, and those of other patterns ----
--[[
Members of all patterns share the zset, so one call serves them all: none can stand in another's way. Once an item's pattern has
changed nobody claims from the streams of those before. What comes there all the same (a message that was delayed for long, a
producer that has not heard of it) `target`, the pattern that the item has, takes over; but not twice what its index knows.
]]

-- An entry for the stream of pattern `to`. `queues`: stream, index, what has to go into the index, into the order, by pattern.
local function put(queues, to, cid, fields)
    local queue = queues[to]
    local id = call('XADD', queue.stream, '*', unpack(fields))
    if cid then
        queue.indexed[#queue.indexed + 1] = cid
        queue.indexed[#queue.indexed + 1] = id
    end
    local n = #queue.placed
    queue.placed[n + 1], queue.placed[n + 2], queue.placed[n + 3] =
        id, field_of(fields, 'at') or '', field_of(fields, 'pri') or ''
end

-- The same, out of the queue of pattern `from`.
local function take_over(queues, from, to, cid, fields)
    local index = queues[to].index
    if cid then
        call('HDEL', queues[from].index, cid)
        if call('HSETNX', index, cid, PARKED) == 0 then
            return 0
        end
    end
    put(queues, to, cid, fields)
    return 1
end

-- What waits in the stream of pattern `from`.
local function gather(queues, from, to)
    local stream, gone, moved = queues[from].stream, {}, 0
    local found = call('XRANGE', stream, '-', '+', 'COUNT', 64)
    local held = try('XPENDING', stream, GROUP).err and {} or held_among(stream, found)
    for _, entry in ipairs(found) do
        local id, fields = entry[1], entry[2]
        if not held[id] then
            local cid = field_of(fields, 'cid')
            local known = cid and find(cid, UUID) and cid
            moved = moved + take_over(queues, from, to, known, complete(fields, cid, id))
            gone[#gone + 1] = id
        end
    end
    remove(stream, gone)
    return moved
end

local function promote_due(queues, delayed, parked, due, target)
    local packed, moved = call('HMGET', parked, unpack(due)), 0
    for i, member in ipairs(due) do
        local pattern, cid = match(member, '^([a-z_]+):(.+)$')
        local fields = packed[i] and cmsgpack.unpack(packed[i])
        if not queues[pattern] then
            -- a person's: it goes
        elseif not fields then
            call('HDEL', queues[pattern].index, cid) -- missing, no longer delayed
        elseif target and target ~= pattern then
            moved = moved + take_over(queues, pattern, target, cid, fields)
        else
            put(queues, pattern, cid, fields)
            moved = moved + 1
        end
    end
    call('ZREM', delayed, unpack(due))
    call('HDEL', parked, unpack(due))
    return moved
end

-- KEYS delayed parked idle, then stream and index of each of the four patterns; ARGV now, most entries to move, target or nothing.
local function promote(keys, args)
    check_keys(keys, 11)
    check_number(args[1] or '', 'now')
    check_number(args[2] or '', 'max')
    local delayed, parked, idle = unpack(keys, 1, 3)
    local queues, target = {}, args[3]
    for i = 4, 11, 2 do
        local _, _, pattern = queue_of(keys[i])
        queues[pattern] = {stream = keys[i], index = keys[i + 1], indexed = {}, placed = {}}
    end
    if target and not queues[target] then
        refuse('no such pattern')
    end
    local most = min(tonumber(args[2]), BATCH_MAX)
    local due = call('ZRANGE', delayed, '-inf', args[1], 'BYSCORE', 'LIMIT', 0, most)
    local moved = #due > 0 and promote_due(queues, delayed, parked, due, target) or 0
    for pattern, queue in pairs(target and queues or {}) do
        if pattern ~= target and call('XLEN', queue.stream) > 0 then
            moved = moved + gather(queues, pattern, target)
        end
    end
    for _, queue in pairs(queues) do
        local added = #queue.placed / 3
        if added > 0 then
            set_state(queue.indexed, place_new(queue.stream, call('HGET', queue.index, STATE), queue.placed))
            set_index(queue.index, queue.indexed)
            wake(queue.stream, idle, added)
        end
    end
    local next_due = call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
    return {moved, next_due and tonumber(next_due) or -1}
end
