
-- ---- fifo: what the owner of a partition does ----
--[[
A partition has one owner, by a lease in PostgreSQL. Entries that an owner hands back stay in their places in the stream and in its
pending list; a delivery time in 1970 says that they were put down, not dropped by one who died.
]]

-- KEYS stream; ARGV consumer, entry ids. What has passed into another hand stays there.
local function put_down(keys, args)
    local ids = held_ids(keys, args)
    if #ids == 0 then
        return 0
    end
    local count = #ids
    for _, word in ipairs({'TIME', 1, 'JUSTID'}) do
        ids[#ids + 1] = word
    end
    call('XCLAIM', keys[1], GROUP, args[1], 0, unpack(ids))
    return count
end

-- KEYS stream; ARGV consumer, most, after (an entry id, or 0-0). Takes what other consumers hold behind `after`, in the stream's order.
-- Returns whether there may be more, the ids of those that were not put down, the ids of all, and where it came to.
local function inherit(keys, args)
    check_keys(keys, 1)
    if #args ~= 3 then
        refuse('takes consumer, most, after')
    end
    check_number(args[2], 'most')
    check_entry_id(args[3])
    local stream, consumer, most, at = keys[1], args[1], min(tonumber(args[2]), BATCH_MAX), args[3]
    local ids, dropped, more = {}, {}, 1
    for _ = 1, 16 do -- pages of what is pending: most of it may be our own
        local pending = try('XPENDING', stream, GROUP, '(' .. at, '+', BATCH_MAX)
        if pending.err and not find(pending.err, '^NOGROUP') then
            error(pending, 0)
        end
        for _, held in ipairs(pending.err and {} or pending) do
            if #ids == most then
                break
            end
            at = held[1]
            if held[2] ~= consumer then
                ids[#ids + 1] = at
                dropped[#dropped + 1] = held[3] < PUT_DOWN and at or nil
            end
        end
        if #ids == most or pending.err or #pending < BATCH_MAX then
            more = #ids == most and 1 or 0
            break
        end
    end
    return {more, dropped, into_hand(stream, consumer, 0, ids), at}
end

-- KEYS deaths; ARGV cids. Counts one more death of a worker that may have run them. Returns how many that makes of each; who is not
-- counted any more is forgotten after a day.
local function count_deaths(keys, args)
    check_keys(keys, 1)
    local deaths = {}
    for i = 1, count_of(args, 1, 1) do
        check_id(args[i])
        deaths[i] = call('HINCRBY', keys[1], args[i], 1)
    end
    call('PEXPIRE', keys[1], 86400000)
    return deaths
end

-- Where an entry to be pulled is: the fields it comes back with when it is not in the stream; else who holds it, and whether he has
-- not put it down.
local function find_pulled(keys, place, member, fields)
    local stream, _, delayed, parked = unpack(keys)
    if place == PARKED then
        local packed = call('HGET', parked, member)
        call('ZREM', delayed, member)
        call('HDEL', parked, member)
        return packed and cmsgpack.unpack(packed) or fields
    elseif not place or not find(place, ENTRY_ID) or not entry_fields(stream, place) then
        return fields
    end
    local held = call('XPENDING', stream, GROUP, place, place, 1)[1]
    return nil, held and held[2], held and held[3] < PUT_DOWN
end

-- KEYS stream index delayed parked idle; ARGV consumer, then for each what hie1_enqueue takes. Puts these into the consumer's hand, from
-- wherever they are; adds what the queue lacks. The group's last entry stays: a later claim may deliver them once more. Returns 0,
-- the ids of those that another held and had not put down, the ids of all: what is in its hand already may be there by a call whose
-- answer was lost.
local function pull(keys, args)
    check_keys(keys, 5)
    local pattern = check_family(keys)
    local stream, index = keys[1], keys[2]
    local consumer, count = args[1], count_of(args, 2, 7)
    local cids = {}
    for i = 1, count do
        check_entry(args, i * 7 - 5)
        cids[i] = args[i * 7 - 5]
    end
    call('XPENDING', stream, GROUP) -- no group: before anything is done
    local places = call('HMGET', index, unpack(cids))
    local ids, dropped, indexed, seen = {}, {}, {}, {}
    for i, cid in ipairs(cids) do
        if not seen[cid] then
            seen[cid] = true
            local at, _, pri, key, meta, body = unpack(args, i * 7 - 4, i * 7 + 1)
            local id = places[i]
            local lacks, holder, is_dropped =
                find_pulled(keys, id, pattern .. ':' .. cid, entry_from(cid, at, pri, key, meta, body))
            if lacks then
                id = call('XADD', stream, '*', unpack(lacks))
                indexed[#indexed + 1] = cid
                indexed[#indexed + 1] = id
            end
            ids[#ids + 1] = id
            dropped[#dropped + 1] = is_dropped and holder ~= consumer and id or nil
        end
    end
    set_index(index, indexed)
    return {0, dropped, into_hand(stream, consumer, 0, ids)}
end
