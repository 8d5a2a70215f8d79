#!lua name=hie1
--[[
Redis Functions of the queues, version 1 of their interface. What keys hold, arguments, results and examples: redis.md in the
folder above. The library is the files hie1-*.lua, one behind the other: this head, the order of priority and lifo, what happens
to entries, fifo, what stands beside the queue.

Rules that hold for all of them:
- Arguments are checked before the first write: what fails afterwards is a key of the wrong type, and that shows at the first
  command as well.
- A repeat is harmless: every function asks first whether its work is done already.
- All keys are in KEYS and share one hash tag, but for the order, `<stream>:order`: a producer does not know whether there is one.
  At most 256 entries a call.
- Few commands a call: look-ups and index writes go over the whole batch, only XADD goes entry by entry.
- Functions that free memory, or move what is there, may run when maxmemory is reached (allow-oom).

REVISION rises with every change of this text that keeps the interface. A program loads its own text where the server has none
or an older one, and looks again every two seconds. So programs of several revisions run side by side: what one of them calls
stays, with its arguments. An incompatible change gets the name hie2 and lives beside this one.
]]
local REVISION = 7
local GROUP = 'workers'
local BATCH_MAX = 256
local DEAD_MAX = 1000
local BODY_MAX = 65536 -- larger ones stand in PostgreSQL alone
local PARKED = 'delayed' -- in the index in place of an entry id
local PATTERNS = {async_reliable = true, sync_reliable = true, concurrent_async = true, concurrent_sync = true}

-- Lua's globals are there for running functions only, not while the library loads: see register.
local call, try, unpack, find, match, lower, char, min
local UUID = '^' .. ('%x'):rep(8) .. '%-' .. (('%x'):rep(4) .. '%-'):rep(3) .. ('%x'):rep(12) .. '$'
local ENTRY_ID = '^%d+%-%d+$'

local STATE = ':order' -- a field of the index: no cid begins with a colon

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
-- the time that it was given, also when a person had left them out; `cid` nil: it has none yet.
local KEPT = {'pri', 'key', 'meta', 'body', 'try'}
local function complete(fields, cid, entry_id, tries)
    local kept = cid and {'cid', cid} or {}
    kept[#kept + 1] = 'at'
    kept[#kept + 1] = field_of(fields, 'at') or match(entry_id, '^%d+')
    for _, name in ipairs(KEPT) do
        local value = name == 'try' and tries or field_of(fields, name)
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

-- The order's state goes into the index with the entries.
local function set_state(pairs_, state)
    if state then
        pairs_[#pairs_ + 1] = STATE
        pairs_[#pairs_ + 1] = state
    end
end

local function set_index(index, pairs_)
    if #pairs_ > 0 then
        call('HSET', index, unpack(pairs_))
    end
end
